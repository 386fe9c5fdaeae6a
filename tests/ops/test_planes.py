"""The nearest point of a plane in the box is that of a linear or convex program."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from besiege.core.key import Key
from besiege.ops.planes import NORMS, onto_plane


def least(x, normal, gain, norm):
    """The smallest norm of a move in the box with this gain; l2 by bisection of its multiplier."""
    d = len(x)
    if norm == "l2":
        low, high = 0.0, 1e9
        for _ in range(200):
            v = (low + high) / 2
            move = np.clip(x + v * normal * np.sign(gain), 0, 1) - x
            low, high = (low, v) if normal @ move * np.sign(gain) >= abs(gain) else (v, high)
        return np.linalg.norm(move)
    # Of moves up - down: their sum, or a bound on all of them, is least.
    single = norm == "linf"
    cost = np.concatenate([np.zeros(2 * d) if single else np.ones(2 * d), np.ones(int(single))])
    above = np.hstack([np.eye(d), np.eye(d), -np.ones((d, 1))]) if single else None
    equal = np.concatenate([normal, -normal, np.zeros(int(single))])[None]
    bounds = [(0, 1 - v) for v in x] + [(0, v) for v in x] + [(0, None)] * int(single)
    limit = np.zeros(d) if single else None
    return linprog(cost, A_ub=above, b_ub=limit, A_eq=equal, b_eq=[gain], bounds=bounds).fun


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(NORMS), st.floats(-0.9, 0.9))
def test_the_move_is_the_smallest_with_its_gain(seed, norm, share):
    key = Key.root(seed, [0])
    x = key.fold("x").uniform(6, dtype=torch.float64)
    x = torch.where(key.fold("edge").bernoulli(0.3, 6), x.round(), x)
    normal = torch.where(key.fold("flat").bernoulli(0.8, 6), key.normal(6).double(), 0)
    toward = (normal * (share > 0) - normal * (share <= 0)) > 0
    most = (normal * (torch.where(toward, 1.0, 0.0).double() - x)).sum(1)
    gain = most * abs(share)
    z = onto_plane(x, normal, gain, norm)
    assert bool(((z >= 0) & (z <= 1)).all())
    assert ((normal * (z - x)).sum(1) - gain).abs() < 1e-9
    size = np.linalg.norm((z - x)[0].numpy(), {"l1": 1, "l2": 2, "linf": np.inf}[norm])
    optimum = least(x[0].numpy(), normal[0].numpy(), float(gain[0]), norm)
    assert size == pytest.approx(optimum, abs=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_a_plane_out_of_reach_is_approached_and_no_plane_moves_nothing(norm):
    x, normal = torch.full((2, 3), 0.25), torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 0.0]])
    z = onto_plane(x, normal, torch.tensor([9.0, 9.0]), norm)
    assert z.tolist() == [[1.0, 0.0, 0.25], [0.25, 0.25, 0.25]]
