"""Stochastic local quantisation: the released outputs, and blocks of the real codec's images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from besiege.core.errors import BadImages, BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.jpeg import Jpeg
from besiege.defenses.shield import Shield
from besiege.defenses.transform import surrogate_of
from besiege.ops.jpeg import recoded
from besiege.ops.rounding import soft_round

RELEASED = Shield(rounding="truncate")


def loaded(shared: Path, name: str) -> dict[str, NDArray[Any]]:
    with np.load(shared / "golden" / "p0" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def through(link: Shield, pixels: NDArray[Any], choice: NDArray[Any]) -> NDArray[Any]:
    x = torch.from_numpy(pixels / 255).permute(2, 0, 1)[None]
    out = link.forward(x, torch.from_numpy(choice.astype(np.int64))[None])
    return (out[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


@pytest.mark.shared
@pytest.mark.parametrize("size", [32, 96, 99])
def test_released_at_other_sizes(shared: Path, size: int) -> None:
    golden, pixels = loaded(shared, "shield"), loaded(shared, "inputs")
    got = through(RELEASED, pixels[f"x{size}"], golden[f"g_Z_{size}"])
    np.testing.assert_array_equal(got, golden[f"g_out_{size}"])


@pytest.mark.shared
def test_released_at_299(shared: Path) -> None:
    golden, pixels = loaded(shared, "shield"), loaded(shared, "inputs")
    x299 = pixels["x99"].repeat(4, 0).repeat(4, 1)[:299, :299]
    got = through(RELEASED, x299, golden["p0_Z_299"])
    np.testing.assert_array_equal(got[:64, :64], golden["p0_out_299_tl"])
    np.testing.assert_array_equal(got[-67:, -67:], golden["p0_out_299_br"])


def images(*shape: int) -> Tensor:
    return Key.root(2, range(3)).fold("image").uniform(*shape)


@pytest.mark.parametrize("shape", [(3, 19, 40), (1, 9, 8)])
def test_each_block_is_that_of_the_codec(shape: tuple[int, int, int]) -> None:
    x, link = images(*shape), Shield(lowest=5, highest=95, step=30)
    draw = link.draw(Key.root(0, range(3)), shape)
    got = link.forward(x, draw)
    coded = [Jpeg(quality=q).forward(x, None) for q in (5, 35, 65, 95)]
    for i in range(3):
        for row in range(-(-shape[1] // 8)):
            for column in range(-(-shape[2] // 8)):
                block = (i, slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, None))
                block = (*block[:3], slice(8 * column, 8 * column + 8))
                assert torch.equal(got[block], coded[int(draw[i, row, column])][block])


def test_draws_are_even() -> None:
    draw = Shield().draw(Key.root(1, range(4)), (3, 299, 299))
    assert draw.shape == (4, 38, 38)
    shares = draw.flatten().bincount() / draw.numel()
    assert (shares - 1 / 4).abs().max() < 4 * (0.1875 / draw.numel()) ** 0.5


def test_soft_is_chosen_by_the_same_draw() -> None:
    x, link = images(3, 16, 16).double(), Shield()
    draw = torch.tensor([[[0, 1], [2, 3]]]).expand(3, -1, -1)
    got = surrogate_of(link, "soft")(x, draw)
    for i, quality in enumerate((20, 40, 60, 80)):
        want = recoded(x * 255, quality, (2, 2), soft_round) / 255
        row, column = 8 * (i // 2), 8 * (i % 2)
        block = (..., slice(row, row + 8), slice(column, column + 8))
        torch.testing.assert_close(got[block], want[block])


def test_bad_settings() -> None:
    with pytest.raises(BadSetting, match="end with highest, got lowest=20, highest=80, step=25"):
        Shield(step=25)
    with pytest.raises(BadSetting, match="at least two"):
        Shield(lowest=80)
    with pytest.raises(BadSetting, match="step=0"):
        Shield(step=0)
    with pytest.raises(BadSetting, match="1 to 100, got 120"):
        Shield(highest=120)
    with pytest.raises(UnknownName, match='Did you mean "truncate"'):
        Shield(rounding="trunc")
    with pytest.raises(BadImages, match="1 or 3"):
        Shield().forward(images(2, 8, 8), Shield().draw(Key.root(0, range(3)), (2, 8, 8)))
