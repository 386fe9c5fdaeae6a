"""Projections are those of a convex solver, and 8-bit images in a ball the nearest there are."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from besiege.attacks.balls.catalog import BALLS
from besiege.attacks.threat import L0, L1, L2, Box, Dissimilarity, Linf, RmsL2, Threat
from besiege.core.errors import BadSetting
from besiege.core.key import Key

SHAPE = (1, 2, 4)


def solved(ball, x, x0):
    """The projection of one image by sequential quadratic programming, in float64."""
    z, clean = x.flatten().numpy(), x0.flatten().numpy()
    d = len(z)
    if isinstance(ball, L1):  # x0 + up - down, so that the norm is linear
        given_bounds = [(0, 1 - c) for c in clean] + [(0, c) for c in clean]

        def change(v):
            return v[:d] - v[d:]

        room = {"type": "ineq", "fun": lambda v: ball.eps - v.sum()}
        size = 2 * d
    else:
        given_bounds = [(-c, 1 - c) for c in clean]
        unit = float(ball._unit(x0)[0])

        def change(v):
            return v

        room = {"type": "ineq", "fun": lambda v: (ball.eps * unit) ** 2 - (v**2).sum()}
        size = d
    found = minimize(
        lambda v: ((clean + change(v) - z) ** 2).sum(),
        np.zeros(size),
        method="SLSQP",
        bounds=given_bounds,
        constraints=[room],
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    there = x0 + torch.from_numpy(change(found.x)).reshape(x.shape)
    # The solver lets its constraint be broken a little, by how much varies with the processor.
    return x0 + (there - x0) * (ball.eps / ball.size(there, x0)).clamp_max(1)


@pytest.mark.parametrize("far", [0.1, 0.6, 3.0])
@pytest.mark.parametrize(
    "ball",
    [L2(0.3), L2(1.2), RmsL2(0.2), Dissimilarity(0.4), L1(0.2), L1(1.0), L1(3.0)],
    ids=lambda b: b.title,
)
def test_projections_are_a_convex_solvers(ball, far):
    key = Key.root(2, range(6))
    x0 = (key.fold("x0").uniform(*SHAPE, dtype=torch.float64) * 1.5 - 0.25).clamp(0, 1)
    x = x0 + far * key.fold("x").normal(*SHAPE).double()
    mine = ball.project(x, x0)
    for i in range(len(x)):
        other = solved(ball, x[i : i + 1], x0[i : i + 1])
        near, far_off = (((p - x[i : i + 1]) ** 2).sum().sqrt() for p in (mine[i : i + 1], other))
        assert near <= far_off + 1e-9
        assert torch.allclose(mine[i : i + 1], other, atol=2e-5)


def test_projections_by_hand():
    x0 = torch.tensor([[[[0.9, 0.5]]]], dtype=torch.float64)
    x = x0 + torch.tensor([[[[0.3, 0.4]]]])
    # Clipping leaves 0.1 of the first entry, so the second may keep sqrt(0.25^2 - 0.1^2).
    assert L2(0.25).project(x, x0).flatten().tolist() == pytest.approx([1, 0.5 + 0.0525**0.5])
    assert L1(0.3).project(x, x0).flatten().tolist() == pytest.approx([1, 0.7])
    # Scaling first and clipping then would give less.
    assert L2(0.25).size(L2(0.25).project(x, x0), x0).item() == pytest.approx(0.25, rel=1e-12)
    assert L1(0.3).size(L1(0.3).project(x, x0), x0).item() == pytest.approx(0.3, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([L1, L2, RmsL2, Dissimilarity]),
    st.floats(0, 1),
    st.sampled_from([1e-6, 1e-2, 1.0, 1e3]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_projections_are_admitted_idempotent_and_nearest(seed, kind, eps, far, dtype):
    ball, key = kind(eps), Key.root(seed, range(4))
    x0 = (key.fold("x0").uniform(3, 5, 5) * 1.5 - 0.25).clamp(0, 1).to(dtype)
    x = x0 + far * key.fold("x").normal(3, 5, 5).to(dtype)
    inside = ball.project(x, x0)
    assert bool(Threat(ball).admits(inside, x0).all())
    assert torch.allclose(ball.project(inside, x0), inside, atol=2e-7, rtol=0)
    gap = ((inside - x).double() ** 2).flatten(1).sum(1)
    for i in range(5):
        other = ball.start(x0, key.fold("other", i))
        for share in (1e-3, 0.1, 1.0):  # the segment to it is admitted as well
            beside = inside.double() + share * (other.double() - inside.double())
            further = ((beside - x.double()) ** 2).flatten(1).sum(1)
            assert bool((gap <= further * (1 + 1e-5) + 1e-9).all())


@pytest.mark.parametrize("kind", [L1, L2])
def test_scales_that_are_far_apart_are_projected_to_float64_precision(kind):
    key = Key.root(3, range(8))
    x0 = key.fold("x0").uniform(1, 16, 16, dtype=torch.float64)
    x = (
        x0
        + 10 ** (key.fold("power").uniform(1, 16, 16).double() * 19 - 16)
        * key.fold("sign").normal(1, 16, 16).double()
    )
    for eps in (1e-6, 1e-3, 0.5, 5.0):
        size = kind(eps).size(kind(eps).project(x, x0), x0)
        most = kind(eps).size(x.clamp(0, 1), x0).clamp_max(eps)
        assert torch.allclose(size, most, rtol=1e-7, atol=1e-14)


def nearest_by_trying(x, x0, ball, reach=2):
    """The distance from x to the nearest 8-bit image in the ball, of all near it."""
    level = (x.flatten() * 255).round()
    best = float("inf")
    for steps in product(range(-reach, reach + 1), repeat=len(level)):
        y = ((level + torch.tensor(steps)).clamp(0, 255) / 255).reshape(x.shape)
        if bool(Threat(ball).admits(y, x0)):
            best = min(best, float(((y - x) ** 2).sum()))
    return best**0.5


@pytest.mark.parametrize("ball", [L1(0.0195), L2(0.017), Linf(0.0104), Box(0.01), RmsL2(0.009)])
def test_eight_bit_points_are_the_nearest_in_the_ball(ball):
    threat = Threat(ball, eight_bit=True)
    lost = 0
    for seed in range(12):
        key = Key.root(seed, [0])
        x0 = key.fold("x0").integers(256, 1, 2, 2).double() / 255
        x = ball.project(x0 + 0.02 * key.fold("x").normal(1, 2, 2).double(), x0)
        sent = threat.submitted(x, x0)
        lost += not bool(Threat(ball).admits((x * 255).round() / 255, x0))
        gap, best = float(((sent - x) ** 2).sum().sqrt()), nearest_by_trying(x, x0, ball)
        if isinstance(ball, L2 | RmsL2):  # greedy
            assert gap <= 1.5 * best + 1e-9
        else:
            assert gap == pytest.approx(best, abs=1e-9)
    assert lost or isinstance(ball, Box), "plain rounding never left the ball: nothing was tested"


def test_flat_images_at_the_edge_keep_as_many_levels_as_fit():
    x0 = torch.full((1, 1, 10, 10), 100 / 255)
    for ball in (L1(60 / 255), L2(60**0.5 / 255)):
        x = ball.project(x0 + 0.5, x0)  # 0.6 or 0.77 of a level everywhere
        plain = (x * 255).round() / 255
        assert not bool(Threat(ball).admits(plain, x0))
        sent = Threat(ball, eight_bit=True).submitted(x, x0)
        assert bool(Threat(ball).admits(sent, x0))
        assert int((sent != x0).sum()) == 60


def test_a_ball_without_an_8_bit_image_gives_the_clean_one():
    x0 = torch.full((2, 1, 2, 2), 0.5)  # 127.5 levels
    x0[1] = 127 / 255
    for ball in (Linf(0.0005), L2(0.0005), L1(0.0005), Box(0.0005)):
        sent = Threat(ball, eight_bit=True).submitted(ball.project(x0 + 0.1, x0), x0)
        assert torch.equal(sent, x0)


def test_a_box_binds_each_entry_and_can_be_a_mask():
    patch = torch.zeros(1, 4, 4)
    patch[:, :2, :2] = 1
    ball = Box(low=1 - patch, high=patch)  # free where 0..1, frozen where 1..0
    x0 = Key.root(0, [0, 1]).uniform(1, 4, 4)
    found = ball.project(1 - x0, x0)
    assert torch.equal(found[..., :2, :2], (1 - x0)[..., :2, :2])
    assert torch.equal(found * (1 - patch), x0 * (1 - patch))
    threat = Threat(ball)
    assert bool(threat.admits(found, x0).all())
    assert not bool(threat.admits(1 - x0, x0).any())
    assert Box().name != ball.name != Box(low=patch, high=patch).name


def test_dissimilarity_is_relative_to_each_image():
    x0 = torch.stack([torch.full((1, 4, 4), g) for g in (0.0, 0.25, 0.5)])
    found = Dissimilarity(0.1).project(x0 + 0.4, x0)
    shift = (found - x0).flatten(1).norm(dim=1)
    assert shift.tolist() == pytest.approx([0, 0.1, 0.2], abs=1e-6)
    assert Dissimilarity(0.1).size(x0 + 1e-3, x0)[0] == torch.inf


def test_a_step_in_l1_moves_one_entry_in_a_hundred():
    gradient = Key.root(0, range(3)).normal(3, 20, 20)
    step = L1(1).ascent(gradient)
    moved = (step != 0).flatten(1)
    assert moved.sum(1).tolist() == [12] * 3
    least = gradient.abs().flatten(1)[moved].reshape(3, 12).amin(1)
    rest = gradient.abs().flatten(1).masked_fill(moved, 0).amax(1)
    assert bool((least >= rest).all())


def subsets(ball, x, x0, must=()):
    """Distance to x of the best image that differs from x0 in eps pixels, of all, for one image."""
    places = [(i, j) for i in range(x0.shape[2]) for j in range(x0.shape[3])]
    best = float("inf")
    for kept in combinations(places, int(ball.eps)):
        if set(must) <= set(kept):
            y = x0.clone()
            for i, j in kept:
                y[..., i, j] = x[..., i, j].clamp(0, 1)
            best = min(best, float(((y - x) ** 2).sum()))
    return best**0.5


@pytest.mark.parametrize("eps", [0, 1, 2, 4])
def test_projections_on_few_pixels_are_the_best_of_all_choices(eps):
    key, ball = Key.root(5, range(6)), L0(eps)
    x0 = key.fold("x0").uniform(3, 2, 3, dtype=torch.float64)
    x = x0 + 0.8 * key.fold("x").normal(3, 2, 3).double()  # much of it is clipped
    mine = ball.project(x, x0)
    for i in range(len(x)):
        gap = float((mine[i] - x[i]).norm())
        assert gap == pytest.approx(subsets(ball, x[i : i + 1], x0[i : i + 1]), abs=1e-12)
    assert ball.size(mine, x0).tolist() == [eps] * 6


def test_pixels_are_counted_once_and_ties_go_by_position():
    x0 = torch.full((1, 3, 2, 2), 0.5)
    x = x0.clone()
    x[0, :, 0, 1] += 0.25
    x[0, 2, 1, 1] += 5e-8  # rounding
    assert L0(1).size(x, x0).tolist() == [1]
    assert Threat(L0(1)).admits(x, x0).tolist() == [True]
    x[0, 0, 1, 0] -= 1e-6
    assert Threat(L0(1)).admits(x, x0).tolist() == [False]
    even = L0(2).project(x0 + 0.25, x0)
    assert (even[0, 0] != 0.5).tolist() == [[True, True], [False, False]]
    slope = torch.tensor([[[[3.0, -1], [0, 2]], [[0, -1], [-4, 0]]]])
    step = L0(2).ascent(slope)
    assert step.tolist() == [[[[0.5, 0], [0, 0]], [[0, 0], [-0.5, 0]]]]


def test_pixels_that_are_not_of_8_bit_have_to_change_first():
    x0 = torch.full((3, 1, 2, 2), 100 / 255, dtype=torch.float64)
    x0[:, 0, 0, 0] += 0.3 / 255
    x = x0.clone()
    x[0, 0, 1, 1], x[0, 0, 1, 0] = 0.9, 0.7
    x[1, 0, 0, 0] = 0.2
    sent = Threat(L0(2), eight_bit=True).submitted(x, x0)
    plain = (x * 255).round() / 255
    # One of the two pixels is free: it goes where the change was larger.
    assert sent[0].flatten().tolist() == pytest.approx([100 / 255, 100 / 255, 100 / 255, 230 / 255])
    assert torch.equal(sent[1:], plain[1:])
    assert torch.equal(Threat(L0(0), eight_bit=True).submitted(x0, x0), x0)


@pytest.mark.parametrize(
    ("ball", "says"),
    [
        (Linf(8 / 255), "linf 8/255"),
        (Linf(0.2), "linf 0.2"),
        (Linf(1), "linf 1"),
        (RmsL2(0.05), "rms 0.05"),
        (L2(0.5), "l2 0.5"),
        (L2(128 / 255), "l2 128/255"),
        (L1(12), "l1 12"),
        (L0(10), "l0 10"),
        (L0(12345), "l0 12345"),
        (Dissimilarity(0.06), "dissimilarity 0.06"),
        (Box(), "unrestricted"),
        (Box(8 / 255, 0.2, 0.8), "box 0.2..0.8 8/255"),
    ],
)
def test_a_threat_is_named_by_ball_and_radius(ball, says):
    assert Threat(ball).name == says


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: L2(-1), "ball l2: eps is a radius >= 0"),
        (lambda: L1(float("inf")), "ball l1: eps is a radius >= 0"),
        (lambda: L0(8 / 255), "counts pixels (all channels of one together), got 0.03"),
        (lambda: L0(-1), "ball l0: eps is a radius >= 0"),
        (lambda: Dissimilarity(3), "larger than the image itself"),
        (lambda: Box(low=-0.5), "low is a pixel value in [0, 1], got values from -0.5"),
        (lambda: BALLS.build("box:low=2", eps=1), "low is a pixel value"),
    ],
)
def test_bad_balls_say_what_is_wrong(make, says):
    with pytest.raises(BadSetting) as caught:
        make()
    assert says in str(caught.value)
