"""FGSM, BIM and PGD are Foolbox's, step by step from the same start."""

import warnings

import pytest
import torch
from torch import nn

from besiege.attacks.attack import Problem
from besiege.attacks.bim import bim
from besiege.attacks.fgsm import fgsm
from besiege.attacks.loss import cross_entropy
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.pgd import pgd
from besiege.attacks.threat import Linf, RmsL2, Threat
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.models.classifier import Classifier

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what Foolbox imports, not of what is tested
    import eagerpy
    import foolbox

STEPS = 10
SHAPE = (3, 8, 8)
KEY = Key.root(5, range(6))
X = KEY.fold("x").uniform(*SHAPE, dtype=torch.float64)
# Foolbox scales into an l2 ball and clips then, which is the projection only where [0, 1] is far.
INNER = 0.25 + 0.5 * X
Y = KEY.fold("y").integers(4)
SIZE = (3 * 8 * 8) ** 0.5


@pytest.fixture(scope="module")
def network():
    """A small smooth convolutional network in float64."""
    layers = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, device="meta"),
        nn.Softplus(),
        nn.Conv2d(5, 4, 3, stride=2, device="meta"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).to_empty(device="cpu")
    layers = layers.double().eval()
    with torch.no_grad():
        for i, parameter in enumerate(layers.parameters()):
            parameter.copy_(Key.root(i, [0]).normal(*parameter.shape)[0] * 0.5)
    return layers


def ours(network, attack, ball, x, start):
    """Our points after every step, from `start` around x."""
    threat = Threat(ball)
    view = Defense(Chain(), Classifier(network, 4).double().eval())
    oracle = Oracle(view, cross_entropy(), threat, Meter(None), micro_batch=4)
    problem = Problem(x, Y, KEY, oracle, threat, STEPS)
    state = attack.init(problem)._replace(x=start)
    points = []
    for t in range(STEPS):
        state = attack.step(problem, state, t)
        points.append(state.x)
    return points


def theirs(network, make, eps, x, start):
    """Foolbox's points after 1, 2, ... steps from `start`."""
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    points = []
    for steps in range(1, STEPS + 1):
        attack = make(steps)
        attack.get_random_start = lambda x0, epsilon: eagerpy.astensor(start)
        points.append(attack.run(model, x, foolbox.criteria.Misclassification(Y), epsilon=eps))
    return points


LINF, RMS = 0.06, 0.03
CASES = {
    "pgd linf": (
        pgd(step=0.2, decay="constant"),
        Linf(LINF),
        LINF,
        lambda n: foolbox.attacks.LinfPGD(abs_stepsize=0.2 * LINF, steps=n, random_start=True),
    ),
    "bim linf": (
        bim(step=0.2),
        Linf(LINF),
        LINF,
        lambda n: foolbox.attacks.LinfBasicIterativeAttack(abs_stepsize=0.2 * LINF, steps=n),
    ),
    "pgd l2": (
        pgd(step=0.2, decay="constant"),
        RmsL2(RMS),
        RMS * SIZE,
        lambda n: foolbox.attacks.L2PGD(abs_stepsize=0.2 * RMS * SIZE, steps=n, random_start=True),
    ),
    "bim l2": (
        bim(step=0.2),
        RmsL2(RMS),
        RMS * SIZE,
        lambda n: foolbox.attacks.L2BasicIterativeAttack(abs_stepsize=0.2 * RMS * SIZE, steps=n),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_step_is_foolboxs(case, network):
    attack, ball, eps, make = CASES[case]
    random = "pgd" in case
    x = X if isinstance(ball, Linf) else INNER
    start = ball.start(x, KEY.fold("start")) if random else x
    for step, (mine, other) in enumerate(
        zip(
            ours(network, attack, ball, x, start),
            theirs(network, make, eps, x, start),
            strict=True,
        )
    ):
        gap = (mine - other).abs().max().item()
        assert gap < 1e-6, f"{case}: {gap:.2g} apart after step {step + 1}"
    assert (mine - x).abs().max() > 0.5 * ball.eps


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_foolboxs(norm, network):
    ball = Linf(LINF) if norm == "linf" else RmsL2(RMS)
    kind = (
        foolbox.attacks.LinfFastGradientAttack
        if norm == "linf"
        else (foolbox.attacks.L2FastGradientAttack)
    )
    eps = LINF if norm == "linf" else RMS * SIZE
    x = X if isinstance(ball, Linf) else INNER
    mine = ours(network, fgsm(), ball, x, x)[0]
    other = theirs(network, lambda n: kind(random_start=False), eps, x, x)[0]
    assert (mine - other).abs().max() < 1e-6
