"""The judge draws afresh, on a stream that no attacker can name."""

import torch

from besiege.attacks.attack import Attack, Point
from besiege.attacks.catalog import ATTACKS
from besiege.attacks.threat import Linf, Threat
from besiege.core.entry import Entry
from besiege.core.key import Key
from besiege.laws.problems import code_images, coin_defense
from besiege.study.judge import Judging, answers, judge
from besiege.study.recipe import Recipe
from besiege.study.shard import Examples, siege_batch
from besiege.study.siege import Opponents, Siege

N = 300
LABEL = torch.arange(N) % 10
X, KEY = code_images(LABEL, 10), Key.root(4, range(N))
COIN = coin_defense(0.5)
THREAT = Threat(Linf(0.03))


def test_the_verdict_is_the_same_whatever_was_drawn_before():
    first = judge(COIN, THREAT, X, X, KEY, Judging(draws=7)).predicted
    answers(COIN, X, KEY.fold("attack"), 3, 32)
    assert torch.equal(first, judge(COIN, THREAT, X, X, KEY, Judging(draws=7)).predicted)
    assert first.shape == (N, 7)


def test_fewer_draws_are_the_first_of_more():
    many = judge(COIN, THREAT, X, X, KEY, Judging(draws=9)).predicted
    few = judge(COIN, THREAT, X, X, KEY, Judging(draws=4, micro_batch=5)).predicted
    assert torch.equal(many[:, :4], few)


def test_distances_are_those_of_the_points():
    x = X.clone()
    x[:, 0, 0, 0] += 0.02
    verdict = judge(COIN, THREAT, x, X, KEY, Judging(draws=1))
    assert torch.allclose(verdict.linf, torch.full((N,), 0.02).double(), atol=1e-6)
    assert torch.allclose(verdict.l1, verdict.l2, atol=1e-6)
    assert torch.allclose(verdict.rms, verdict.l2 / 4)
    assert verdict.l0.tolist() == [1 / 16] * N


def cheat() -> Attack:
    """Knows the seed and the judge's fold, and tries to look at the judge's draws."""

    def init(p):
        peeked.append(p.key.origin().fold("judge").values)
        return Point(p.x0)

    return Attack(init, lambda p, s, t: s)


peeked: list[torch.Tensor] = []


def test_no_attack_reaches_the_judges_stream():
    peeked.clear()
    attacks = ATTACKS.extended([Entry("cheat", cheat, "test")])
    siege = Siege(COIN, Recipe("cheat", attack="cheat", steps=1), THREAT, Opponents(attacks))
    siege.attack(X, LABEL, KEY)
    (seen,) = peeked
    assert not set(seen.tolist()) & set(KEY.fold("judge").values.tolist())


def outside() -> Attack:
    """Leaves the ball."""
    return Attack(lambda p: Point(p.x0), lambda p, s, t: Point((p.x0 + 0.5).clamp(0, 1)))


def test_a_point_outside_the_threat_counts_as_a_failed_attack():
    attacks = ATTACKS.extended([Entry("outside", outside, "test")])
    recipe = Recipe("outside", attack="outside", steps=1)
    siege = Siege(coin_defense(1.0), recipe, THREAT, Opponents(attacks))
    examples = Examples(list(range(N)), X, LABEL, torch.full_like(LABEL, -1))
    rows = siege_batch("c" * 16, siege, examples, 4, Judging(draws=2)).rows
    assert rows["predicted"] == [[label] * 2 for label in LABEL.tolist()]
    assert rows["linf"].max() == 0
    assert rows["flags"][0] == ["point outside the threat: judged at the clean image"]


def test_kept_images_show_the_first_judged_draw():
    siege = Siege(COIN, Recipe("r", steps=1), THREAT)
    examples = Examples(list(range(20)), X[:20], LABEL[:20], torch.full((20,), -1))
    shard = siege_batch("c" * 16, siege, examples, 4, Judging(draws=3), keep=range(20))
    for i in range(20):
        parts = shard.images[i]
        assert parts["predicted_adversarial"] == shard.rows["predicted"][i][0]
        seen = int(parts["seen_adversarial"].mean() * 10)
        assert seen == parts["predicted_adversarial"]


def traces_of(target: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares right and won of a coin that says label + 1 where it falls wrong."""
    siege = Siege(COIN, Recipe("r", steps=4), Threat(Linf(0.03), targeted=target is not None))
    targets = torch.full_like(LABEL, -1) if target is None else (LABEL + target) % 10
    examples = Examples(list(range(N)), X, LABEL, targets)
    traces = siege_batch("c" * 16, siege, examples, 4, Judging(every=2, step_draws=9)).traces
    assert traces is not None
    assert traces["judged_step"][0] == [0, 2, 4]
    return torch.tensor(traces["judged"]), torch.tensor(traces["judged_won"])


def test_the_trace_counts_the_goal_on_fresh_draws():
    for target in (None, 1):
        right, won = traces_of(target)
        assert abs(right.mean() - 0.5) < 0.03
        assert torch.allclose(won, 1 - right, atol=1e-6)
    right, won = traces_of(2)
    assert abs(right.mean() - 0.5) < 0.03
    assert not won.any()
