"""The protocol of every model: images in [0, 1] in, logits out, preprocessing inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from besiege.core.errors import BadImages, BadModel, one_of

# What a model can tell an attacker: all, no gradients, or no more than its answer.
ACCESS = ("gradients", "scores", "labels")


class Classifier(nn.Module):
    """A network with its preprocessing inside, so that distances are measured on real pixels.

    forward: x float (B, channels, H, W) in [0, 1] -> logits (B, K). The image is resized to
    size x size (bilinear, antialiased, no crop) if `size` is given and differs, then becomes
    (x - mean) / std.

    network: any module; called in evaluation mode only (`network.eval()` is the caller's).
    classes: their number, or their names in the order of the logits.
    mean, std: one number for all channels, or one for each, in units of [0, 1].
    access: the most that it can tell an attacker; "scores" where no gradient passes through the
        network, "labels" where its logits are no more than the answer (1 for it, 0 elsewhere).
    probe: whether logits that are probabilities, on the first batch, are refused.

    A row with NaN or an infinity is no answer: judged as abstention. Raises BadImages for images
    that do not fit, BadModel for a network in training mode, for logits that do not fit, and where
    a gradient is asked that the network cuts off. Cost: one forward of the network.

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
        access: str = "gradients",
        probe: bool = True,
    ) -> None:
        super().__init__()
        one_of("access", access, ACCESS, f"classifier {name}")
        self.classes = (
            tuple(str(i) for i in range(classes)) if isinstance(classes, int) else tuple(classes)
        )
        self.name = name
        self.channels = channels
        self.size = size
        self.access = access
        self._probe = probe and access != "labels"
        self.network = network
        self.training = network.training
        self.register_buffer("mean", _per_channel("mean", mean, channels))
        self.register_buffer("std", _per_channel("std", std, channels))
        if not bool((self.std > 0).all()):
            raise BadModel(f"std of {name} must be above 0, not {std}.")

    def through(self, network: nn.Module) -> Classifier:
        """This classifier as `network` answers for it, which is handed images in [0, 1]."""
        made = Classifier(
            network,
            self.classes,
            name=self.name,
            channels=self.channels,
            access=self.access,
            probe=False,  # that inside does
        )
        made.mean, made.std = made.mean.to(self.mean), made.std.to(self.mean)
        return made

    @property
    def num_classes(self) -> int:
        """K, the number of logits."""
        return len(self.classes)

    @property
    def draws(self) -> bool:
        """Whether the network has random stages: a module in it says so by an attribute `draws`.

        They take their numbers from `core.passes.stage_key`; see `models.stages`.
        """
        return any(getattr(module, "draws", False) is True for module in self.network.modules())

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images x (B, channels, H, W) in [0, 1]."""
        self._check_images(x)
        self._check_mode()
        logits = self._checked_logits(self.unchecked(x), len(x))
        self._check_gradient(x, logits)
        if self._probe and len(logits):
            refuse_probabilities(logits, self.name)
            self._probe = False
        return logits

    def unchecked(self, x: Tensor) -> Any:
        """What the network returns of x, whatever that is and in whatever mode it is."""
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(
                x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True
            )
        return self.network((x - self.mean) / self.std)

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
        if not _training(self.network):
            return
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

    def _check_gradient(self, x: Tensor, logits: Tensor) -> None:
        asked = x.requires_grad and torch.is_grad_enabled()
        if asked and not logits.requires_grad:
            raise BadModel(
                f"{self.name} gives no gradient: its logits do not follow from the image by torch "
                "operations alone (another runtime, NumPy, rounding to labels, .detach()). Attack "
                'it by scores or labels (threat.access = "scores" or "labels"), or with points '
                "made on another model."
            )


def _training(module: nn.Module) -> bool:
    """Whether it or a part of it is in training mode; several times as fast as by names."""
    parts = module._modules.values()
    return module.training or any(part is not None and _training(part) for part in parts)


def refuse_probabilities(logits: Tensor, name: str) -> None:
    """Raise BadModel where every row of `logits` (B, K) is a distribution: in [0, 1], of sum 1.

    Losses take a softmax of their own; over one that is there already, gradients all but vanish
    and a model looks robust.

    >>> refuse_probabilities(torch.tensor([[2.0, -1.0]]), "mine")
    >>> refuse_probabilities(torch.tensor([[0.75, 0.25]]), "mine")
    Traceback (most recent call last):
    besiege.core.errors.BadModel: mine returned probabilities where logits are expected: ...
    """
    seen = logits.detach()
    seen = seen[seen.isfinite().all(1)]
    if len(seen) == 0 or seen.shape[1] < 2:
        return
    within = bool(((seen >= 0) & (seen <= 1)).all())
    if within and bool(((seen.double().sum(1) - 1).abs() < 1e-3).all()):
        raise BadModel(
            f"{name} returned probabilities where logits are expected: all {len(seen)} rows are in "
            "[0, 1] and sum to 1. Leave the softmax out, or wrap the function with "
            'besiege.from_callable(f, classes, kind="probabilities") (kind="scores" if they are '
            "none), which takes the logarithm."
        )


def _per_channel(what: str, value: float | Sequence[float], channels: int) -> Tensor:
    values = (float(value),) if isinstance(value, int | float) else tuple(value)
    if len(values) not in (1, channels):
        raise BadModel(f"{what} must be one number or {channels}, one per channel, not {value}.")
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
