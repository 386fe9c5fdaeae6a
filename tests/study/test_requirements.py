"""Requirements of a gate: their grammar, its complaints, and what decides them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from besiege.core.errors import BadSetting, BesiegeError, UnknownName
from besiege.core.power import images_to_decide
from besiege.core.stats import wilson
from besiege.study.gate.readings import READERS
from besiege.study.gate.requirements import (
    QUANTITIES,
    Measured,
    On,
    Requirement,
    Verdict,
    ball_title,
    decide,
    parse_requirement,
)

WHERES = {
    "robust": ["", "linf:8/255", "linf:eps=0.03", "l2:0.5", "box:eps=0.3,low=0.2,high=0.8"],
    "gap": ["", "rms:0.05", "l0:10"],
    "clean": [""],
    "corrupted": ["", "jpeg", "shot-noise"],
    "latency": ["", "1", "32"],
    "overhead": ["", "8"],
    "findings": ["", "STOP", "NOTE"],
}


@st.composite
def requirements(draw):
    name = draw(st.sampled_from(sorted(QUANTITIES)))
    kind = QUANTITIES[name]
    suffix = draw(st.sampled_from(sorted(kind.unit.suffixes)))
    most = min(kind.unit.high / kind.unit.suffixes[suffix], 1e9)
    value = draw(st.floats(max(kind.unit.low, 0), most, allow_subnormal=False))
    goal = draw(st.sampled_from(["", "targeted", "untargeted"])) if kind.aimed else ""
    operator = draw(st.sampled_from([">=", "<=", ">", "<"]))
    where = draw(st.sampled_from(WHERES[name]))
    return Requirement(name, operator, value, suffix, where, goal)


@given(requirements())
def test_what_is_written_is_read_again(requirement):
    assert parse_requirement(str(requirement)) == requirement


@given(requirements(), st.text(alphabet=" ", max_size=2))
def test_blanks_do_not_count(requirement, blank):
    text = str(requirement)
    for sign in (">=", "<=") if "=" in requirement.operator else (">", "<"):
        text = text.replace(sign, f"{blank}{sign}{blank}")
    assert parse_requirement(f"{blank}{text}{blank}") == requirement


@given(st.text())
def test_any_text_is_refused_in_a_sentence(text):
    with pytest.raises(BesiegeError, match=r"expected QUANTITY|Unknown quantity"):
        parse_requirement(text)


def test_every_quantity_is_read_and_has_a_reader():
    assert set(READERS) == set(QUANTITIES) == set(WHERES)


def test_the_spellings_of_a_threat():
    spellings = ("linf:8/255", "linf:eps=8/255", "linf 8/255", "linf : eps = 8/255")
    found = [parse_requirement(f"robust@{s}:targeted>=30%") for s in spellings]
    assert {ball_title(r.where) for r in found} == {"linf 8/255"}
    assert {r.goal for r in found} == {"targeted"}
    assert parse_requirement("robust@untargeted>=30%").where == ""
    assert ball_title("box:low=0.2,high=0.8") == "box 0.2..0.8"


def test_bounds_in_every_unit():
    bounds = {
        "robust>=30%": 0.3,
        "robust≥0.3": 0.3,
        "clean>=57%": 0.57,
        "gap<=-5%": -0.05,
        "latency<=50ms": 0.05,
        "latency<2s": 2.0,
        "latency<=50us": 5e-5,
        "overhead<=1.5x": 1.5,
        "overhead<=2": 2.0,
        "findings<=0": 0.0,
    }
    assert {text: parse_requirement(text).bound for text in bounds} == pytest.approx(
        bounds, rel=1e-15
    )
    assert parse_requirement("clean>=57%").bound == 0.57


WRONG = [
    ("robust", BadSetting, "in quotes, since a shell"),
    ("robust=30%", BadSetting, "expected QUANTITY"),
    ("robust>=30%>=2", BadSetting, "expected QUANTITY"),
    ("robst>=30%", UnknownName, 'Did you mean "robust"?'),
    ("robust>=30", BadSetting, 'write "30%" or "0.3"'),
    ("robust>=130%", BadSetting, "a share, 0 to 1"),
    ("clean>=", BadSetting, '"" is not a share'),
    ("clean@jpeg>=30%", BadSetting, "clean takes nothing after it, got @jpeg; these do: robust"),
    ("corrupted@jpg>=30%", UnknownName, 'Did you mean "jpeg"?'),
    ("corrupted@>=30%", UnknownName, 'Unknown corruption: ""'),
    ("latency<=50", BadSetting, 'write "50ms"'),
    ("latency<=nan", BadSetting, "not a time"),
    ("latency<=1e999s", BadSetting, "not a time"),
    ("latency@0<=5ms", BadSetting, '"0" is no size of a batch'),
    ("findings@FATAL<=0", UnknownName, "Valid: NOTE, STOP, WARN"),
    ("robust@linff:0.1>=30%", UnknownName, 'Did you mean "linf"?'),
    ("robust@linf>=30%", BadSetting, 'no radius here: write "linf:eps=RADIUS"'),
    ("robust@linf:8>=30%", BadSetting, 'write "8/255"'),
    ("robust@linf:0.1:target>=30%", UnknownName, 'Did you mean "targeted"?'),
    ("latency@1:targeted<=5ms", BadSetting, "no size of a batch"),
]


@pytest.mark.parametrize(("text", "kind", "says"), WRONG, ids=[text for text, *_ in WRONG])
def test_what_is_wrong_is_said(text, kind, says):
    with pytest.raises(kind) as error:
        parse_requirement(text)
    assert says in str(error.value)
    assert text in str(error.value)


CASES = [
    ("robust>=30%", (0.35, 0.31, 0.4), "PASS", "PASS"),
    ("robust>=30%", (0.30, 0.30, 0.30), "PASS", "PASS"),
    ("robust>30%", (0.30, 0.30, 0.30), "FAIL", "FAIL"),
    ("robust>=30%", (0.35, 0.29, 0.4), "UNDECIDED", "PASS"),
    ("robust>=30%", (0.25, 0.20, 0.31), "UNDECIDED", "FAIL"),
    ("robust>=30%", (0.25, 0.20, 0.29), "FAIL", "FAIL"),
    ("latency<=50ms", (0.04, 0.03, 0.05), "PASS", "PASS"),
    ("latency<50ms", (0.04, 0.03, 0.05), "UNDECIDED", "PASS"),
    ("latency<=50ms", (0.04, 0.03, 0.06), "UNDECIDED", "PASS"),
    ("latency<=50ms", (0.06, 0.051, 0.07), "FAIL", "FAIL"),
    ("latency<=50ms", (0.04, 0.03, math.inf), "UNDECIDED", "PASS"),
    ("findings<=0", (1, 1, 1), "FAIL", "FAIL"),
    ("robust>=30%", (math.nan, math.nan, math.nan), "REFUSED", "REFUSED"),
]


@pytest.mark.parametrize(("text", "figures", "interval", "estimate"), CASES)
def test_the_interval_decides_or_the_estimate(text, figures, interval, estimate):
    requirement, measured = parse_requirement(text), Measured(*figures, n=10)
    assert decide(requirement, measured) == Verdict(interval)
    assert decide(requirement, measured, On.ESTIMATE) == Verdict(estimate)


@given(st.floats(0, 1), st.floats(0.01, 0.99), st.integers(5, 200))
def test_decisions_agree_with_the_interval(share, bound, n):
    found = wilson(round(share * n), n)
    verdict = decide(Requirement("robust", ">=", bound), Measured(*found, n=n))
    inside = found.low < bound <= found.high
    assert (verdict is Verdict.UNDECIDED) == inside
    below = decide(Requirement("robust", "<", bound), Measured(*found, n=n))
    opposite = {Verdict.PASS: Verdict.FAIL, Verdict.FAIL: Verdict.PASS}
    assert below == opposite.get(verdict, verdict)


@given(st.integers(1, 99), st.integers(1, 99))
def test_with_the_images_that_decide_the_interval_excludes_the_bound(percent, bound):
    share = percent / 100
    need = images_to_decide(share, bound / 100)
    if percent == bound:
        assert need is None
        return
    found = wilson(share * need, need)
    assert not found.low < bound / 100 < found.high
    few = int(1.95**2 * bound * (100 - bound) / (percent - bound) ** 2)
    if few:
        fewer = wilson(share * few, few)
        assert few <= need
        assert fewer.low < bound / 100 < fewer.high


def test_the_images_that_decide_have_the_power_they_say():
    from scipy.stats import binom

    for share, bound in ((0.35, 0.3), (0.9, 0.8), (0.5, 0.6)):
        n = images_to_decide(share, bound)
        counts = [k for k in range(n + 1) if not wilson(k, n).low < bound < wilson(k, n).high]
        assert binom.pmf(counts, n, share).sum() == pytest.approx(0.8, abs=0.03)


def test_shares_out_of_range_have_no_number():
    with pytest.raises(BadSetting):
        images_to_decide(1.2, 0.5)
