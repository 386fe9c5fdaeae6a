"""What the doctor asks, what came of it, and models and links that are each named rightly."""

import random  # noqa: TID251 - what foreign networks draw from

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

import besiege
from besiege.attacks.threat import L2, Linf, Threat
from besiege.checks.catalog import CHECKS, DOCTOR
from besiege.checks.deployed import Codec
from besiege.checks.finding import FOUND, NOT_ASKED, NOTE, PASSED, STOP
from besiege.cli.main import app
from besiege.defenses.jpeg import Jpeg
from besiege.defenses.transform import Named
from besiege.laws.broken import THREAT, behind, digits
from besiege.laws.broken_links import Claiming, coarse, in_training, modelled, network
from besiege.models.classifier import Classifier
from besiege.ops.codec import codec_version
from besiege.ops.jpeg import recoded
from besiege.study.doctor import codecs, probes
from besiege.study.doctor.doctor import diagnose
from besiege.study.doctor.preparations import preparations

TOSSES = {
    "torch": lambda: float(torch.rand(())),  # noqa: TID251
    "python": random.random,
    "private": np.random.default_rng(5).random,  # noqa: TID251
}


class Coin(nn.Module):
    def __init__(self, toss, p):
        super().__init__()
        self.toss, self.p, self.inner = toss, p, network()

    def forward(self, x):
        logits = self.inner(x)
        return logits if self.toss() < self.p else 0.7 * logits.roll(1, 1)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return self.inner(functional.dropout(x, 0.2))  # training=True is its default


class Centred(nn.Module):
    """Batch statistics that no mode switches off."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        return self.inner(functional.batch_norm(x, None, None, training=True))


class Through(nn.Module):
    """What is done to an image, and the network."""

    def __init__(self, change):
        super().__init__()
        self.change, self.inner = change, network()

    def forward(self, x):
        return self.inner(self.change(x))


def visited(defense, seed=0, threat=THREAT, n=16):
    x, y = digits(n, seed)
    return diagnose(defense, x, y, threat=threat, seed=seed)


def named(found):
    return {(f.number, f.level) for f in found.findings}


def of(found, number):
    return [a for a in found.answers if a.number == number]


@pytest.mark.parametrize("toss", TOSSES)
def test_a_model_that_tosses_a_coin_is_random_and_not_coupled(toss):
    found = visited(behind(model=modelled(Coin(TOSSES[toss], 0.95))), n=8)
    assert {number for number, level in named(found) if level == STOP} == set()
    assert (32, NOTE) in named(found)
    (told,) = (f for f in found.findings if f.number == 32)
    private = TOSSES[toss] is TOSSES["private"]
    assert ("generator of its own" if private else "draws from the global generators") in told.what
    coupled = {a.state for a in of(found, 33)}
    assert coupled == ({NOT_ASKED} if private else {PASSED})
    assert {a.state for a in of(found, 4)} == {PASSED}  # asked as of any random defense


def test_functional_dropout_is_named_as_such_and_the_visit_goes_on():
    found = visited(behind(model=modelled(Dropping())), n=8)
    stops = [f for f in found.findings if f.level == STOP]
    assert [f.number for f in stops] == [10]
    assert "training=True: dropout" in stops[0].what
    assert {a.state for a in of(found, 33)} == {PASSED}
    assert of(found, 18)[0].state == PASSED


def test_functional_batch_norm_is_named_twice():
    found = visited(behind(model=modelled(Centred())))
    assert {(10, STOP), (33, STOP)} <= named(found)
    assert "batch_norm" in next(f.what for f in found.findings if f.number == 10)


def test_layers_in_evaluation_call_nothing_as_in_training():
    layers = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1), nn.RReLU()).eval()
    found = visited(behind(model=modelled(nn.Sequential(layers, network().network))))
    assert 10 not in {number for number, _ in named(found)}


def test_a_module_in_training_mode_ends_the_visit_and_stays_as_it_was():
    model = in_training()
    before = {name: b.clone() for name, b in model.network.named_buffers()}
    found = visited(behind(model=model))
    assert {(10, STOP), (33, STOP)} <= named(found)
    (unasked,) = of(found, 18)
    assert unasked.state == NOT_ASKED
    assert "check 10" in unasked.because
    assert all(torch.equal(b, before[n]) for n, b in model.network.named_buffers())


def test_every_check_is_accounted_for():
    """Passed with a figure, found, or with the reason why nobody asked it."""
    found = visited(besiege.Defense(besiege.parse_chain("rdg + bits:bits=3"), network()))
    wanted = {n for n, check in CHECKS.items() if set(DOCTOR) & set(check.gathered)}
    assert {a.number for a in found.answers} == wanted
    for one in found.answers:
        assert bool(one.because) == (one.state == NOT_ASKED)
        assert (one.figure is None) == (one.state == NOT_ASKED)
    seen = {(a.number, a.about): a for a in found.answers}
    assert seen[7, "bits by identity"].figure > 0.5
    assert seen[8, "bits by identity"].figure == 0
    assert "exact" in seen[8, "rdg by exact"].because
    assert len([a for a in found.answers if a.state == FOUND]) == len(found.findings)


def test_a_probe_that_fails_is_told():
    """Behind a model that tells labels only there is no gradient to ask about."""
    x, y = digits(8, 0)
    model = besiege.from_callable(lambda x: network()(x).argmax(1), 10, "labels", channels=1)
    found = diagnose(besiege.Defense(besiege.Chain(), model), x, y, threat=THREAT)
    for number in (1, 5, 18, 21):
        (one,) = of(found, number)
        assert one.state == NOT_ASKED
        assert "labels" in one.because


def test_the_command_prints_what_was_asked():
    settings = ["doctor", "--model", "digits-cnn", "--data", "digits", "--n", "8"]
    told = CliRunner().invoke(app, [*settings, "--defense", "jpeg"])
    assert told.exit_code == 0, told.output
    assert "its gradient is exact" not in told.output
    assert "8 shifted surrogate" in told.output
    assert codec_version().split(",")[0] in told.output
    assert told.output.strip().splitlines()[-1].startswith("jpeg: ")


# Surrogates that are moved


def hidden_shift(most):
    def shifted(image):
        dx, dy = (int(v) for v in torch.randint(-most, most + 1, (2,)))  # noqa: TID251
        return torch.roll(image, (dy, dx), (-2, -1))

    return besiege.Opaque(shifted, name="shift")


def moved(link, seed):
    """Check 8 of one link, on 16 digits."""
    key = besiege.Key.root(seed, range(16))
    (stage,) = probes.stages(besiege.Chain((link,)), digits(16, seed)[0], key)
    return CHECKS[8](probes.displacement(stage, key))


@pytest.mark.parametrize("seed", range(8))
def test_a_shift_that_each_draw_makes_anew_is_measured(seed):
    told = moved(hidden_shift(3), seed)
    assert 1.5 <= told.figure <= 3.7  # of 49 shifts: 2.8 is the median
    assert "otherwise for each example" in told.what


def test_the_visit_tells_it():
    assert 8 in {f.number for f in visited(behind(hidden_shift(3)), n=8).findings}


@pytest.mark.parametrize(
    "link",
    [
        Claiming(coarse, lambda x, draw: x),
        Claiming(lambda x: x.flip(-1), lambda x, draw: x),
        Claiming(lambda x: x.median() - x, lambda x, draw: x),
        besiege.parse_chain("bits:bits=2").links[0],
        besiege.parse_chain("jpeg:quality=10").links[0],
        besiege.parse_chain("fd").links[0],
    ],
)
def test_what_moves_nothing_as_a_whole_is_not_displaced(link):
    for seed in range(8):
        assert moved(link, seed) is None


# Preparation


def prepared(model, seed):
    x, y = digits(16, seed)
    return CHECKS[37](preparations(model, x, y))


@pytest.mark.parametrize("seed", range(8))
def test_a_model_that_is_prepared_rightly_passes(seed):
    assert prepared(network(), seed) is None


def test_a_model_that_normalises_twice_is_named():
    """Not always: 16 images show it only where some of them are lost."""
    twice = modelled(Through(lambda x: (x - 0.5) / 0.5))
    told = [f for f in (prepared(twice, seed) for seed in range(8)) if f]
    assert len(told) >= 6
    assert {f.level for f in told} == {STOP}
    assert all("images right if they are" in f.what for f in told)
    assert 37 in {f.number for f in visited(behind(model=twice)).findings}


def test_channels_in_the_wrong_order_are_named(shared):
    folder = shared / "data"
    whole = besiege.load_model(f"file:{folder / 'cifar10_resnet20.safetensors'}")
    source = f"packed:path={folder / 'cifar10_test_subset.npz'}"
    x, y, _ = besiege.load_images(source).take(range(32))

    class Turned(nn.Module):
        def forward(self, x):
            return whole.unchecked(x.flip(1))

    turned = Classifier(Turned().eval(), 10, name="turned").eval()
    told = CHECKS[37](preparations(turned, x, y))
    assert "turned to BGR" in told.what
    assert CHECKS[37](preparations(whole, x, y)) is None


@pytest.mark.parametrize(
    ("threat", "state"),
    [
        (Threat(Linf(0.9 / 255)), FOUND),
        (Threat(Linf(1 / 255)), PASSED),
        (Threat(L2(0.001)), NOT_ASKED),
    ],
)
def test_a_radius_below_a_grey_level(threat, state):
    found = visited(behind(), threat=threat)
    (floor,) = (a for a in of(found, 37) if a.about == threat.name)
    assert floor.state == state
    levels = {f.level for f in found.findings if f.number == 37}
    assert levels == ({STOP} if state == FOUND else set())


# Codecs


class InTensors(Jpeg):
    """A JPEG that is written in tensors, as published code has it."""

    def forward(self, x: Tensor, draw: Tensor | None) -> Tensor:
        with torch.no_grad():
            return (recoded(x * 255, self.quality, (2, 2), torch.round) / 255).clamp(0, 1)


def stage_of(link, channels=3, seed=0):
    key = besiege.Key.root(seed, range(4))
    smooth = functional.interpolate(key.uniform(channels, 4, 4), (19, 24), mode="bilinear")
    model = Classifier(nn.Sequential(nn.Flatten(), nn.LazyLinear(5)).eval(), 5, channels=channels)
    with torch.no_grad():
        model(smooth)
    there = codecs.Visit(
        *(besiege.Defense(besiege.Chain((link,)), model), smooth, torch.zeros(4).long()),
        *(THREAT, besiege.Recipe("none"), key),
    )
    return there, codecs.Stage(link, smooth, link.draw(key, tuple(smooth.shape[1:])))


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("rounding", ["round", "truncate"])
@pytest.mark.parametrize("more", [{}, {"order": "bgr"}, {"quality": 10, "highest": 80}])
def test_the_library_s_jpeg_is_the_installed_codec(subsampling, rounding, more):
    link = Jpeg(subsampling=subsampling, rounding=rounding, **more)
    found = codecs.codec(*stage_of(link))
    assert found.levels[found.own] == 0
    assert found.ways[found.own] == f"{subsampling}, {rounding}"
    assert (np.delete(found.levels, found.own) > 0).all()  # no other way makes the same
    assert f"Pillow {Image.__version__}" in found.version


def test_a_jpeg_in_tensors_is_not_the_installed_codec():
    told = CHECKS[46](codecs.codec(*stage_of(Named(InTensors(), "mine"))))
    assert told.level == NOTE
    assert 0 < told.figure < 100
    assert codec_version() in told.what
    grey = codecs.codec(*stage_of(Jpeg(), channels=1))
    assert grey.levels[[w.endswith("round") for w in grey.ways]].max() == 0


def test_answers_that_depend_on_the_codec_are_noted():
    found = codecs.codec(*stage_of(Jpeg(quality=30)))
    labels = np.zeros((20, 1 + len(found.ways)), int)
    labels[:5, 3] = 1
    told = CHECKS[46](Codec(found.version, found.ways, 0, 0 * found.levels, labels))
    assert told.figure == 0.25
    assert f"with {found.ways[2]} 25.0 % change" in told.what
