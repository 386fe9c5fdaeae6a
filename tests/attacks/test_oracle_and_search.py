"""Readings are means over draws, passes are counted, and a search never trusts one lucky draw."""

from dataclasses import dataclass

import pytest
import torch

from besiege.attacks.attack import Attack, Point, Problem
from besiege.attacks.finite_differences import FiniteDifferences
from besiege.attacks.loss import cross_entropy, margin
from besiege.attacks.oracle import BudgetSpent, Meter, Oracle
from besiege.attacks.pgd import pgd
from besiege.attacks.search import Plan, search
from besiege.attacks.threat import Box, Linf, Threat
from besiege.core.batch import linf
from besiege.core.errors import BadSetting
from besiege.core.key import Key
from besiege.defenses.defense import Defense, Mean
from besiege.defenses.transform import Chain, Transform
from besiege.laws.problems import code_images, coin_defense, linear_classifier
from besiege.models.classifier import Classifier

SHAPE = (1, 4, 4)
KEY = Key.root(1, range(5))
X = KEY.fold("x").uniform(*SHAPE, dtype=torch.float64)
GOAL = torch.tensor([0, 1, 2, 0, 1])
MODEL = linear_classifier(3, SHAPE, dtype=torch.float64)
THREAT = Threat(Linf(0.2))


@dataclass(frozen=True)
class Noise(Transform):
    """Keyed noise with its exact gradient."""

    name: str = "noise"

    def draw(self, key, shape):
        return key.normal(*shape)

    def forward(self, x, draw):
        return x + 0.3 * draw.to(x.dtype) * x

    @property
    def surrogates(self):
        return {"exact": self.forward}


NOISY = Defense(Chain((Noise(),)), MODEL)
BARE = Defense(Chain(), MODEL)


def oracle(view=NOISY, loss=None, threat=THREAT, meter=None, **settings):
    return Oracle(view, loss or cross_entropy(), threat, meter or Meter(None), **settings)


# loss -> (itself, what it is of one row of logits, larger where the label is lost)
LOSSES = {
    "cross-entropy": (cross_entropy(), lambda z, g: z.logsumexp(-1) - z[g]),
    "margin": (margin(), lambda z, g: torch.cat([z[:g], z[g + 1 :]]).max() - z[g]),
}


def by_hand(average, n, value):
    """Loss and gradient of n draws with plain autograd, an example at a time."""
    keys = KEY.spread("draw", n)
    losses, slopes = [], []
    for i, goal in enumerate(GOAL.tolist()):
        leaf = X[i : i + 1].clone().requires_grad_()
        rows = keys[torch.arange(i * n, (i + 1) * n)]
        logits = NOISY.logits(leaf.expand(n, -1, -1, -1), rows)
        if average == "loss":
            loss = sum(value(z, goal) for z in logits) / n
        elif average == "logits":
            loss = value(sum(logits) / n, goal)
        else:
            loss = value((sum(z.exp() / z.exp().sum() for z in logits) / n).log(), goal)
        slopes.append(torch.autograd.grad(loss, leaf)[0])
        losses.append(loss.detach())
    return torch.stack(losses), torch.cat(slopes)


@pytest.mark.parametrize("micro_batch", [1, 4, 64])
@pytest.mark.parametrize("average", ["loss", "logits", "probabilities"])
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("targeted", [False, True])
def test_readings_are_autograds_mean_over_draws(average, n, micro_batch, loss, targeted):
    own, value = LOSSES[loss]
    threat = Threat(Linf(0.2), targeted)
    ask = oracle(loss=own, threat=threat, draws=n, average=average, micro_batch=micro_batch)
    reading = ask(X, GOAL, KEY)
    wanted, slope = by_hand(average, n, value)
    sign = -1 if targeted else 1
    assert torch.allclose(reading.loss, sign * wanted, atol=1e-9)
    assert torch.allclose(reading.gradient, sign * slope, atol=1e-9)


def test_the_averages_differ():
    """Or the test above would prove little."""
    found = [by_hand(a, 6, LOSSES["margin"][1])[1] for a in ("loss", "logits", "probabilities")]
    assert not torch.allclose(found[0], found[2], atol=1e-4)
    found = [by_hand(a, 6, LOSSES["cross-entropy"][1])[1] for a in ("loss", "logits")]
    assert not torch.allclose(found[0], found[1], atol=1e-4)


def test_shares_won_are_those_of_the_draws():
    reading = oracle(draws=50, micro_batch=7)(X, GOAL, KEY, gradient=False)
    logits = NOISY.logits(X.repeat_interleave(50, 0), KEY.spread("draw", 50))
    wrong = (logits.argmax(1).reshape(5, 50) != GOAL[:, None]).double().mean(1)
    assert torch.equal(reading.won, wrong)
    assert reading.gradient is None


@pytest.mark.parametrize(
    ("average", "gradient", "cost"),
    [("loss", True, (4, 4)), ("loss", False, (4, 0)), ("logits", True, (8, 4))],
)
def test_passes_are_counted(average, gradient, cost):
    meter = Meter(None)
    oracle(draws=4, average=average, meter=meter)(X, GOAL, KEY, gradient=gradient)
    assert (meter.forwards, meter.backwards) == cost


def test_a_vote_costs_its_draws():
    meter = Meter(None)
    view = Defense(NOISY.chain, MODEL, Mean(5))
    oracle(view, draws=2, meter=meter)(X, GOAL, KEY)
    assert (meter.forwards, meter.backwards) == (10, 10)


def test_access_is_what_the_threat_grants():
    scores = oracle(threat=Threat(Linf(0.1), access="scores"))
    with pytest.raises(BadSetting, match="asks for gradients, but the threat grants scores only"):
        scores(X, GOAL, KEY)
    assert scores(X, GOAL, KEY, gradient=False).scores is not None
    labels = oracle(threat=Threat(Linf(0.1), access="labels"))(X, GOAL, KEY, gradient=False)
    assert labels.scores is None
    assert labels.loss is None
    assert labels.won.shape == (5,)


def problem(view, x=X, goal=GOAL, steps=10, meter=None, key=KEY, **settings):
    meter = meter or Meter(None)
    return Problem(x, goal, key, oracle(view, meter=meter, **settings), THREAT, steps), meter


def test_a_limit_ends_a_search_with_its_best_point():
    p, meter = problem(BARE, meter=Meter(1))
    with pytest.raises(BudgetSpent, match="2 passes an image are more than the limit of 1"):
        p.ask(X, 0)
    p, meter = problem(BARE, meter=Meter(7), loss=margin())
    found = search(p, pgd(), meter, Plan(10, confirm=1))
    assert bool(found.spent.all())
    assert bool(THREAT.admits(found.x, X).all())
    assert found.backwards.tolist() == [3] * 5


def test_certain_successes_are_dropped_and_kept_as_they_were():
    p, meter = problem(BARE, steps=20)
    found = search(p, pgd(), meter, Plan(20, certain=True))
    done = found.claim == 1
    assert bool(done.any())
    assert bool((found.backwards[done] < 20).any())
    label = BARE.labels(found.x, KEY)
    assert torch.equal(label != GOAL, done)


def test_nothing_is_dropped_on_a_random_defense():
    p, meter = problem(NOISY, steps=12)
    found = search(p, pgd(), meter, Plan(12, confirm=4))
    assert found.backwards.tolist() == [12] * 5
    assert found.forwards.tolist() == [12 + 3 * 4] * 5


def test_a_lucky_draw_is_not_a_claim():
    label = torch.arange(400) % 10
    x, key = code_images(label, 10), Key.root(0, range(400))
    view, meter = coin_defense(0.8), Meter(None)
    asked = Oracle(view, margin(), Threat(Linf(0.03)), meter, micro_batch=400)
    p = Problem(x, label, key, asked, Threat(Linf(0.03)), 20)
    found = search(p, pgd(), meter, Plan(20, confirm=20))
    assert float(found.lucky.double().mean()) > 0.98
    assert float(found.claim.mean()) < 0.3


def test_the_best_point_is_kept_when_the_last_is_not():
    def advance(p, s, t):
        slope = p.slope(s.x, t)
        return Point(p.threat.project(s.x + (0.2 if t < 3 else -0.2) * slope.sign(), p.x0))

    p, meter = problem(BARE, loss=margin(), steps=6)
    wandering = Attack(lambda p: Point(p.x0), advance)
    found = search(p, wandering, meter, Plan(6, confirm=1))
    end = oracle(BARE, margin())(found.x, GOAL, KEY, gradient=False).loss
    assert torch.allclose(end, torch.maximum(found.loss.max(1).values, end))


def test_restarts_can_only_help():
    once, many = (
        search(problem(BARE, steps=2)[0], pgd(), Meter(None), Plan(2, restarts=r, certain=True))
        for r in (1, 6)
    )
    assert bool((many.claim >= once.claim).all())
    assert many.loss.shape == (5, 12)


def test_traces_do_not_depend_on_who_else_is_searched():
    p, meter = problem(BARE, steps=8)
    whole = search(p, pgd(), meter, Plan(8, certain=True))
    for i in range(5):
        p, meter = problem(BARE, X[i : i + 1], GOAL[i : i + 1], 8, key=KEY[i : i + 1])
        alone = search(p, pgd(), meter, Plan(8, certain=True))
        for name in ("x", "claim", "loss", "won", "forwards", "backwards"):
            assert torch.equal(getattr(alone, name)[0], getattr(whole, name)[i]), name


def test_what_is_observed_are_the_points_at_the_named_steps():
    seen = []
    p, meter = problem(NOISY, steps=6)
    plan = Plan(6, observe=lambda t, x, rows: seen.append((t, len(rows))), every=3, restarts=2)
    search(p, pgd(), meter, plan)
    assert seen == [(0, 5), (3, 5), (6, 5)]


def limited(access):
    network = linear_classifier(3, SHAPE, dtype=torch.float64).network
    return Classifier(network, 3, channels=1, access=access, name="limited").double()


@pytest.mark.parametrize("chain", [Chain(), Chain((Noise(),))], ids=["bare", "noisy"])
@pytest.mark.parametrize("access", ["scores", "labels"])
def test_what_a_model_cannot_tell_is_not_read(access, chain):
    """As if the threat granted no more, whatever it grants."""
    ask = oracle(Defense(chain, limited(access)))
    with pytest.raises(BadSetting, match=f"the model limited can tell {access} only"):
        ask(X, GOAL, KEY)
    reading = ask(X, GOAL, KEY, gradient=False)
    granted = oracle(Defense(chain, MODEL), threat=Threat(Linf(0.2), access=access))
    wanted = granted(X, GOAL, KEY, gradient=False)
    assert torch.equal(reading.won, wanted.won)
    for one, other in ((reading.loss, wanted.loss), (reading.scores, wanted.scores)):
        assert (one is None) == (access == "labels") == (other is None)
        assert one is None or torch.equal(one, other)


def test_many_points_are_asked_at_once():
    """Each under draws of its own; the reading of a point is that of the point alone."""
    points = torch.stack([X, X.flip(-1), X * 0.5], 1)
    meter = Meter(None)
    whole = oracle(meter=meter, draws=2, micro_batch=4)(points, GOAL, KEY, gradient=False)
    assert (meter.forwards, meter.backwards) == (6, 0)
    assert whole.won.shape == whole.loss.shape == (5, 3)
    assert whole.scores.shape == (5, 3, 3)
    keys = KEY.spread("point", 3)
    for i in range(3):
        own = keys[torch.arange(5) * 3 + i]
        alone = oracle(draws=2, micro_batch=4)(points[:, i], GOAL, own, gradient=False)
        assert torch.equal(alone.loss, whole.loss[:, i])
        assert torch.equal(alone.scores, whole.scores[:, i])
    same = oracle(micro_batch=4)(X[:, None].expand(-1, 2, -1, -1, -1), GOAL, KEY, gradient=False)
    assert not torch.equal(same.loss[:, 0], same.loss[:, 1])


def test_weights_give_the_gradient_of_weighted_mean_logits():
    weights = KEY.fold("weights").normal(3).double()
    for settings in ({"draws": 3}, {"draws": 3, "average": "probabilities"}):
        meter = Meter(None)
        reading = oracle(meter=meter, **settings)(X, GOAL, KEY, weights=weights)
        assert (meter.forwards, meter.backwards) == (3, 3)
        leaf = X.clone().requires_grad_()
        keys = KEY.spread("draw", 3)
        logits = NOISY.logits(leaf.repeat_interleave(3, 0), keys).reshape(5, 3, 3).mean(1)
        (slope,) = torch.autograd.grad((logits * weights).sum(), leaf)
        assert torch.allclose(reading.gradient, slope, atol=1e-12)
        assert torch.allclose(reading.scores, logits.detach(), atol=1e-12)
    estimate = FiniteDifferences(16, "coordinates", step=1e-4)(oracle(BARE))
    exact = oracle(BARE)(X, GOAL, KEY, weights=weights).gradient
    got = estimate(X, GOAL, KEY, weights=weights).gradient
    assert torch.allclose(got, exact, atol=1e-6)


def walk(*shares, nearest=True):
    """Asks points at these shares of the way from the clean image to a certain success."""

    def step(p, s, t):
        far = torch.stack([p.x0 + share * (FAR - p.x0) for share in shares], 1)
        p.query(far, t)
        return s

    return Attack(lambda p: Point(p.x0), step, nearest=nearest)


LOGITS = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64).expand(5, 3)  # away from label 1
FAR = (oracle(BARE)(X, GOAL, KEY, weights=LOGITS).gradient > 0).double()


def test_an_attack_for_the_nearest_keeps_the_nearest_success():
    """And goes on after the first; unsuccessful points are kept only while there is no success."""
    goal = BARE.labels(X, KEY)
    assert (BARE.labels(FAR, KEY) != goal).all()
    met_at = [
        next(i / 40 for i in range(1, 41) if BARE.labels(X + i / 40 * (FAR - X), KEY)[k] != goal[k])
        for k in range(5)
    ]
    threat = Threat(Box())
    shares = [i / 40 for i in range(1, 41)]
    for order in (shares, shares[::-1]):
        meter = Meter(None)
        problem = Problem(X, goal, KEY, oracle(BARE, threat=threat, meter=meter), threat, 2)
        found = search(problem, walk(*order), meter, Plan(2, certain=True))
        assert torch.equal(found.claim, torch.ones(5, dtype=torch.float64))
        assert (found.forwards >= 80).all()  # nobody is dropped
        got = linf(found.x - X) / linf(FAR - X)
        assert torch.allclose(got, torch.tensor(met_at, dtype=torch.float64))


def test_a_nearer_success_has_to_be_one_on_fresh_draws():
    """A classifier that answers by coin: lucky successes are near, and none is claimed."""
    label = torch.arange(200) % 10
    x, key = code_images(label, 10), Key.root(0, range(200))
    coin = coin_defense(0.8)
    for nearest, most in ((True, 0.25), (False, 0.3)):
        meter = Meter(None)
        ask = Oracle(coin, cross_entropy(), Threat(Linf(0.1)), meter, micro_batch=100)

        def step(p, s, t):
            p.query((p.x0 * (1 - 0.01 * t))[:, None].expand(-1, 4, -1, -1, -1), t)
            return s

        attack = Attack(lambda p: Point(p.x0), step, nearest=nearest)
        problem = Problem(x, label, key, ask, Threat(Linf(0.1)), 5)
        found = search(problem, attack, meter, Plan(5, confirm=32))
        assert found.lucky.float().mean() > 0.9
        assert 0.1 < found.claim.mean() < most
        assert (found.claim > 0.5).float().mean() < 0.02
