"""Stages inside a classifier: their numbers, and how they come by keys."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from besiege.attacks.threat import Linf, Threat
from besiege.core.errors import BadModel, BadSetting, UnknownName
from besiege.core.key import Key
from besiege.core.passes import passing
from besiege.defenses.defense import STAGES, Defense, Mean
from besiege.defenses.transform import Chain
from besiege.laws.problems import linear_classifier
from besiege.models.classifier import Classifier
from besiege.models.precision import in_precision
from besiege.models.stages import ActivationPruning, Noise, Thermometer
from besiege.study.judge import Judging, judge
from besiege.study.recipes import RECIPES
from besiege.study.siege import Siege
from besiege.study.soundness import check_classifier

KEY = Key.root(3, range(6))
X = KEY.fold("x").uniform(1, 4, 4)


def behind(*stages: nn.Module) -> Classifier:
    """The linear network of the laws with stages in front."""
    network = nn.Sequential(*stages, *linear_classifier().network.children())
    return Classifier(network, 3, name="staged", channels=1).eval()


@pytest.fixture
def noisy() -> Defense:
    return Defense(Chain(), behind(Noise(0.2)))


@pytest.mark.shared
def test_the_thermometer_is_the_recorded_one(shared: Path) -> None:
    folder = shared / "golden" / "p0"
    with np.load(folder / "thermometer.npz") as golden, np.load(folder / "inputs.npz") as inputs:
        i, j, c = np.indices((32, 32, 3))
        image = inputs["x32"] / 255 + (((7 * i + 13 * j + 5 * c) % 3) - 1) * 4 / 255
        x = torch.from_numpy(np.clip(image, 0, 1)).permute(2, 0, 1)[None].float()
        code, soft = (
            t[0].permute(1, 2, 0).numpy() for t in (Thermometer()(x), Thermometer().soft(x))
        )
        np.testing.assert_array_equal(code, golden["therm_L16_32_noise"])
        np.testing.assert_allclose(soft[:4], golden["soft_L16_32_noise_rows0_3"], atol=1e-5)
        for levels in (10, 16):
            ones = Thermometer(levels)(x).reshape(3, levels, 32, 32).sum(1) - 1
            want = golden[f"idx_L{levels}_32_noise"]
            np.testing.assert_array_equal(ones.permute(1, 2, 0).numpy(), want)


def test_the_thermometer_has_the_gradient_of_its_soft_code() -> None:
    x = X.double().requires_grad_()
    code, weight = Thermometer(5)(x), KEY.fold("w").uniform(5, 4, 4).double()
    assert set(code.detach().unique().tolist()) == {0.0, 1.0}
    (got,) = torch.autograd.grad((code * weight).sum(), x)
    (want,) = torch.autograd.grad((Thermometer(5).soft(x) * weight).sum(), x)
    assert torch.equal(got, want)
    assert torch.equal(got != 0, x < 4 * 51.2 / 255)  # dead in the highest level, as released


def test_noise_has_its_deviation_and_leaves_its_input_alone() -> None:
    key, x = Key.root(0, range(20)), torch.full((20, 1, 64, 64), 0.5)
    with passing(key):
        y, again = Noise(0.2)(x), Noise(0.1)(x)
    assert torch.equal(x, torch.full_like(x, 0.5))
    n = x.numel()
    for noise, std in ((y - x, 0.2), (again - x, 0.1)):
        assert abs(float(noise.mean())) < 4 * std / n**0.5
        assert abs(float(noise.std()) / std - 1) < 4 / (2 * n) ** 0.5
    both = torch.stack([(y - x).flatten(), (again - x).flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 4 / n**0.5


def test_pruning_keeps_the_mean_and_few_activations() -> None:
    h = KEY.fold("h").normal(7, 5)[:1].double()
    h[0, 0] = 0
    times = 1500
    with passing(Key.root(1, range(times))):
        pruned = ActivationPruning(0.5)(h.expand(times, -1, -1))
    p = h.abs() / h.abs().sum()
    chance = 1 - (1 - p) ** round(0.5 * 35)
    deviation = h.abs() * ((1 - chance) / chance.clamp_min(1e-9)).sqrt() / times**0.5
    assert bool(((pruned.mean(0) - h[0]).abs() <= 4.5 * deviation[0] + 1e-12).all())
    assert abs(float((pruned != 0).double().sum((1, 2)).mean() - chance.sum())) < 0.3
    survivors = torch.where(pruned != 0, pruned, torch.nan).nanmean(0)
    torch.testing.assert_close(survivors[1:], (h / chance)[0, 1:])


def test_pruning_nothing_but_zeros_leaves_zeros_and_its_gradient_is_its_scale() -> None:
    zeros = torch.zeros(6, 2, 3)
    with passing(KEY):
        assert torch.equal(ActivationPruning()(zeros), zeros)
    h = X.clone().requires_grad_()
    with passing(KEY):
        out = ActivationPruning()(h)
    (slope,) = torch.autograd.grad(out.sum(), h)
    torch.testing.assert_close(slope * X, out.detach())


@pytest.mark.parametrize("stage", [Noise(0.2), ActivationPruning(0.6)], ids=["noise", "sap"])
def test_rows_do_not_depend_on_the_batch(stage: nn.Module) -> None:
    with passing(KEY):
        whole = stage(X)
    for index in ([2], [5, 0, 1]):
        with passing(KEY[index]):
            assert torch.equal(stage(X[index]), whole[index])


def test_a_defense_with_a_random_stage_is_random(noisy: Defense) -> None:
    assert noisy.is_random((1, 4, 4))
    assert not Defense(Chain(), linear_classifier()).is_random((1, 4, 4))
    assert not Defense(Chain(), behind(nn.Identity())).is_random((1, 4, 4))
    first, again = noisy.logits(X, KEY), noisy.logits(X, KEY)
    assert torch.equal(first, again)
    assert not torch.equal(first, noisy.logits(X, KEY.fold("other")))
    torch.testing.assert_close(noisy.logits(X[2:3], KEY[2:3]), first[2:3])
    votes = Defense(Chain(), noisy.classifier, Mean(4)).each(X, KEY)
    assert len({tuple(v.flatten().tolist()) for v in votes.unbind(1)}) == 4


def test_the_mean_over_many_draws_is_the_network(noisy: Defense) -> None:
    """A linear network, hence the noise's mean 0 is the logits' too."""
    n = 3000
    x = X[:1].expand(n, -1, -1, -1)
    logits = noisy.logits(x, Key.root(9, range(n)))
    clean = linear_classifier()(X[:1])
    error = logits.std(0) / n**0.5
    assert bool(((logits.mean(0) - clean).abs() < 4 * error).all())


def test_a_frozen_view_keeps_one_draw(noisy: Defense) -> None:
    seen = noisy.seen_through({STAGES: "frozen"})
    a, b = (seen.logits(X, KEY.fold("step", i)) for i in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, noisy.logits(X, KEY))
    assert not torch.equal(a, seen.logits(X, Key.root(4, range(6))))
    assert RECIPES.build("frozen").view_of(noisy) == {STAGES: "frozen"}
    with pytest.raises(UnknownName, match='view of random stages: "skip"'):
        noisy.seen_through({STAGES: "skip"})
    with pytest.raises(UnknownName, match="Unknown link"):
        Defense(Chain(), linear_classifier()).seen_through({STAGES: "frozen"})


def test_lower_precision_draws_the_same_numbers(noisy: Defense) -> None:
    rounded = Defense(Chain(), in_precision(noisy.classifier, "bfloat16"))
    assert rounded.is_random((1, 4, 4))
    torch.testing.assert_close(rounded.logits(X, KEY), noisy.logits(X, KEY), atol=0.1, rtol=0.05)


def test_attackers_and_judges_draw_their_own(noisy: Defense) -> None:
    y = linear_classifier()(X).argmax(1)
    threat = Threat(Linf(0.5))
    for name in ("eot", "frozen"):
        siege = Siege(noisy, RECIPES.build(name, steps=4), threat)
        found = siege.attack(X, y, KEY)
        verdict = judge(noisy, threat, found.x, X, KEY, Judging(draws=8))
        assert verdict.predicted.shape == (6, 8)
        assert float((verdict.predicted != y[:, None]).double().mean()) > 0.8
        torch.testing.assert_close(siege.attack(X[:2], y[:2], KEY[:2]).x, found.x[:2])


def test_a_check_of_the_classifier_hands_it_one_key_for_all(noisy: Defense) -> None:
    check_classifier(noisy.classifier, X)
    check_classifier(behind(ActivationPruning(0.5)), X)


def test_stages_without_a_pass_or_with_other_rows_are_refused(noisy: Defense) -> None:
    with pytest.raises(BadModel, match=r"ask through a besiege\.Defense"):
        noisy.classifier(X)
    with passing(KEY), pytest.raises(BadModel, match="got 12 rows in a pass of 6 images"):
        Noise(0.1)(torch.cat([X, X]))


def test_wrong_settings() -> None:
    for make in (lambda: Noise(0), lambda: ActivationPruning(-1), lambda: Thermometer(1)):
        with pytest.raises(BadSetting, match=r"at least 2|above 0"):
            make()


def test_settings_tell_weights_apart() -> None:
    one, other = (Noise(std).state_dict()["setting"] for std in (0.1, 0.2))
    assert isinstance(one, Tensor)
    assert not torch.equal(one, other)
