"""Quilting without a seam, square by square in NumPy."""

import itertools
from pathlib import Path

import numpy as np
from torch import Tensor

from besiege.core.key import Key
from besiege.defenses.quilting import Quilting


def greys(seed: int, *shape: int) -> Tensor:
    return Key.root(seed, range(shape[0])).integers(256, *shape[1:])


def test_each_square_shows_the_neighbour_that_was_drawn(tmp_path: Path) -> None:
    """Squares side by side, and all neighbours by NumPy."""
    base, x = greys(6, 20, 16), greys(7, 1, 1, 8, 12)
    np.save(tmp_path / "db.npy", base.numpy().astype(np.uint8))
    link = Quilting(str(tmp_path / "db.npy"), size=4, overlap=0, k=5, seam="overwrite")
    draw = link.draw(Key.root(0, [3]), (1, 8, 12))
    assert draw is not None
    assert draw.shape == (1, 2, 3)
    got = (link.forward(x / 255, draw) * 255).round()[0, 0].numpy()
    for i, j in itertools.product(range(2), range(3)):
        block = slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4)
        distance = ((base.numpy() - x[0, 0].numpy()[block].reshape(-1)) ** 2).sum(1)
        want = base[np.argsort(distance, kind="stable")[draw[0, i, j]]]
        np.testing.assert_array_equal(got[block], want.reshape(4, 4))
    assert len(draw.unique()) > 1
