"""Objects are named by what they hold: by weights, code and settings, and never by addresses."""

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import besiege
from besiege.defenses.adversarial_transformation import AdversarialTransformation
from besiege.defenses.opaque import Opaque
from besiege.defenses.transform import Chain, Graft, Named
from besiege.laws.problems import linear_classifier
from besiege.study.content import content

PROGRAM = """
import torch
from torch import nn
from besiege.defenses.adversarial_transformation import AdversarialTransformation
from besiege.defenses.transform import Chain
from besiege.study.content import content
with torch.device("meta"):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
net.load_state_dict(
    {"1.weight": torch.arange(48.0).reshape(3, 16), "1.bias": torch.full((3,), 0.5)}, assign=True
)
print(content(Chain((AdversarialTransformation(net.eval(), delta=0.1),))))
"""


def network(bias: float, weights: float = 1.0) -> nn.Module:
    with torch.device("meta"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    state = {
        "1.weight": weights * torch.arange(48.0).reshape(3, 16),
        "1.bias": torch.full((3,), bias),
    }
    net.load_state_dict(state, assign=True)
    return net.eval()


def attacked(net: nn.Module, delta: float = 0.1) -> Chain:
    return Chain((AdversarialTransformation(net, delta=delta),))


def test_equal_weights_are_one_thing_here_and_in_another_process() -> None:
    one = content(attacked(network(0.5)))
    assert one == content(attacked(network(0.5)))
    other = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == one
    assert "0x" not in one


def test_other_weights_or_settings_are_another() -> None:
    assert repr(network(0.5)) == repr(network(0.25))  # by which they would be the same
    names = [
        content(attacked(network(0.5))),
        content(attacked(network(0.25))),
        content(attacked(network(0.5, weights=2))),
        content(attacked(network(0.5), delta=0.2)),
        content(attacked(network(0.5).double())),
        content(Graft(attacked(network(0.5)))),
        content(Named(attacked(network(0.5)), "other")),
    ]
    assert len(set(names)) == len(names)


class Scale(nn.Module):
    """A setting that is no weight."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def by(factor: float) -> Opaque:
    return Opaque(lambda image: factor * image, is_random=False)


class Filter:
    def __init__(self, share: float) -> None:
        self.share, self.me = share, self  # which goes round in a circle

    def __call__(self, image: Tensor) -> Tensor:
        return self.share * image


@dataclass(frozen=True)
class Held:
    what: object


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (Scale(0.5), Scale(0.5), Scale(0.25)),
        (nn.ReLU(), nn.ReLU(), nn.Tanh()),
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
        (by(0.5), by(0.5), by(0.25)),
        (lambda x: 2 * x, lambda x: 2 * x, lambda x: 3 * x),
        (partial(torch.clamp, min=0), partial(torch.clamp, min=0), partial(torch.clamp, min=1)),
        (Filter(0.5), Filter(0.5), Filter(0.25)),
        (Filter(0.5).__call__, Filter(0.5).__call__, Filter(0.25).__call__),
        (torch.zeros(2), torch.zeros(2), torch.zeros(1, 2)),
        (np.arange(4), np.arange(4), np.arange(4.0)),
        (torch.ones(2).bfloat16(), torch.ones(2).bfloat16(), torch.zeros(2).bfloat16()),
        (Held({"a", "b"}), Held({"b", "a"}), Held({"a", "c"})),
        (Held({"a": 1, "b": 2}), Held({"b": 2, "a": 1}), Held({"a": 2, "b": 1})),
        (object(), object(), Held(object())),
    ],
)
def test_names_follow_the_content(one: object, same: object, other: object) -> None:
    assert content(one) == content(same)
    assert content(one) != content(other)
    assert "0x" not in content(one)


def around(image: Tensor) -> Tensor:
    return neighbour(image)


def neighbour(image: Tensor) -> Tensor:
    return FILTER(image)  # type: ignore[no-any-return]


FILTER: nn.Module = Scale(0.5)


def test_what_a_function_reads_of_its_module_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(Opaque(around, is_random=False))
    monkeypatch.setattr(sys.modules[__name__], "FILTER", Scale(0.25))
    assert content(Opaque(around, is_random=False)) != before
    monkeypatch.setattr(sys.modules[__name__], "FILTER", Scale(0.5))
    assert content(Opaque(around, is_random=False)) == before


def test_functions_that_name_each_other_end() -> None:
    def down(n: int) -> int:
        return down(n - 1) if n else later

    assert content(down) == content(down)
    later = 0
    assert down(2) == later


def cells(folder: Path, net: nn.Module) -> set[str]:
    """The cells of a run folder after `evaluate`."""
    classifier = linear_classifier(3, (1, 4, 4))
    defense = besiege.Defense(attacked(net), classifier)
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 1])
    besiege.evaluate(defense, x, y, besiege.Linf(0.1), recipes=["none"], draws=2, out=folder)
    found = json.loads((folder / "resolved.json").read_text())
    return {cell["cell"] for cell in found["cells"]}


def test_a_run_in_memory_resumes_by_weights(tmp_path: Path) -> None:
    first = cells(tmp_path / "run", network(0.5))
    assert cells(tmp_path / "run", network(0.5)) == first
    assert cells(tmp_path / "another", network(0.25)).isdisjoint(first)
