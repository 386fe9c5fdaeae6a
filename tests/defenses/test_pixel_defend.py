"""PixelDefend and the denoiser on densities and networks whose answer is known by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from besiege.core.errors import BadImages, BadSetting
from besiege.core.key import Key
from besiege.defenses.catalog import parse_chain
from besiege.defenses.denoiser import Denoiser
from besiege.defenses.pixel_defend import PixelDefend
from besiege.models.toy import Toy, ToyDensity, ToyFilter

LEVELS = Key.root(1, range(5)).fold("x").integers(256, 2, 4, 5)
X = LEVELS.double() / 255
MODES = Key.root(2, [0]).integers(256, 2, 4, 5)[0]


def independent(levels: Tensor, c: int, i: int, j: int) -> Tensor:
    """Each value by itself: likeliest at its own mode, the less the farther."""
    value = torch.arange(256)
    return -(value - MODES[c, i, j]).abs().double().expand(len(levels), -1)


def test_independent_values_go_to_the_nearest_to_their_mode() -> None:
    want = torch.minimum(torch.maximum(MODES, LEVELS - 16), LEVELS + 16).clamp(0, 255)
    got = PixelDefend(independent).forward(X, None) * 255
    torch.testing.assert_close(got, want.double())


def test_values_follow_their_changed_neighbour_on_the_left() -> None:
    """A walk along each row, by hand: every value sees what the one before it became."""
    want = LEVELS.clone()
    for b, c, i in [(b, c, i) for b in range(5) for c in range(2) for i in range(4)]:
        left = 128
        for j in range(5):
            value = int(LEVELS[b, c, i, j])
            left = min(max(left, value - 40, 0), value + 40, 255)
            want[b, c, i, j] = left
    got = PixelDefend(ToyDensity(), eps=40).forward(X, None) * 255
    torch.testing.assert_close(got, want.double())


def test_the_order_is_by_rows_then_columns_then_channels() -> None:
    seen: list[tuple[int, int, int]] = []

    def watching(levels: Tensor, c: int, i: int, j: int) -> Tensor:
        seen.append((i, j, c))
        return independent(levels, c, i, j)

    PixelDefend(watching).forward(X, None)
    assert seen == sorted(seen)
    assert len(seen) == 40


def test_the_current_value_drifts_over_sweeps_only() -> None:
    one = [PixelDefend(independent, around=a).forward(X, None) for a in ("original", "current")]
    assert torch.equal(*one)
    still, drifting = (
        PixelDefend(independent, eps=8, sweeps=3, around=a).forward(X, None) * 255
        for a in ("original", "current")
    )
    assert (still - LEVELS).abs().max() <= 8
    want = torch.minimum(torch.maximum(MODES, LEVELS - 24), LEVELS + 24)
    torch.testing.assert_close(drifting, want.double())


def test_ties_go_to_the_lowest_level() -> None:
    got = PixelDefend(lambda x, c, i, j: torch.zeros(len(x), 256), eps=3).forward(X, None) * 255
    torch.testing.assert_close(got, (LEVELS - 3).clamp_min(0).double())


def test_a_density_of_another_shape_is_refused() -> None:
    with pytest.raises(BadImages, match=r"\(16, 256\) of one value"):
        PixelDefend(lambda x, c, i, j: torch.zeros(len(x), 255)).forward(X, None)
    with pytest.raises(BadSetting, match=r"0\.\.255"):
        PixelDefend(independent, eps=300)


def halved(x: Tensor) -> Tensor:
    return x / 2


@pytest.mark.parametrize(
    ("form", "want", "gain"),
    [("direct", X / 2, 0.5), ("noise", X / 2, 0.5), ("correction", 1.5 * X, 1.5)],
)
def test_a_linear_denoiser_and_its_gradient(form: str, want: Tensor, gain: float) -> None:
    leaf = X.clone().requires_grad_()
    link = Denoiser(halved, form=form)
    out = link.surrogates["exact"](leaf, None)
    torch.testing.assert_close(out.detach(), want.clamp(0, 1))
    (back,) = torch.autograd.grad(out.sum(), leaf)
    torch.testing.assert_close(back, gain * (want <= 1).double())


def test_a_filter_is_scipys() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    kernel = ToyFilter().kernel.double().numpy()
    want = [[ndimage.correlate(c, kernel, mode="nearest") for c in image] for image in X.numpy()]
    got = Denoiser(ToyFilter()).forward(X, None)
    torch.testing.assert_close(got, torch.tensor(np.array(want)), atol=1e-12, rtol=0)


OWN = """
import torch

def halve(x):
    return x / 2

network = torch.nn.Dropout()
number = 3

def density(levels, c, i, j):
    return torch.zeros(len(levels), 256)
"""


def test_own_files_in_a_chain(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    at = tmp_path / "own.py"
    chain = parse_chain(f"denoiser:network={at}:halve + pixel-defend:eps=2,density={at}:density")
    got = chain.forward(X, None) * 255
    torch.testing.assert_close(got, ((LEVELS / 2).double().round() - 2).clamp_min(0))
    for name, says in (("network", "training mode"), ("number", "cannot be called")):
        with pytest.raises(BadSetting, match=says):
            parse_chain(f"denoiser:network={at}:{name}")
    with pytest.raises(BadSetting, match=r'"path\.py:NAME"'):
        parse_chain("denoiser:network=unet")


def test_a_network_of_another_shape_is_refused() -> None:
    network: Any = Toy()
    with pytest.raises(BadImages, match="where the same shape was expected"):
        Denoiser(network).forward(X, None)
