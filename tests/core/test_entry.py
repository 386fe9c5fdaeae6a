"""Catalogs and the specs that build from them."""

import re
from dataclasses import dataclass

import pytest

from besiege.core.entry import Catalog, Entry, parse_spec, parse_value
from besiege.core.errors import BadSetting, UnknownName


@dataclass(frozen=True)
class Blur:
    """Blurs.

    More about it.
    """

    size: int = 3
    strength: float = 0.5

    def __post_init__(self) -> None:
        if self.size % 2 == 0:
            raise ValueError(f"size must be odd, got {self.size}")


CATALOG: Catalog[Blur] = Catalog("transform", [Entry("blur", Blur, "house")])


def test_a_spec_builds_with_its_parameters():
    assert CATALOG.build("blur:size=5,strength=1/4") == Blur(5, 0.25)
    assert CATALOG.build(" blur ") == Blur()


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("blurr", UnknownName, 'Unknown transform: "blurr". Did you mean "blur"?'),
        ("blur:sise=5", UnknownName, 'transform blur: "sise". Did you mean "size"?'),
        ("blur:size=4", BadSetting, "size must be odd, got 4"),
        ("blur:size", BadSetting, '"size" in "blur:size" is not key=value'),
    ],
)
def test_a_bad_spec_says_what_is_wrong_and_names_the_nearest(spec, error, says):
    with pytest.raises(error, match=re.escape(says)):
        CATALOG.build(spec)


def test_two_entries_of_one_name_are_refused():
    with pytest.raises(BadSetting, match='Two transforms are named "blur"'):
        CATALOG.extended([Entry("blur", Blur, "a plugin")])


def test_extending_leaves_the_catalog_as_it_was():
    more = CATALOG.extended([Entry("other", Blur, "a plugin")])
    assert list(more) == ["blur", "other"]
    assert list(CATALOG) == ["blur"]


def test_an_entry_describes_itself():
    assert CATALOG["blur"].summary == "Blurs."
    assert CATALOG["blur"].parameters == {"size": 3, "strength": 0.5}


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("3", 3), ("1e-3", 1e-3), ("8/255", 8 / 255), ("1/0", "1/0"), ("a/b", "a/b")],
)
def test_values_are_read_as_what_they_look_like(text, value):
    assert parse_value(text) == value


def test_a_path_may_stand_in_a_spec():
    assert parse_spec("packed:path=../a b.npz") == ("packed", {"path": "../a b.npz"})
