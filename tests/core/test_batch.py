"""Rows never mix, and sums have the same bits in any batch."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from besiege.core import batch
from besiege.core.batch import by_example, chunks, fold_sum, l2, linf, row_sum, rows, take
from besiege.core.key import Key


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor | None


def test_take_goes_into_nested_draws_and_keeps_named_tuples():
    draw = (torch.arange(3), Pair(torch.arange(6).reshape(3, 2), None), 7)
    some = take(draw, torch.tensor([2, 0]))
    assert some[0].tolist() == [2, 0]
    assert isinstance(some[1], Pair)
    assert some[1].a.tolist() == [[4, 5], [0, 1]]
    assert some[1].b is None
    assert some[2] == 7


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 700), st.integers(0, 3))
def test_row_sum_is_the_sum_and_ignores_its_batch(batch, size, seed):
    x = Key.root(seed, range(batch)).normal(size)
    total = row_sum(x)
    assert torch.allclose(total, x.double().sum(1).float(), atol=1e-4)
    alone = torch.cat([row_sum(x[i : i + 1]) for i in range(batch)])
    assert torch.equal(total, alone)


def test_row_sum_is_the_same_on_any_number_of_threads():
    x = Key.root(0, [0]).normal(300_000)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = row_sum(x)
        torch.set_num_threads(2)
        assert torch.equal(one, row_sum(x))
    finally:
        torch.set_num_threads(before)


def test_fold_sum_sums_the_draws_of_each_example():
    x = by_example(torch.arange(12.0).reshape(6, 2), 3)
    assert fold_sum(x).tolist() == [[6.0, 9.0], [24.0, 27.0]]


def test_norms_against_torch():
    x = Key.root(1, range(4)).normal(3, 5, 5)
    assert torch.allclose(l2(x), x.flatten(1).norm(dim=1), rtol=1e-6)
    assert torch.equal(linf(x), x.flatten(1).abs().max(1).values)
    assert rows(torch.ones(4), x).shape == (4, 1, 1, 1)


@pytest.mark.parametrize(("total", "size"), [(0, 3), (1, 3), (3, 3), (7, 3), (64, 32)])
def test_chunks_cover_every_row_once_in_windows_of_one_size(total, size):
    seen = []
    for window, index in chunks(total, size):
        assert len(index) == size
        seen += index[: window.stop - window.start].tolist()
    assert seen == list(range(total))


def test_pieces_are_the_whole_in_value_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PIECE_CPU", 20)
    x = Key.root(0, range(7)).normal(2, 4).requires_grad_()
    w, sizes = Key.root(1, range(7)).normal(2, 4), []

    def f(x: torch.Tensor, nothing: None, w: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return x * x * w

    out = batch.in_pieces(f, x, None, w)
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert sizes == [2, 2, 2, 1]
    assert torch.equal(out, x * x * w)
    assert torch.equal(slope, x * w + x * w)
    assert batch.in_pieces(f, x[:0], None, w[:0]).shape == (0, 2, 4)
