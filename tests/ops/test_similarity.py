"""Structural similarity beside scikit-image's."""

import numpy as np
import pytest
import torch

from besiege.core.errors import BadImages
from besiege.core.key import Key
from besiege.ops.similarity import structural_similarity


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 9, 40), (3, 7, 7)])
def test_scikit_image(shape):
    metrics = pytest.importorskip("skimage.metrics")
    key = Key.root(0, range(4))
    x = key.fold("x").uniform(*shape)
    y = (x + 0.2 * key.fold("y").normal(*shape)).clamp(0, 1)
    theirs = [
        metrics.structural_similarity(
            a.double().numpy(), b.double().numpy(), channel_axis=0, data_range=1.0
        )
        for a, b in zip(x, y, strict=True)
    ]
    ours = structural_similarity(x, y)
    assert np.allclose(ours.numpy(), theirs, atol=1e-9)
    assert torch.equal(structural_similarity(x[1:2], y[1:2]), ours[1:2])


def test_of_an_image_with_itself():
    x = Key.root(0, range(2)).uniform(3, 8, 9)
    assert torch.allclose(structural_similarity(x, x), torch.ones(2, dtype=torch.float64))
    assert (structural_similarity(x, 1 - x) < 0).all()


def test_too_small():
    x = torch.zeros(1, 3, 6, 9)
    with pytest.raises(BadImages, match="7 x 7"):
        structural_similarity(x, x)
