"""Every attack of the catalog on a linear classifier, whose optimum is in closed form.

All rows lie at one distance from the border, so that one radius is the smallest of all. An attack
that is added to the catalog has to be entered here, in every ball that it is made for.
"""

import pytest
import torch

from besiege.attacks.attack import EUCLIDEAN
from besiege.attacks.catalog import ATTACKS, GRADIENTS, load_attack
from besiege.attacks.loss import LOSSES
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.threat import L0, L1, L2, Linf, Threat
from besiege.core.entry import parse_spec
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import largest_gain, linear_classifier, weights_of
from besiege.study.recipe import Recipe
from besiege.study.recipes import RECIPES
from besiege.study.siege import Opponents, Siege

SHAPE = (1, 4, 4)
MODEL = linear_classifier(2, SHAPE, 321, torch.float64)
with torch.no_grad():  # grey is on the border
    MODEL.network[1].bias.copy_(-0.5 * weights_of(MODEL).sum(1))
DEFENSE = Defense(Chain(), MODEL)
KEY = Key.root(7, range(6))
OWN = torch.arange(6) % 2
UP = (1 - 2 * OWN).double()[:, None]  # the sign by which the lead of label 1 has to change
W = weights_of(MODEL).diff(dim=0)

# The smallest radii, and balls that do not bind for attacks that look for the nearest point.
SMALLEST = {"linf": Linf(0.05), "l2": L2(0.2), "l1": L1(0.4), "l0": L0(1)}
GENEROUS = {"linf": Linf(1.0), "l2": L2(4.0), "l1": L1(16.0)}
ANY = ("linf", "l2", "l1", "l0")

# Spec, steps, balls: success at 1.01 x the optimum on every row. Of four random starts in l0 one
# has its pixels elsewhere for good, so that `pgd` starts at the clean image there.
BUDGET = [
    ("fgsm", 1, ANY),
    ("bim:step=0.3", 20, ANY),
    ("mi-fgsm:step=0.3", 20, ANY),
    ("pgd", 60, ("linf", "l2", "l1")),
    ("pgd:direction=normalised,decay=constant,step=50,start=clean", 5, ANY),
    ("adam", 60, ("linf",)),
    ("gradient-descent:rate=0.1,step=unit", 40, ANY),
    ("apgd", 60, ANY),
    ("apgd-dlr", 60, ANY),
    ("apgd-t", 60, ANY),
    ("square", 300, ("linf",)),
    ("genattack:temperature=0.02,population=12,patience=10", 200, ("linf",)),
    ("one-pixel:population=60", 40, ("l0",)),
    ("jsma:direction=either,pairs=false", 16, ("l0", "linf")),
]
# Spec, steps, balls, ratio to the optimum that no row may exceed.
NEAREST = [
    ("deepfool", 4, ("linf", "l2"), 1.0201),  # by its overshoot of 0.02, exactly
    ("cw:searches=4,c=0.1", 160, ("l2",), 1.02),
    ("cw-linf", 200, ("linf",), 1.02),
    ("ddn", 120, ("l2",), 1.02),
    ("l-bfgs:searches=9", 150, ("l2",), 1.02),
    ("fmn", 60, ("linf", "l2", "l1"), 1.02),
    ("fab", 10, ("linf", "l2", "l1"), 1.02),
    ("fab-t", 10, ("linf", "l2", "l1"), 1.02),
    ("hop-skip-jump", 8, ("linf", "l2"), 1.25),
    ("surfree", 30, ("l2",), 1.25),
    ("boundary", 80, ("l2",), 1.25),
]
# Where the method itself stops short: (attack, ball) -> spec, steps, radius over the optimum at
# which it succeeds, and why.
SHORT = {
    ("adam", "l2"): ("adam", 60, 1.3, "signs in the long run, whatever the ball"),
    ("adam", "l1"): ("adam", 60, 4.0, "likewise"),
    ("square", "l2"): ("square", 200, 1.6, "bumps of 3 x 3 pixels at least"),
}
EXEMPT = {
    "local-search": "to a pixel's own extreme; test_score_attacks has the greedy choice",
    "none": "the control",
    "spatial": "turns and shifts have no norm; test_by_labels has a shift that is known",
    "corruption": "moves along one line; test_by_labels has the least contrast in closed form",
}
EXEMPT_PAIRS = {("adam", "l0"): "a step moves every pixel: those of the ball are chosen at the end"}


def lead(x):
    """Of label 1, (B, 1)."""
    with torch.no_grad():
        return MODEL(x).diff(dim=1)


def most(ball, x):
    """The most by which the wanted logit can gain in the ball, (B, 1)."""
    if ball.name != "l0":
        return largest_gain(MODEL, ball, OWN, 1 - OWN)[:, None]
    room = torch.where(UP * W > 0, 1 - x.flatten(1), x.flatten(1))
    return (room * W.abs()).topk(int(ball.eps), 1).values.sum(1, keepdim=True)


def placed(ball, factor=1.0):
    """Images from which the gain that is needed is the ball's largest over `factor`.

    In l0 all room is alike but for that: most attacks go by slopes alone, and not by room.
    """
    x = torch.full((6, *SHAPE), 0.5, dtype=torch.float64)
    if ball.name != "l0":
        x = 0.45 + 0.1 * KEY.uniform(*SHAPE, dtype=torch.float64)
    for _ in range(100):  # of `most` in l0 a fixed point
        short = most(ball, x) / factor + UP * lead(x)
        x = x - (UP * short * W / W.square().sum()).reshape(x.shape)
    return x


def attacked(recipe, ball, x, targeted, access="gradients"):
    """What a search finds."""
    single = access == "gradients" == load_attack(recipe.attack).access
    rows = 6 if single or recipe.attack == "square" else 96  # padding costs, and so do parts
    siege = Siege(DEFENSE, recipe, Threat(ball, targeted, access), Opponents(micro_batch=rows))
    return siege.attack(x, 1 - OWN if targeted else OWN, KEY)


def name_of(spec):
    return parse_spec(spec)[0]


def pairs_of(name):
    """The balls that an attack is made for, those in other units left out."""
    other = {"box": "linf", **dict.fromkeys(EUCLIDEAN, "l2")}
    return {(name, other.get(b, b)) for b in load_attack(name).balls or ANY}


def test_every_attack_is_tried_in_every_ball_that_it_is_made_for():
    tried = {(name_of(way[0]), ball) for way in [*BUDGET, *NEAREST] for ball in way[2]}
    reasoned = {*SHORT, *EXEMPT_PAIRS}
    due = set().union(*(pairs_of(name) for name in ATTACKS if name not in EXEMPT))
    assert tried | reasoned == due
    assert not tried & reasoned
    assert set(EXEMPT) <= set(ATTACKS)


def test_each_is_tried_as_what_it_is():
    assert not [w for w in BUDGET if load_attack(w[0]).nearest]
    assert not [w for w in NEAREST if not load_attack(w[0]).nearest]
    assert all(w[3] < 1.021 for w in NEAREST if load_attack(w[0]).access != "labels")


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("spec", "steps", "kind"), [(s, n, b) for s, n, bs in BUDGET for b in bs])
def test_a_budget_attack_succeeds_just_beyond_the_smallest_radius(spec, steps, kind, targeted):
    ball = SMALLEST[kind]
    recipe = Recipe("known", attack=spec, steps=steps)
    found = attacked(recipe, ball, placed(ball, 1.01), targeted)
    assert found.claim.tolist() == [1.0] * 6


@pytest.mark.parametrize("kind", ANY)
def test_and_not_just_below_it(kind):
    spec = "pgd:direction=normalised,decay=constant,step=50,start=clean"
    ball = SMALLEST[kind]
    found = attacked(Recipe("known", attack=spec, steps=5), ball, placed(ball, 0.99), False)
    assert found.claim.tolist() == [0.0] * 6


@pytest.mark.parametrize("pair", SHORT, ids="-".join)
def test_what_stops_short_is_near_where_it_should_be(pair):
    spec, steps, factor, _ = SHORT[pair]
    ball, recipe = SMALLEST[pair[1]], Recipe("known", attack=spec, steps=steps)
    assert attacked(recipe, ball, placed(ball, factor), False).claim.tolist() == [1.0] * 6
    assert attacked(recipe, ball, placed(ball, 1.01), False).claim.tolist() == [0.0] * 6


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("spec", "steps", "kind", "limit"), [(s, n, b, m) for s, n, bs, m in NEAREST for b in bs]
)
def test_the_nearest_point_is_found(spec, steps, kind, limit, targeted):
    x, ball = placed(SMALLEST[kind]), GENEROUS[kind]
    found = attacked(Recipe("known", attack=spec, steps=steps), ball, x, targeted)
    ratio = ball.size(found.x, x) / SMALLEST[kind].eps
    assert found.claim.tolist() == [1.0] * 6
    assert bool((ratio >= 1 - 1e-6).all())
    assert float(ratio.max()) <= limit, ratio.tolist()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("name", "steps", "kind"), [("spsa", 60, "linf"), ("nes", 60, "l2")])
def test_recipes_by_scores_succeed_there_too(name, steps, kind, targeted):
    ball = SMALLEST[kind]
    recipe = RECIPES.build(name, steps=steps)
    found = attacked(recipe, ball, placed(ball, 1.01), targeted, "scores")
    assert found.claim.tolist() == [1.0] * 6
    assert not found.backwards.any()


@pytest.mark.parametrize(("name", "extra"), [("spsa", -1), ("nes", 1)])
def test_the_estimates_of_recipes_are_autograds_in_direction_and_scale(name, extra):
    """Of n directions in D entries the mean square is (1 + (D - 1) / n) |g|^2, normal: D + 1."""
    recipe, entries = RECIPES.build(name), 16
    view, threat = Defense(Chain(), MODEL), Threat(Linf(0.1))
    oracle = Oracle(view, LOSSES.build("cross-entropy"), threat, Meter(None), micro_batch=192)
    made = GRADIENTS.build(recipe.gradients)
    x = placed(SMALLEST["l2"])
    exact = oracle(x, OWN, KEY).gradient.flatten(1)
    read = [made(oracle)(x, OWN, KEY.fold(i)).gradient.flatten(1) for i in range(30)]
    mean = torch.stack(read).mean(0)
    assert float(torch.cosine_similarity(mean, exact).min()) > 0.97
    along = (mean * exact).sum(1) / exact.square().sum(1)
    assert float(along.mean()) == pytest.approx(1, abs=0.03)
    squares = torch.stack(read).square().sum(2).mean(0) / exact.square().sum(1)
    expected = 1 + (entries + extra) / made.directions
    assert float(squares.mean()) == pytest.approx(expected, rel=0.06)
