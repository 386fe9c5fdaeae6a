"""Any function as a classifier: logits, scores, probabilities or labels, of a batch or an image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from besiege.core.errors import BadModel, BadSetting, one_of
from besiege.models.classifier import Classifier


def from_callable(
    f: Callable[[Any], Any],
    classes: int | Sequence[str],
    kind: str = "logits",
    *,
    channels: int = 3,
    layout: str = "tensor",
    single: bool = False,
    name: str = "callable",
) -> Classifier:
    """A Classifier of any function or module, which does its own preprocessing.

    f: one that draws is noticed by `besiege.evaluate` and runs (`models.drawing`), and asked one
        image at a time then; what is random in front of a network belongs into an Opaque.
    classes: their number, or their names in the order of f's columns.
    kind: of f's answer. "logits" (B, K), refused if they are probabilities; "scores" (B, K): any
        numbers, the largest wins; "probabilities" (B, K): their logarithm is taken; "labels" (B,):
        whole numbers, -1 for no answer. NaN is no answer either: the judge counts it as abstention.
    layout: of what f takes. "tensor": float (B, channels, H, W) in [0, 1], torch; gradients pass if
        f lets them; "array": NumPy float (B, H, W, channels) in [0, 1]; "uint8": NumPy
        (B, H, W, channels) in 0..255, rounded. The last two have no gradients: access "scores".
    single: whether f takes one image, without B, and returns one row or label.
    name: what f is told apart by in a run folder: give another one when f changes.

    With labels an attacker hears no more than they say: access "labels". Raises UnknownName,
    BadSetting; the classifier raises BadModel for answers that do not fit.

    >>> halves = from_callable(lambda x: (x.mean((1, 2, 3)) > 0.5).long(), 2, "labels")
    >>> halves(torch.ones(1, 3, 4, 4))
    tensor([[0., 1.]])
    """
    if not callable(f):
        raise BadSetting(f"{name}: f is a function or module, not {type(f).__name__}.")
    for what, value, valid in (("kind", kind, _KINDS), ("layout", layout, _LAYOUTS)):
        one_of(what, value, valid, "from_callable")
    count = classes if isinstance(classes, int) else len(classes)
    access = "labels" if kind == "labels" else "gradients" if layout == "tensor" else "scores"
    network = _Called(f, kind, layout, single, count, name)
    probe = _KINDS[kind].probe
    return Classifier(network, classes, name=name, channels=channels, access=access, probe=probe)


class _Called(nn.Module):
    """f as a network: images (B, C, H, W) -> scores (B, K).

    A module f keeps its own mode, which Classifier checks, and moves along with `.to`.
    """

    identity: Tensor

    def __init__(
        self, f: Callable[[Any], Any], kind: str, layout: str, single: bool, count: int, name: str
    ) -> None:
        super().__init__()
        self.training = False
        self.f = f
        self.kind, self.layout, self.single = kind, layout, single
        self.count, self.name = count, name
        # Part of what the weights are hashed over, so that a run folder tells functions apart.
        digest = hashlib.sha256(f"{name} {kind} {layout} {single}".encode()).digest()
        self.register_buffer("identity", torch.tensor(list(digest), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        given = _LAYOUTS[self.layout](x)
        if self.single:
            answers = [self._tensor(self.f(image), x) for image in given]
            answer = torch.stack([a.reshape(a.shape[-1:]) for a in answers])
        else:
            answer = self._tensor(self.f(given), x)
        return _KINDS[self.kind].scores(answer, self.count, self.name).to(x.dtype)

    def _tensor(self, answer: Any, x: Tensor) -> Tensor:
        """What f returned, on the device of x."""
        if isinstance(answer, Tensor):
            return answer.to(x.device)
        try:
            return torch.from_numpy(np.array(answer)).to(x.device)
        except (TypeError, ValueError) as error:
            raise BadModel(
                f"{self.name}: f returned {type(answer).__name__}, where {self.kind} were expected "
                f"as a torch tensor, an array or a list ({error})."
            ) from error


def _array(x: Tensor) -> Any:
    return x.detach().permute(0, 2, 3, 1).cpu().numpy().copy()


def _uint8(x: Tensor) -> Any:
    return _array((x * 255).round().clamp(0, 255).to(torch.uint8))


def _as_they_are(answer: Tensor, count: int, name: str) -> Tensor:
    return answer


def _logarithm(answer: Tensor, count: int, name: str) -> Tensor:
    """log p, where 0 counts as the smallest normal number: an infinity would be no answer."""
    seen = answer.detach()
    if bool(((seen < -1e-4) | (seen > 1 + 1e-4)).any()):
        raise BadModel(
            f"{name} returned values from {seen.min():.4g} to {seen.max():.4g}, but probabilities "
            'are in [0, 1]: say kind="logits" or kind="scores".'
        )
    return answer.clamp_min(torch.finfo(torch.float32).tiny).log()


def _one_hot(answer: Tensor, count: int, name: str) -> Tensor:
    """(B,) labels -> (B, K), 1 at the label; NaN in the row of a label -1 or NaN."""
    labels = answer.detach().double()
    none = labels.isnan() | (labels == -1)
    whole = torch.where(none, 0.0, labels)
    if labels.ndim != 1 or not bool(((whole >= 0) & (whole < count) & (whole % 1 == 0)).all()):
        raise BadModel(
            f"{name} must return labels (B,), whole numbers from 0 to {count - 1} or -1 for no "
            f"answer, but it returned {answer.dtype} {tuple(answer.shape)} with values from "
            f"{float(labels.min()):.4g} to {float(labels.max()):.4g}."
        )
    rows = F.one_hot(whole.long(), count).double()
    return torch.where(none[:, None], torch.nan, rows)


class _Kind(NamedTuple):
    scores: Callable[[Tensor, int, str], Tensor]  # answer, classes, name -> (B, K)
    probe: bool  # whether probabilities are a mistake


_KINDS = {
    "logits": _Kind(_as_they_are, probe=True),
    "scores": _Kind(_as_they_are, probe=False),
    "probabilities": _Kind(_logarithm, probe=False),
    "labels": _Kind(_one_hot, probe=False),
}
_LAYOUTS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: x,
    "array": _array,
    "uint8": _uint8,
}
