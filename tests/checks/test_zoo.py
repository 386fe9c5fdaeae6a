"""Each broken defense is named by its check, and sound ones get no STOP."""

import pytest
import torch

from besiege.attacks.threat import Linf, Threat
from besiege.checks.finding import STOP
from besiege.data.catalog import load_images
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.broken import BROKEN, CONTROLS, digits
from besiege.models.catalog import load_model
from besiege.study.doctor.doctor import doctor


@pytest.mark.parametrize("item", BROKEN, ids=lambda item: item.name)
def test_the_broken_one_is_named(item):
    found = {finding.number for finding in item.ask(0)}
    assert set(item.checks) <= found


def test_any_seed_has_digits():
    """The set has 445: the eighth seed of 64 takes the first ones again."""
    x, y = digits(64, 7)
    assert len(x) == len(y) == 64
    assert torch.equal(x[-1], digits(1, 511 - 445)[0][0])


@pytest.mark.parametrize("item", CONTROLS, ids=lambda item: item.name)
def test_the_sound_one_passes(item):
    assert [str(f) for f in item.ask(0) if f.level == STOP] == []


def test_a_trained_network_passes(shared):
    """Adversarially trained: true gradients, a ball that is hard to leave."""
    folder = shared / "data"
    model = load_model(f"file:{folder / 'cifar10_resnet20_adv.safetensors'}")
    x, y, _ = load_images(f"packed:path={folder / 'cifar10_test_subset.npz'}").take(range(8))
    found = doctor(Defense(Chain(), model), x, y, threat=Threat(Linf(8 / 255)))
    assert [str(f) for f in found if f.level == STOP] == []


def test_nobody_moves_the_global_generator():
    before = torch.get_rng_state()
    BROKEN[0].ask(1)
    assert torch.equal(before, torch.get_rng_state())
