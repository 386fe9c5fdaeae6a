"""The protocol of every model: images in [0, 1] in, logits out, preprocessing inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from besiege.core.errors import BadImages, BadModel


class Classifier(nn.Module):
    """A network with its preprocessing inside, so that distances are measured on real pixels.

    forward: x float (B, channels, H, W) in [0, 1] -> logits (B, K). The image is resized to
    size x size (bilinear, antialiased, no crop) if `size` is given and differs, then becomes
    (x - mean) / std.

    network: any module; called in evaluation mode only (`network.eval()` is the caller's).
    classes: their number, or their names in the order of the logits.
    mean, std: one number for all channels, or one for each, in units of [0, 1].

    Raises BadImages for images that do not fit, BadModel for a network in training mode or logits
    that do not fit. Cost: one forward of the network.

    >>> flat = Classifier(nn.Flatten(), classes=12, mean=0.5, std=0.5).eval()
    >>> flat(torch.ones(2, 3, 2, 2)).shape
    torch.Size([2, 12])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        classes: int | Sequence[str],
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        size: int | None = None,
        name: str = "classifier",
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.classes = (
            tuple(str(i) for i in range(classes)) if isinstance(classes, int) else tuple(classes)
        )
        self.name = name
        self.channels = channels
        self.size = size
        self.network = network
        self.training = network.training
        self.register_buffer("mean", _per_channel("mean", mean, channels))
        self.register_buffer("std", _per_channel("std", std, channels))
        if not bool((self.std > 0).all()):
            raise BadModel(f"std of {name} must be above 0, not {std}.")

    @property
    def num_classes(self) -> int:
        """K, the number of logits."""
        return len(self.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images x (B, channels, H, W) in [0, 1]."""
        self._check_images(x)
        self._check_mode()
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(
                x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True
            )
        logits = self.network((x - self.mean) / self.std)
        return self._checked_logits(logits, len(x))

    def _check_images(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise BadImages(
                f"{self.name} takes images (B, {self.channels}, H, W), not {tuple(x.shape)}."
            )
        if x.dtype != self.mean.dtype:
            raise BadImages(
                f"{self.name} is {self.mean.dtype}, but the images are {x.dtype}, where float in "
                f"[0, 1] is expected: convert them, or the model with .to({x.dtype})."
            )

    def _check_mode(self) -> None:
        for name, module in self.network.named_modules():
            if module.training:
                where = f'its module "{name}" ({type(module).__name__})' if name else "its network"
                raise BadModel(
                    f"{self.name} is in training mode ({where} is): dropout or batch statistics "
                    "would decide the verdict. Call .eval() on it first."
                )

    def _checked_logits(self, logits: object, count: int) -> Tensor:
        wanted = (count, self.num_classes)
        if isinstance(logits, Tensor) and logits.shape == wanted:
            return logits
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadModel(
            f"{self.name} must return logits (B, K) = {wanted}, one per class, but its network "
            f"returned {got}."
        )


def _per_channel(what: str, value: float | Sequence[float], channels: int) -> Tensor:
    values = (float(value),) if isinstance(value, int | float) else tuple(value)
    if len(values) not in (1, channels):
        raise BadModel(f"{what} must be one number or {channels}, one per channel, not {value}.")
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
