"""Planted adversarial examples: sound attacks find them, luck and masked gradients do not."""

import numpy as np
import pytest
import torch
from torch import nn

import besiege
from besiege.defenses.noise import Noise
from besiege.laws.broken import THREAT, behind, digits
from besiege.laws.broken_links import Claiming, coarse, misled, modelled
from besiege.study.doctor.doctor import RECIPE
from besiege.study.doctor.planted import evidence_of, last_linear, planted

N = 8


@pytest.mark.parametrize("links", [(), (Noise(scale=0.1, clip=True),)], ids=["none", "noise"])
def test_a_sound_attack_finds_them_and_luck_does_not(links):
    x, _ = digits(N, 0)
    found = evidence_of(behind(*links), x, THREAT, RECIPE, 0, 32)
    assert len(found.won) >= N - 2
    assert found.won.all()
    assert not found.luck.any()


def test_a_masked_gradient_does_not():
    x, _ = digits(N, 0)
    (told,) = planted(behind(Claiming(coarse, misled)), x, threat=THREAT)
    assert (told.number, told.level) == (27, "STOP")
    assert told.figure < 0.5


def test_a_head_sees_what_the_last_layer_sees():
    """Its features times the layer's own weights are the logits."""
    classifier = besiege.load_model("digits-cnn")
    layer = last_linear(classifier)
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    logits = classifier(digits(2, 0)[0])
    handle.remove()
    own = seen[0] @ layer.weight.T + layer.bias
    assert np.allclose(own.detach(), logits.detach(), atol=1e-5)


def test_a_network_without_such_a_layer_is_not_asked():
    x, _ = digits(N, 0)
    flat = modelled(nn.Sequential(nn.Flatten(), nn.Linear(1024, 10), nn.Linear(10, 12), Cut()))
    assert last_linear(flat) is None
    assert planted(behind(model=flat), x, threat=THREAT) == []


class Cut(nn.Module):
    """The first ten."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :10]
