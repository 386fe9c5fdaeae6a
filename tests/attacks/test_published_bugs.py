"""Faults of attacks that were published, each with what would show it here.

Where another file tests it already, it is named; the others are below. P0: Qiu et al. 2020, P1:
Xiao and Zheng 2020, P3: Guo et al. 2018, P4: Dziedzic and Krishnan 2020.

| fault | test |
|---|---|
| P0 gradient always at the clean image | test_gradients_are_asked_where_the_attack_is |
| P0 surrogate two pixels off | study/test_descent.py, test_two_pixels |
| P0, P3 given up, or never projected | test_a_step_out_of_the_ball_is_projected; laws |
| P0 penalty on the distance without a gradient | test_the_penalty_of_cw_pulls_back |
| P0, P4 one lucky draw is a success | test_a_lucky_draw_does_not...; study/test_coin.py |
| P0 one draw both leads and judges | test_claims_are_of_draws_that_chose_nothing |
| P0, P4 what is given up keeps its luck | test_rows_that_are_given_up_are_tested_again |
| P1 gradient near 2x; P4 at x and not at C(x) | test_the_gradient_is_at_what_the_network_sees |
| P1 label of the network for the true one | test_the_goal_is_the_one_that_was_given |
| P1 division by draws - 1 | test_oracle_and_search.py, test_readings_are_autograds_... |
| P1, P3 nothing cut to [0, 1] | laws/attacks.py, every_point_is_admitted |
| P1 random start overwritten by zeros | test_random_starts_are_random |
| P1 radius + 0.001 counts | test_a_thousandth_beyond_the_radius_is_outside |
| P3 DeepFool's slopes are means over copies | test_one_step_of_deepfool_in_any_batch |
| P3 the last classes have no gradient | test_the_last_of_many_classes_is_found |
| P3 rival fixed at the clean image | test_cw_follows_the_rival |
| P3, P4 the batch decides for single images | test_an_early_end_is_each_images_own |
| P3 least objective kept, a success or not | test_oracle_and_search.py, ..._the_nearest_success |
| P3 network in train mode | test_the_network_is_attacked_in_eval_mode |
| P3 dissimilarity in normalised units | test_balls.py |
| P4 infinite variable at pixels of 0 and 1 | test_cw_is_finite_at_black_and_white |
| P4 last point handed over | test_oracle_and_search.py, test_the_best_point_is_kept_... |
| P4 the caller's images change | test_the_callers_images_stay_as_they_are |
"""

import pytest
import torch
from torch import nn

from besiege.attacks.attack import Attack, Point, Problem
from besiege.attacks.bim import bim
from besiege.attacks.catalog import ATTACKS
from besiege.attacks.cw import cw
from besiege.attacks.deepfool import deepfool
from besiege.attacks.gradient_descent import gradient_descent
from besiege.attacks.loss import cross_entropy, margin
from besiege.attacks.mi_fgsm import mi_fgsm
from besiege.attacks.oracle import Meter, Oracle, Reading
from besiege.attacks.search import Plan, search
from besiege.attacks.threat import BALLS, L2, Linf, Threat
from besiege.core.batch import l2, rows
from besiege.core.errors import BadModel, OutsideThreat
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.noise import Noise
from besiege.defenses.opaque import Opaque
from besiege.defenses.transform import Chain
from besiege.laws.problems import linear_classifier, weights_of
from besiege.models.classifier import Classifier
from besiege.study.judge import Judging, judge
from besiege.study.recipe import Recipe
from besiege.study.siege import Siege

SHAPE = (1, 4, 4)
KEY = Key.root(5, range(6))
X = 0.3 + 0.4 * KEY.fold("x").uniform(*SHAPE, dtype=torch.float64)
MODEL = linear_classifier(3, SHAPE, dtype=torch.float64)
GOAL = Defense(Chain(), MODEL).labels(X, KEY)
NOISY = Defense(Chain((Noise(scale=0.05),)), MODEL)
GRADIENTS = [n for n in ATTACKS if ATTACKS.build(n).access == "gradients" and n != "fgsm"]


ONE_SEARCH = {"cw": {"searches": 1}, "l-bfgs": {"searches": 1}}  # each begins at the clean image


class Heard:
    """An oracle that remembers what it was asked."""

    def __init__(self, oracle):
        self.oracle, self.asked = oracle, []

    def __call__(self, x, goal, key, **how):
        self.asked.append((x.clone(), goal.clone(), key, how))
        return self.oracle(x, goal, key, **how)


def problem(ball, view=NOISY, *, access="gradients", steps=6, loss=margin, x=X, goal=GOAL):
    """A problem whose oracle remembers; rows are never dropped, as its view is random."""
    threat = Threat(ball, access=access)
    ear = Heard(Oracle(view, loss(), threat, Meter(None), micro_batch=len(x)))
    return Problem(x, goal, KEY[: len(x)], ear, threat, steps, random=True)


def hunted(name, steps=6, goal=GOAL):
    """A search by an attack of the catalog; its oracle and what was found."""
    entry = ATTACKS[name]
    attack = entry.factory(**{**entry.cases[0], **ONE_SEARCH.get(name, {})})
    kind = attack.balls[0] if attack.balls else "linf"
    ball = BALLS.build(kind, **({"eps": 0.3} if kind == "linf" else BALLS[kind].cases[0]))
    p = problem(ball, access=attack.access, steps=steps, goal=goal)
    return p.oracle, search(p, attack, p.oracle.oracle.meter, Plan(steps, confirm=4))


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_asked_where_the_attack_is(name):
    ear, _ = hunted(name)
    points = [x for x, _, _, how in ear.asked if how.get("gradient", True)]
    assert len({tuple(x.flatten().tolist()) for x in points}) > 1


@pytest.mark.parametrize("name", ATTACKS)
def test_the_goal_is_the_one_that_was_given(name):
    """Also where the network says something else."""
    given = (GOAL + torch.arange(6) % 2) % 3
    ear, _ = hunted(name, 2, given)
    of = dict(zip(KEY.values.tolist(), given.tolist(), strict=True))
    for _, goal, key, _ in ear.asked:
        assert goal.tolist() == [of[v] for v in key.origin().values.tolist()]


@pytest.mark.parametrize("name", ATTACKS)
def test_the_callers_images_stay_as_they_are(name):
    before = X.clone()
    hunted(name, 2)
    assert torch.equal(X, before)


@pytest.mark.parametrize("attack", [bim(3.0), mi_fgsm(3.0), gradient_descent(rate=50.0)])
def test_a_step_out_of_the_ball_is_projected(attack):
    p = problem(Linf(0.1))
    found = search(p, attack, p.oracle.oracle.meter, Plan(6, confirm=1))
    assert found.backwards.tolist() == [6] * 6
    ends = search(p, attack, p.oracle.oracle.meter, Plan(1, confirm=1)).x
    assert bool((Linf(1).size(ends, X) > 0.0999).all())
    assert bool(p.threat.admits(ends, X).all())


@pytest.mark.parametrize("form", ["tanh", "pixels"])
def test_the_penalty_of_cw_pulls_back(form):
    p = problem(L2(4.0), Defense(Chain(), MODEL))
    attack = cw(searches=1, c=1e-9, form=form)
    s = attack.init(p)
    far = X + 0.1
    w = torch.atanh((2 * far - 1) * (1 - 1e-6)) if form == "tanh" else far
    after = attack.step(p, s._replace(x=far, w=w), 0)
    assert bool((after.x < far).all())  # every pixel, whatever the slope of the logits


def test_claims_are_of_draws_that_chose_nothing():
    """Where the last point wins on exactly the draws on which the best does not, half are won."""
    number, first = 400, torch.full((400, 1, 2, 2), 0.5, dtype=torch.float64)
    key, keys = Key.root(0, range(number)), []

    def ask(x, goal, key, *, gradient=True, draws=None, weights=None):
        keys.append(tuple(key.values.flatten().tolist()))
        share = key.bernoulli(0.5, 8).double().mean(1)
        won = torch.where((x == first).flatten(1).all(1), share, 1 - share)
        return Reading(won, torch.ones_like(x), won, None)

    def step(p, s, t):
        p.ask(s.x, t)
        return Point(s.x + 0.1)

    p = Problem(first, torch.zeros(number).long(), key, ask, Threat(Linf(0.2)), 1)
    found = search(p, Attack(lambda p: Point(p.x0), step), Meter(None), Plan(1, confirm=8))
    assert 0 < int((found.x == first).flatten(1).all(1).sum()) < number  # either is chosen at times
    assert float(found.claim.mean()) == pytest.approx(0.5, abs=0.04)
    assert len(set(keys)) == len(keys) - 1  # last and best point share theirs, and nothing else


def test_rows_that_are_given_up_are_tested_again():
    """An attack that tries twenty points, keeps what luck made the best, and is done."""
    number, x = 400, torch.full((400, 1, 2, 2), 0.5, dtype=torch.float64)

    class Done(Point):
        done = torch.ones(number, dtype=torch.bool)

    def ask(x, goal, key, *, gradient=True, draws=None, weights=None):
        shape = x.shape[1:2] if x.ndim == 5 else ()
        won = key.bernoulli(0.2, *shape, draws or 1).double().mean(-1)
        return Reading(won, None, won, None)

    def step(p, s, t):
        p.query(s.x[:, None].expand(-1, 20, -1, -1, -1), t)
        return Done(s.x)

    threat = Threat(Linf(0.2), access="scores")
    p = Problem(x, torch.zeros(number).long(), Key.root(0, range(number)), ask, threat, 1)
    for nearest in (False, True):
        attack = Attack(lambda p: Point(p.x0), step, nearest=nearest)
        found = search(p, attack, Meter(None), Plan(1, confirm=8))
        assert float(found.claim.mean()) == pytest.approx(0.2, abs=0.03)


def test_a_lucky_draw_does_not_push_out_a_success():
    """A far point that always wins, and near ones that win on three draws of ten."""
    number, x = 100, torch.full((100, 1, 2, 2), 0.5, dtype=torch.float64)

    def ask(x, goal, key, *, gradient=True, draws=None, weights=None):
        lucky = key.bernoulli(0.3, draws or 1).double().mean(-1)
        won = torch.where((x > 0.6).flatten(1).all(1), 1.0, lucky)
        return Reading(won, torch.ones_like(x), won, None)

    def step(p, s, t):
        p.ask(s.x, t)
        return Point(p.x0 + 0.01)

    p = Problem(
        x, torch.zeros(number).long(), Key.root(0, range(number)), ask, Threat(Linf(0.2)), 9
    )
    attack = Attack(lambda p: Point(p.x0 + 0.15), step, nearest=True)
    found = search(p, attack, Meter(None), Plan(9, confirm=16))
    assert float((found.x > 0.6).flatten(1).all(1).double().mean()) > 0.7


class Squares(nn.Module):
    """Logits 0 and the sum of squares, whose gradient tells where it was taken."""

    def forward(self, x):
        total = (x**2).flatten(1).sum(1)
        return torch.stack([0 * total, total], 1)


def test_the_gradient_is_at_what_the_network_sees():
    link = Opaque(lambda x: 0.5 * x + 0.3, name="darker")
    view = Defense(Chain((link,)), Classifier(Squares(), 2, channels=1).double().eval())
    seen = Recipe("r", links="identity").seen(view)
    oracle = Oracle(seen, margin(), Threat(Linf(0.1)), Meter(None))
    slope = oracle(X, torch.zeros(6).long(), KEY).gradient
    assert torch.allclose(slope, 2 * (0.5 * X + 0.3))  # not 2 X, nor 4 X


@pytest.mark.parametrize("name", ["pgd", "apgd", "apgd-dlr"])
def test_random_starts_are_random(name):
    p = problem(Linf(0.1))
    first = ATTACKS.build(name).init(p).x
    other = ATTACKS.build(name).init(Problem(**{**vars(p), "key": KEY.fold("restart", 1)})).x
    assert bool((l2(first - X) > 0.05).all())
    assert bool((l2(first - other) > 0.05).all())
    assert bool((l2(first[1:] - first[:-1] - X[1:] + X[:-1]) > 0.05).all())  # each row its own


def test_a_thousandth_beyond_the_radius_is_outside():
    with pytest.raises(OutsideThreat):
        judge(NOISY, Threat(Linf(0.031)), X + 0.032, X, KEY, Judging(draws=1))


@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("candidates", [1, 2])
def test_one_step_of_deepfool_in_any_batch(number, candidates):
    pair = linear_classifier(2, SHAPE, 321, torch.float64)
    x, w = X[:number], weights_of(pair).diff(dim=0)
    own = pair(x).argmax(1)
    p = problem(L2(4.0), Defense(Chain(), pair), x=x, goal=own)
    attack = deepfool(candidates=candidates)
    moved = l2(attack.step(p, attack.init(p), 0).x - x)
    border = pair(x).detach().diff(dim=1)[:, 0].abs() / w.norm()
    assert torch.allclose(moved, 1.02 * border, rtol=1e-4)


@pytest.mark.parametrize(
    ("spec", "steps"),
    [("deepfool:candidates=11", 4), ("fab:classes=11", 4), ("fab-t:targets=11", 22)],
)
def test_the_last_of_many_classes_is_found(spec, steps):
    """Twelve classes, of which the last is next to last in logits, and by far the nearest."""
    model = linear_classifier(12, SHAPE, dtype=torch.float64)
    with torch.no_grad():
        model.network[1].weight.mul_(0.01)
        model.network[1].weight[11] *= 300
        model.network[1].bias.copy_(-0.01 * torch.arange(12.0))
        model.network[1].bias[11] -= (weights_of(model)[11] * 0.5).sum() + 1
    x = 0.49 + 0.02 * KEY.uniform(*SHAPE, dtype=torch.float64)
    own = model(x).argmax(1)
    siege = Siege(Defense(Chain(), model), Recipe("r", attack=spec, steps=steps), Threat(L2(4.0)))
    found = siege.attack(x, own, KEY)
    assert model(x).argmin(1).tolist() == model(found.x).argmax(1).tolist() == [11] * 6


def test_cw_follows_the_rival():
    """The runner-up at the clean image is 0.01 ahead of the third, and twenty times as slow."""
    model = linear_classifier(3, SHAPE, dtype=torch.float64)
    with torch.no_grad():
        model.network[1].weight.copy_(torch.tensor([[0.0], [0.05 / 4], [1 / 4]]).expand(3, 16))
        model.network[1].bias.copy_(torch.tensor([1.0, 0.9 - 0.1, 0.89 - 2]))
    x, view = torch.full_like(X, 0.5), Defense(Chain(), model)
    claims = []
    for rival in ("", ",rival=clean"):
        recipe = Recipe("r", attack=f"cw:searches=1,c=2{rival}", steps=60)
        found = Siege(view, recipe, Threat(L2(4.0))).attack(x, 0 * GOAL, KEY)
        claims.append(found.claim.tolist())
    assert claims == [[1.0] * 6, [0.0] * 6]


def test_an_early_end_is_each_images_own():
    """At a look, the rows whose own objective stands still go on to their next c."""
    p = problem(L2(4.0), Defense(Chain(), MODEL), steps=400)
    attack = cw(searches=2)
    s = attack.init(p)
    stands = torch.arange(6) % 2 == 0
    mark = torch.where(stands, 0.0, 1e6).double()
    age = torch.full_like(s.moments.age, 99)
    after = attack.step(p, s._replace(moments=s.moments._replace(age=age), mark=mark), 99)
    assert torch.equal(after.c != s.c, stands)


def test_the_network_is_attacked_in_eval_mode():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3)).double().train()
    view = Defense(Chain(), Classifier(network, 3, channels=1).double())
    with pytest.raises(BadModel, match="in training mode"):
        Oracle(view, cross_entropy(), Threat(Linf(0.1)), Meter(None))(X, GOAL, KEY)


def test_cw_is_finite_at_black_and_white():
    x = X.round()
    p = problem(L2(4.0), Defense(Chain(), MODEL), x=x)
    attack = cw(searches=1, c=1.0)
    s = attack.init(p)
    for t in range(3):
        s = attack.step(p, s, t)
        assert bool(s.w.isfinite().all())
        assert bool(s.x.isfinite().all())
    assert bool((l2(s.x - x) > 0).all())
    assert bool(rows(l2(s.x - x) < 1, x).all())
