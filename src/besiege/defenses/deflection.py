"""Pixel deflection: single pixels replaced by near ones, away from where the classifier looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from besiege.core.errors import BadSetting, one_of
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity
from besiege.models.activation import activation_map
from besiege.models.classifier import Classifier
from besiege.ops.moves import moved
from besiege.ops.wavelets import CONVENTIONS, denoised, wavelet


@dataclass(frozen=True)
class Deflection(Transform):
    """Pixel deflection: single pixels replaced by near ones, away from where the classifier looks.

    Move after move, in place: a pixel is drawn with weight 1 - map, and takes the value of one
    drawn evenly from the square of `window` around it (itself included) inside the image. Then
    BayesShrink softly thresholds wavelet details, in YCbCr where there are three channels, and the
    result is cut to [0, 1].

    deflections: number of moves.
    window: pixels each way, at least 1.
    form: "paper": a move takes all channels of a pixel. "released": of one channel, which take
        turns, so that the number is rounded up to a multiple of theirs; and row and column 0 are
        never a source.
    map: whether pixels are drawn by the robust class-activation map of the classifier behind this
        link (`models.activation`: five likeliest classes, halving weights; constant to gradients);
        evenly where there is none, as for a link by itself.
    sigma: noise that the denoiser assumes, in units of [0, 1]; 0 leaves it out.
    convention: what sigma means for colour. "2018": scikit-image's until 0.15, which stretches each
        YCbCr channel first, and with which the code was released. "rescaled": since 0.16.
    wavelet: an orthogonal one of PyWavelets; over all scales but the three coarsest.

    Released by the authors: form=released. By Qiu et al. 2020, who left out map and denoiser:
    form=released,deflections=1800,map=false,sigma=0. The released code redraws a position which its
    map refuses, in the next channel; here accepted positions are drawn at once, from the same
    distribution, and channels take turns strictly.

    Surrogates: "exact" goes through the denoiser and back to the pixel that each value came from,
    given draw and map; "moves" takes the denoiser for the identity; "identity" ignores both. Under
    PGD with 20 steps of one draw on 48 images of CIFAR-10 at linf 3/255, with 100 deflections in a
    window of 3, they leave 9 %, 13 % and 11 % of ResNet-20's accuracy (clean 71 %).
    Cost: with a map one more forward of the classifier, which no budget of passes counts.
    Raises BadModel where the classifier shows no feature map to make one of.

    Source: Prakash et al. 2018 (arXiv:1801.08926), algorithm 1 and sections 4 and 5, and the code
    released with it.
    """

    deflections: int = 200
    window: int = 10
    form: str = "paper"
    map: bool = True
    sigma: float = 0.04
    convention: str = "2018"
    wavelet: str = "db1"
    name: str = "deflection"
    classifier: Classifier | None = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        for what in ("deflections", "window"):
            value = getattr(self, what)
            if not (isinstance(value, int) and value >= 1):
                raise BadSetting(f"deflection: {what} is a whole number above 0, got {value}.")
        if not 0 <= self.sigma < float("inf"):
            raise BadSetting(f"deflection: sigma is at least 0, got {self.sigma}.")
        one_of("form", self.form, ("paper", "released"), "transform deflection")
        one_of("convention", self.convention, CONVENTIONS, "transform deflection")
        wavelet(self.wavelet)

    def beside(self, classifier: Classifier) -> Transform:
        """With the map of this classifier."""
        return replace(self, classifier=classifier) if self.map else self

    def draw(self, key: Key, shape: Shape) -> Tensor:
        """For each move: which pixel, source row and source column, (B, n, 3) float64 in [0, 1)."""
        return key.uniform(self._moves(shape[0]), 3, dtype=torch.float64)

    def forward(self, x: Tensor, draw: Tensor) -> Tensor:
        """x float (B, C, H, W) in [0, 1], deflected and denoised."""
        y = self._deflected(x, draw)
        if self.sigma == 0:
            return y
        return denoised(y, self.sigma, self.convention, self.wavelet).clamp(0, 1)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient given map and draw, that of the moves alone, or the link ignored."""
        return {"exact": self.forward, "moves": self._deflected, "identity": identity}

    def _moves(self, channels: int) -> int:
        """Moves an image: whole turns of the channels in the released form."""
        turn = channels if self.form == "released" else 1
        return -(-self.deflections // turn) * turn

    def _deflected(self, x: Tensor, draw: Tensor) -> Tensor:
        _, c, height, width = x.shape
        row, column = self._positions(x, draw[..., 0])
        near = [
            _nearby(at, u, size, self.window, first=int(self.form == "released" and size > 1))
            for at, u, size in ((row, draw[..., 1], height), (column, draw[..., 2], width))
        ]
        target, source = row * width + column, near[0] * width + near[1]
        if self.form == "paper":
            return moved(x.flatten(2), target, source).reshape(x.shape)
        plane = torch.arange(target.shape[1], device=x.device) % c * (height * width)
        return moved(x.flatten(1)[:, None], target + plane, source + plane).reshape(x.shape)

    def _positions(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column (B, n) of the pixel that each u (B, n) in [0, 1) names."""
        height, width = x.shape[-2:]
        if self.classifier is None:
            flat = (u * (height * width)).long()
        else:
            free = (1 - activation_map(self.classifier, x)).double().flatten(1)
            share = free.cumsum(1)
            flat = torch.searchsorted(share, u * share[:, -1:], right=True)
            flat = flat.clamp(max=height * width - 1)
        return flat // width, flat % width


def _nearby(at: Tensor, u: Tensor, size: int, window: int, first: int) -> Tensor:
    """The place within `window` of `at`, from `first` to size - 1, that u in [0, 1) names."""
    low, high = (at - window).clamp(min=first), (at + window).clamp(max=size - 1)
    return low + (u * (high - low + 1)).long()
