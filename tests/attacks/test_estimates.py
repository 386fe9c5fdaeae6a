"""Draws by a target cosine, gradients from scores, and what a threat does not grant."""

import pytest
import torch

from besiege.attacks.attack import Attack, Point, Problem
from besiege.attacks.bim import bim
from besiege.attacks.draws import draws_for
from besiege.attacks.finite_differences import FiniteDifferences
from besiege.attacks.loss import cross_entropy, margin
from besiege.attacks.oracle import BudgetSpent, Meter, Oracle, Reading
from besiege.attacks.pgd import pgd
from besiege.attacks.search import Plan, search
from besiege.attacks.threat import Linf, Threat
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import linear_classifier

SHAPE = (1, 4, 4)
KEY = Key.root(1, range(5))
X = KEY.fold("x").uniform(*SHAPE, dtype=torch.float64)
GOAL = torch.tensor([0, 1, 2, 0, 1])
BARE = Defense(Chain(), linear_classifier(3, SHAPE, dtype=torch.float64))


def oracle(access="gradients", loss=None, meter=None, **settings):
    threat = Threat(Linf(0.2), access=access)
    meter = meter or Meter(None)
    return Oracle(BARE, loss or cross_entropy(), threat, meter, micro_batch=8, **settings)


def noisy_problem(noise, n=40, size=(1, 20, 20)):
    """Gradients of length 1 plus normal noise, whose trace is 400 x noise^2."""
    key = Key.root(4, range(n))
    truth = key.fold("truth").normal(*size).double()
    truth = truth / truth.flatten(1).norm(dim=1)[:, None, None, None]

    def ask(x, goal, key, *, gradient=True, draws=None):
        slope = truth + noise * key.normal(*size).double()
        return Reading(None, slope, torch.zeros(n), None)

    threat = Threat(Linf(0.1))
    goal = torch.zeros(n, dtype=torch.int64)
    return Problem(torch.full((n, *size), 0.5), goal, key, ask, threat, 1), truth


@pytest.mark.parametrize("cosine", [0.5, 0.8, 0.9])
def test_the_draws_asked_for_give_the_cosine(cosine):
    noise = 0.1
    problem, truth = noisy_problem(noise)
    exact = 400 * noise**2 * cosine**2 / (1 - cosine**2)
    found = draws_for(problem, cosine=cosine, pilots=16)
    assert float(found.double().median()) == pytest.approx(exact, rel=0.1, abs=1)
    n = int(found.double().median())
    fresh = problem.key.fold("fresh")
    mean = sum(problem.oracle(problem.x0, None, fresh.fold(i)).gradient for i in range(n)) / n
    reached = torch.cosine_similarity(mean.flatten(1), truth.flatten(1)).mean()
    assert float(reached) == pytest.approx((1 + 400 * noise**2 / n) ** -0.5, abs=0.02)
    assert reached > cosine - 0.02


def test_the_extremes_of_noise_give_one_draw_and_the_most():
    assert set(draws_for(noisy_problem(0.0)[0]).tolist()) == {1}
    assert draws_for(noisy_problem(100.0)[0], most=50).double().mean() > 25
    problem, _ = noisy_problem(0.0)
    assert draws_for(problem, cosine=0.99, most=3).max() == 1


def test_pilots_are_counted_and_need_gradients():
    meter = Meter(None)
    asked = oracle(meter=meter, draws=7)
    problem = Problem(X, GOAL, KEY, asked, asked.threat, 1)
    assert draws_for(problem, pilots=5).tolist() == [1] * 5  # nothing is drawn here
    assert (meter.forwards, meter.backwards) == (5, 5)
    scores = Problem(X, GOAL, KEY, oracle("scores"), Threat(Linf(0.2), access="scores"), 1)
    with pytest.raises(BadSetting, match="grants scores only"):
        draws_for(scores)
    for settings in ({"cosine": 1}, {"pilots": 1}, {"most": 0}):
        with pytest.raises(BadSetting, match="draws_for"):
            draws_for(problem, **settings)


def test_all_coordinates_give_the_gradient_also_at_the_bounds():
    x = X.clone()
    x[:, 0, 0], x[:, 0, 1] = 0, 1
    x[:, 0, 2, 0] = 0.0004
    estimate = FiniteDifferences(16, "coordinates", 1e-3)(oracle("scores"))(x, GOAL, KEY)
    exact = oracle()(x, GOAL, KEY).gradient
    assert torch.allclose(estimate.gradient, exact, atol=4e-3)
    smooth = FiniteDifferences(16, "coordinates", 1e-6)(oracle("scores"))(x, GOAL, KEY).gradient
    assert torch.allclose(smooth, exact, atol=1e-5)


@pytest.mark.parametrize("basis", ["gaussian", "rademacher", "coordinates"])
def test_estimates_are_without_bias(basis):
    x = X.clone()
    x[:, 0, 0] = 0
    exact = oracle()(x, GOAL, KEY).gradient
    total = torch.zeros_like(exact)
    for i in range(100):
        few = FiniteDifferences(16, basis, 1e-4)(oracle("scores"))
        total += few(x, GOAL, KEY.fold(i)).gradient / 100
    assert torch.cosine_similarity(total.flatten(1), exact.flatten(1)).min() > 0.97
    for part in (slice(None), slice(0, 1)):  # the whole, and the row that is clipped
        up, along = ((v * exact)[:, :, part].flatten(1).sum(1) for v in (total, exact))
        assert float((up / along).mean()) == pytest.approx(1, abs=0.1)


def test_estimates_cost_two_forwards_a_direction_and_do_not_see_their_batch():
    meter = Meter(None)
    asked = FiniteDifferences(directions=6)(oracle("scores", meter=meter))
    whole = asked(X, GOAL, KEY)
    assert (meter.forwards, meter.backwards) == (13, 0)
    some = asked(X[3:4], GOAL[3:4], KEY[3:4])
    assert torch.equal(some.gradient, whole.gradient[3:4])
    assert asked(X, GOAL, KEY, gradient=False).gradient is None
    assert meter.forwards == 27


def test_a_gradient_attack_runs_on_scores():
    threat = Threat(Linf(0.05), access="scores")
    x = 0.3 + 0.4 * X
    meter = Meter(None)
    asked = Oracle(BARE, margin(), threat, meter, micro_batch=8)
    problem = Problem(x, GOAL, KEY, FiniteDifferences(16, "coordinates")(asked), threat, 10)
    found = search(problem, bim(step=0.3), meter, Plan(10, certain=True))
    exact = Oracle(BARE, margin(), Threat(Linf(0.05)), Meter(None), micro_batch=8)
    free = Problem(x, GOAL, KEY, exact, Threat(Linf(0.05)), 10)
    other = search(free, bim(step=0.3), exact.meter, Plan(10, certain=True))
    assert torch.allclose(found.x, other.x)
    assert found.backwards.tolist() == [0] * 5
    assert bool(threat.admits(found.x, x).all())


def asks(**wants):
    """An attack that does nothing but ask, and stays where it is."""

    def step(p, s, t):
        p.oracle(s.x, p.goal, p.key.fold("step", t), **wants)
        return Point(s.x)

    return Attack(lambda p: Point(p.x0), step)


@pytest.mark.parametrize("access", ["scores", "labels"])
@pytest.mark.parametrize("attack", [pgd(), bim(), asks(gradient=True)])
def test_who_asks_for_gradients_without_the_right_is_refused(attack, access):
    asked = oracle(access)
    problem = Problem(X, GOAL, KEY, asked, asked.threat, 3)
    with pytest.raises(BadSetting, match=f"the threat grants {access} only"):
        search(problem, attack, asked.meter, Plan(3, confirm=1))
    assert asked.meter.forwards == 0


def test_who_asks_for_scores_without_the_right_is_refused():
    estimate = FiniteDifferences()(oracle("labels"))
    with pytest.raises(BadSetting, match="need scores, but the threat grants labels only"):
        estimate(X, GOAL, KEY)
    reading = oracle("labels", draws=3)(X, GOAL, KEY, gradient=False)
    assert (reading.loss, reading.gradient, reading.scores) == (None, None, None)
    assert set((reading.won * 3).round().tolist()) <= {0, 1, 2, 3}


class Counted(Oracle):
    """An oracle that counts what the network really answers."""

    def _logits(self, x, n, keys):
        self.__dict__["rows"] = self.__dict__.get("rows", 0) + n
        return super()._logits(x, n, keys)


@pytest.mark.parametrize("limit", range(1, 12))
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("access", ["scores", "labels"])
def test_the_limit_of_queries_is_never_exceeded_by_a_single_one(limit, draws, access):
    meter = Meter(limit)
    threat = Threat(Linf(0.2), access=access, passes=limit)
    asked = Counted(BARE, margin(), threat, meter, draws, micro_batch=8)
    for i in range(limit // draws):
        asked(X, GOAL, KEY.fold(i), gradient=False)
    with pytest.raises(BudgetSpent, match=f"more than the limit of {limit}"):
        asked(X, GOAL, KEY.fold(limit), gradient=False)
    assert meter.forwards == asked.__dict__.get("rows", 0) == limit // draws * draws


@pytest.mark.parametrize("limit", range(1, 16))
def test_the_limit_binds_a_search_by_gradients_and_by_estimates(limit):
    for access, backwards in (("gradients", True), ("scores", False)):
        threat = Threat(Linf(0.2), access=access, passes=limit)
        meter = Meter(limit)
        asked = Oracle(BARE, margin(), threat, meter, micro_batch=8)
        ask = asked if backwards else FiniteDifferences(3)(asked)
        problem = Problem(X, GOAL, KEY, ask, threat, 40)
        found = search(problem, pgd(), meter, Plan(40, confirm=1))
        assert bool(found.spent.all())
        spent = found.forwards + found.backwards - 3  # the three that settle, see `search`
        assert spent.max() <= limit
        assert spent.min() > limit - (2 if backwards else 3)  # the size of a call
        assert bool(found.backwards.max() > 0) is (backwards and limit > 1)


def test_bad_estimators_say_what_is_wrong():
    with pytest.raises(UnknownName, match='Did you mean "gaussian"'):
        FiniteDifferences(basis="gausian")
    with pytest.raises(BadSetting, match=r"directions >= 1 and step > 0, got 0 and 0\.01"):
        FiniteDifferences(directions=0)
    with pytest.raises(BadSetting, match="along 17 coordinates, but an image has 16"):
        FiniteDifferences(17, "coordinates")(oracle())(X, GOAL, KEY)
