"""Attacks by scores, and on few pixels, where the answer is known."""

import pytest
import torch
from torch import nn

from besiege.attacks.adam import adam
from besiege.attacks.attack import Problem
from besiege.attacks.genattack import genattack
from besiege.attacks.jsma import jsma
from besiege.attacks.local_search import local_search
from besiege.attacks.loss import cross_entropy, margin
from besiege.attacks.one_pixel import _children, one_pixel
from besiege.attacks.oracle import Meter, Oracle
from besiege.attacks.threat import L0, Linf, Threat
from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain
from besiege.laws.problems import code_images, coin_defense
from besiege.models.classifier import Classifier
from besiege.ops.paint import paint
from besiege.study.judge import Judging, judge
from besiege.study.recipe import Recipe
from besiege.study.recipes import RECIPES
from besiege.study.siege import Siege

SHAPE = (3, 4, 4)
KEY = Key.root(2, range(6))
X = 0.35 + 0.3 * KEY.uniform(*SHAPE)
W = Key.root(3, [0]).normal(*SHAPE)[0]


def bare(weight=W, short=100.0):
    """Logits 0 and w (x - 1/2) - short: label 0 as long as that is not made good."""
    layer = nn.Linear(weight.numel(), 2)
    with torch.no_grad():
        layer.weight[0], layer.bias[0] = 0, 0
        layer.weight[1], layer.bias[1] = weight.flatten(), -short - 0.5 * weight.sum()
    channels = weight.shape[0]
    network = nn.Sequential(nn.Flatten(), layer)
    return Defense(Chain(), Classifier(network, 2, channels=channels).eval())


def gains(x, weight=W):
    """The most that each pixel can add to the second logit, (B, H * W), largest first."""
    room = torch.where(weight > 0, 1 - x, x)
    return (weight.abs() * room).sum(1).flatten(1).sort(1, descending=True).values


def reached(spec, ball, steps, access="scores", weight=W, x=X, **settings):
    """By how much the second logit grew, (B,), and what was found."""
    recipe = Recipe("r", attack=spec, loss="margin", steps=steps, **settings)
    zero = torch.zeros(len(x), dtype=torch.int64)
    found = Siege(bare(weight), recipe, Threat(ball, access=access)).attack(x, zero, KEY[: len(x)])
    return ((found.x - x) * weight).flatten(1).sum(1), found


@pytest.mark.parametrize("targeted", [False, True])
def test_one_pixel_finds_the_best_pixel_and_its_colour(targeted):
    zero = torch.full((6,), int(targeted))
    for eps, share in ((1, 0.99), (3, 0.7)):
        best = gains(X)[:, :eps].sum(1)
        siege = Siege(
            bare(),
            Recipe("r", attack="one-pixel:population=40", steps=40, loss="margin"),
            Threat(L0(eps), targeted, "scores"),
        )
        found = siege.attack(X, zero, KEY)
        grew = ((found.x - X) * W).flatten(1).sum(1)
        assert bool((grew <= best * 1.0001).all())
        assert float((grew / best).median()) > share
        assert float((grew / best).min()) > 0.6
        assert found.forwards.tolist() == [40 * 40 + 1] * 6


def test_one_pixel_succeeds_just_beyond_its_optimum_and_not_before():
    best = gains(X)[:, 0]
    for factor, falls in ((0.99, True), (1.01, False)):
        for i in range(2):
            here = slice(i, i + 1)
            start = (W * (X[i] - 0.5)).sum() + factor * best[i]
            recipe = Recipe("r", attack="one-pixel:population=100", steps=20)
            siege = Siege(bare(short=float(start)), recipe, Threat(L0(1), access="scores"))
            found = siege.attack(X[here], torch.zeros(1, dtype=torch.int64), KEY[here])
            assert bool(found.claim[0] >= 1) is falls


def test_children_mix_three_different_parents():
    genes = torch.cat([torch.zeros(1, 7, 2), torch.eye(7)[None]], 2)[:, :, None].repeat(40, 1, 1, 1)
    child = _children(genes, 0.5, None, Key.root(0, range(40)))[:, :, 0, 2:]
    assert torch.equal(child.amax(2), torch.ones(40, 7))  # a; it would be 1/2 if c were a
    assert torch.equal(child.sum(2), torch.full((40, 7), 1.5))  # and b, which neither a nor c is
    assert len({tuple(row) for row in child.flatten(0, 1).tolist()}) > 35


def test_children_of_the_best_differ_from_it_by_half_a_difference_of_two():
    genes = torch.cat([torch.zeros(1, 7, 2), torch.eye(7)[None]], 2)[:, :, None].repeat(40, 1, 1, 1)
    best = torch.arange(40) % 7
    child = _children(genes, 0.5, best, Key.root(0, range(40)))[:, :, 0, 2:]
    own = child.gather(2, best[:, None, None].expand(-1, 7, 1))
    assert torch.equal(own, torch.ones(40, 7, 1))
    assert torch.equal(child.sum(2), torch.full((40, 7), 1.5))


def test_parents_that_are_asked_again_cost_as_much_as_their_children():
    _, found = reached("one-pixel:population=5,again=true", L0(1), 3)
    assert found.forwards.tolist() == [5 + 10 + 10 + 1] * 6


def test_local_search_on_a_linear_model_is_the_greedy_choice():
    extreme = (W * ((X >= 0.5).float() - X)).sum(1).flatten(1)
    for eps in (1, 4):
        best = extreme.sort(1, descending=True).values[:, :eps].sum(1)
        grew, found = reached(
            "local-search:candidates=16,best=1,radius=4,move=tried", L0(eps), eps + 2
        )
        assert torch.allclose(grew, best, rtol=1e-4)
        assert found.forwards.tolist() == [16 * (eps + 2) + 1] * 6


def test_local_search_looks_around_what_it_changed():
    weight = torch.zeros(1, 9, 9)
    weight[0, 2:5, 2:5] = 1.0  # a hill
    weight[0, 8, 8] = 0.9  # beside it, out of reach
    x = torch.full((6, 1, 9, 9), 0.6)
    spec = "local-search:candidates=81,best=1,radius=1,move=tried"
    _, found = reached(spec, L0(5), 5, weight=weight, x=x)
    changed = (found.x != x).flatten(1)
    assert changed.sum(1).tolist() == [5] * 6
    assert not bool(changed.reshape(6, 9, 9)[:, 5:].any())


def test_the_cyclic_move_comes_in_at_the_other_end():
    x = torch.tensor([0.5, 0.6, 0.9, 0.05, 1.0])[None, None, None].expand(1, 1, 1, 5)
    weight = torch.ones(1, 1, 5)
    weight[0, 0, 4] = -1
    problem = Problem(
        x,
        torch.zeros(1, dtype=torch.int64),
        Key.root(0, [0]),
        Oracle(bare(weight), margin(), Threat(L0(5), access="scores"), Meter(None)),
        Threat(L0(5), access="scores"),
        1,
    )
    attack = local_search(best=5)
    moved = attack.step(problem, attack.init(problem), 0).x.flatten().tolist()
    assert moved == pytest.approx([0.5, 0.65, 0.1, 0.825, 0.25])


def test_paint_is_a_loop_over_pixels():
    place = KEY.fold("place").integers(16, 4, 3)
    colour = KEY.fold("colour").uniform(4, 3, 3)
    found = paint(X, place, colour)
    for b in range(6):
        for n in range(4):
            image = X[b].clone()
            for index in set(place[b, n].tolist()):
                here = [colour[b, n, k] for k in range(3) if place[b, n, k] == index]
                image[:, index // 4, index % 4] = torch.stack(here).amax(0)
            assert torch.equal(found[b, n], image)


def test_jsma_one_entry_at_a_time_is_the_optimum_of_a_linear_model():
    flat = torch.full_like(X, 0.5)
    for eps in (1, 3):
        spec = "jsma:pairs=false,direction=either"
        grew, found = reached(spec, L0(eps), 3 * eps, "gradients", x=flat)
        # Greedy by entries: a pixel is entered by its longest entry.
        order = W.abs().amax(0).flatten().argsort(descending=True)[:eps]
        assert torch.allclose(
            grew, 0.5 * W.abs().flatten(1).sum(0)[order].sum().expand(6), rtol=1e-4
        )
        assert found.backwards.tolist() == [6 * eps] * 6


def test_pgd_by_the_whole_gradient_is_the_optimum_of_a_linear_model_on_few_pixels():
    for eps in (1, 5):  # far steps are projected on the pixels with the most to gain
        spec = "pgd:direction=normalised,decay=constant,step=50,start=clean"
        grew, _ = reached(spec, L0(eps), 3, "gradients")
        assert torch.allclose(grew, gains(X)[:, :eps].sum(1), rtol=1e-3)


def one_step(attack, weights, x, ball, targeted=True):
    """A step on logits `weights` (K, D) x, and the wanted label 1."""
    layer = nn.Linear(weights.shape[1], len(weights), bias=False)
    with torch.no_grad():
        layer.weight.copy_(weights)
    view = Defense(Chain(), Classifier(nn.Sequential(nn.Flatten(), layer), len(weights)).eval())
    threat = Threat(ball, targeted)
    goal = torch.ones(len(x), dtype=torch.int64)
    ask = Oracle(view, cross_entropy(), threat, Meter(None))
    problem = Problem(x, goal, Key.root(0, range(len(x))), ask, threat, 1)
    return attack.step(problem, attack.init(problem), 0).x


@pytest.mark.parametrize("sign", [1, -1])
def test_jsma_takes_the_best_of_all_pairs(sign):
    x = torch.full((1, 3, 2, 3), 0.5)
    for seed in range(5):
        weights = Key.root(seed, [0]).normal(4, 18)[0]
        a, b = weights[1], weights.sum(0) - weights[1]
        best, pair = 0.0, None
        for p in range(18):
            for q in range(p):
                up, down = sign * (a[p] + a[q]), sign * (b[p] + b[q])
                if up > 0 and down < 0 and -up * down > best:
                    best, pair = float(-up * down), {p, q}
        direction = "up" if sign > 0 else "down"
        for candidates in (18, 9):  # nine are enough here
            found = one_step(jsma(0.2, direction, candidates=candidates), weights, x, L0(6))
            change = (found - x).flatten()
            assert set(change.nonzero()[:, 0].tolist()) == pair
            assert change[change != 0].tolist() == pytest.approx([0.2 * sign] * 2)


def test_jsma_without_a_rightful_pair_still_moves_what_helps():
    weights = torch.ones(3, 12) + 0.1 * torch.arange(12)[None] * torch.tensor([[0], [1], [0]])
    x = torch.full((1, 3, 2, 2), 0.5)  # every entry raises all logits
    found = one_step(jsma(1.0, "up"), weights, x, L0(2))
    assert (found - x).flatten().nonzero()[:, 0].tolist() == [10, 11]
    one = one_step(jsma(1.0, "up"), weights, x, L0(1))
    assert (one - x).flatten().nonzero()[:, 0].tolist() == [7, 11]  # of one pixel
    assert torch.equal(one_step(jsma(1.0, "up"), weights, x, L0(0)), x)


def test_the_elite_survives_and_plateaus_are_counted():
    threat = Threat(Linf(0.1), access="scores")
    zero = torch.zeros(6, dtype=torch.int64)
    p = Problem(X, zero, KEY, Oracle(bare(), margin(), threat, Meter(None)), threat, 60)
    attack = genattack(patience=3)
    state = attack.init(p)
    values = []
    for t in range(60):
        state = attack.step(p, state, t)
        values.append(state.fitness.amax(1))
        assert torch.allclose(state.record, state.fitness.amax(1), rtol=1e-4)
    trace = torch.stack(values)
    assert bool((trace.diff(dim=0) > -1e-4).all())
    assert float((trace[-1] - trace[0]).min()) > 0.5
    waiting = (trace.diff(dim=0) <= 0).sum(0)
    assert bool((state.plateaus <= waiting // 3).all())
    assert int(state.plateaus.max()) > 0


@pytest.mark.parametrize(
    ("recipe", "factor"),
    [
        (Recipe("g", attack="genattack:patience=20,temperature=0.3", steps=150), 1.3),
        (RECIPES.build("spsa", steps=40), 1.05),
        (RECIPES.build("nes", steps=20), 1.05),
    ],
    ids=["genattack", "spsa", "nes"],
)
def test_by_scores_success_just_beyond_the_smallest_radius(recipe, factor):
    zero = torch.zeros(1, dtype=torch.int64)
    for i in range(2):
        start = (W * (X[i] - 0.5)).sum()
        for gap, falls in ((factor, True), (0.99, False)):
            defense = bare(short=float(start + 0.1 * W.abs().sum() / gap))
            siege = Siege(defense, recipe, Threat(Linf(0.1), access="scores"))
            found = siege.attack(X[i : i + 1], zero, KEY[i : i + 1])
            assert bool(found.claim[0] >= 1) is falls
            assert int(found.backwards[0]) == 0


@pytest.mark.parametrize(
    ("spec", "ball"),
    [
        ("one-pixel:population=8", L0(1)),
        ("one-pixel:population=8,again=true", L0(1)),
        ("local-search:candidates=8,best=1", L0(1)),
        ("genattack", Linf(0.03)),
        ("jsma", L0(1)),
        ("adam", Linf(0.03)),
    ],
)
def test_a_coin_keeps_its_true_value(spec, ball):
    label = torch.arange(60) % 10
    x, key = code_images(label, 10, (1, 5, 5)), Key.root(0, range(60))
    coin, threat = coin_defense(0.8), Threat(ball)
    found = Siege(coin, Recipe("r", attack=spec, steps=3), threat).attack(x, label, key)
    verdict = judge(coin, threat, found.x, x, key, Judging(draws=20))
    right = (verdict.predicted == label[:, None]).double().mean()
    assert float(right) == pytest.approx(0.8, abs=0.05)
    assert float((found.claim > 0.5).double().mean()) < 0.1


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: one_pixel(base="bests"), UnknownName, 'Did you mean "best"?'),
        (lambda: one_pixel(population=3), BadSetting, "population >= 4 and weight > 0, got 3"),
        (lambda: local_search(factor=3), BadSetting, "factor in (0, 2]"),
        (lambda: local_search(move="cycle"), UnknownName, 'Did you mean "cyclic"?'),
        (lambda: genattack(rate=2), BadSetting, "rate in [0, 1], got 6, 100, 0, 1, 2"),
        (lambda: jsma(theta=0), BadSetting, "theta > 0 and candidates >= 2, got 0"),
        (lambda: jsma(direction="upp"), UnknownName, 'Did you mean "up"'),
        (lambda: adam(rate=0), BadSetting, "rate is a step on the [0, 1] scale and > 0, got 0"),
    ],
)
def test_bad_settings_say_what_is_wrong(make, error, says):
    with pytest.raises(error) as caught:
        make()
    assert says in str(caught.value)
