"""Any function or module as a link, unchanged, whatever it draws from global generators."""

from __future__ import annotations

import random  # noqa: TID251 - seeded for one call of a foreign function, then restored
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from besiege.core.errors import BadImages, BadSetting, unknown
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Transform


@dataclass(frozen=True, eq=False)
class Opaque(Transform):
    """Any function or module as a link, unchanged, whatever it draws from global generators.

    f is called with one example at a time, without gradients. Before each call the global
    generators of `random`, NumPy and torch are seeded from the example's draw, and after it put
    back, so that f's random choices belong to the example. A generator that f keeps for itself
    is out of reach: make f build it from the global ones.

    f: takes and returns an image.
    layout: of that image. "tensor": float (C, H, W) in [0, 1]; "batch": the same as (1, C, H, W);
        "array": NumPy float (H, W, C) in [0, 1]; "uint8": NumPy (H, W, C) in 0..255, rounded;
        "pillow": an 8-bit picture, mode L or RGB. Whole numbers that the last three return count
        as 0..255; one channel may come back as (H, W).
    is_random: whether f draws; if not, the link is deterministic and no generator is touched.
    shape: (C, H, W) of f's output; None if it is that of its input.

    It has no surrogate but "identity". Raises BadImages for an output of another shape, with
    values outside [0, 1] or not finite.

    >>> halved = Opaque(lambda image: image / 2, is_random=False)
    >>> halved.forward(torch.ones(1, 1, 1, 1), None)
    tensor([[[[0.5000]]]])
    """

    f: Callable[[Any], Any]
    layout: str = "tensor"
    is_random: bool = True
    shape: Shape | None = None
    name: str = "opaque"

    def __post_init__(self) -> None:
        if not callable(self.f):
            raise BadSetting(
                f"{self.name}: f is a function or module, not {type(self.f).__name__}."
            )
        if self.layout not in _LAYOUTS:
            raise unknown("layout", self.layout, _LAYOUTS, where=f"transform {self.name}")

    def draw(self, key: Key, shape: Shape) -> Tensor | None:
        """A seed (B,) for each example's generators."""
        return key.integers(1 << 31) if self.is_random else None

    def forward(self, x: Tensor, draw: Tensor | None) -> Tensor:
        """f of each image of x, float (B, C, H, W) in [0, 1]."""
        give, take = _LAYOUTS[self.layout]
        wanted = self.out_shape((x.shape[1], x.shape[2], x.shape[3]))
        done = []
        with torch.no_grad():
            for i, image in enumerate(x.detach()):
                given = give(image.clone())
                if draw is None:
                    answer = self.f(given)
                else:
                    with _seeded(int(draw[i]), x.device):
                        answer = self.f(given)
                done.append(self._checked(take(answer), wanted).to(x))
        return torch.stack(done) if done else x.new_zeros(0, *wanted)

    def out_shape(self, shape: Shape) -> Shape:
        """`shape` of the constructor, else that of the input."""
        return self.shape or shape

    def _checked(self, image: Tensor, wanted: Shape) -> Tensor:
        """What f returned, if it is an image."""
        if tuple(image.shape) != wanted:
            raise BadImages(
                f"{self.name}: f returned an image (C, H, W) = {tuple(image.shape)}, where "
                f"{wanted} was expected. Pass shape={tuple(image.shape)} if f changes the shape, "
                f'another layout than "{self.layout}" if f takes another.'
            )
        if not bool(image.isfinite().all()):
            raise BadImages(f"{self.name}: f returned values that are not finite.")
        if bool((image < 0).any() | (image > 1).any()):
            raise BadImages(
                f"{self.name}: f returned values from {image.min():.4g} to {image.max():.4g}, but "
                f"images are in [0, 1]: clip or scale them in f."
            )
        return image


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global generators seeded inside, and as they were afterwards."""
    torch_generators = [torch.default_generator]
    if device.type == "cuda":
        torch_generators.append(torch.cuda.default_generators[device.index])
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002, TID251
    states = [generator.get_state() for generator in torch_generators]
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002, TID251
        for generator in torch_generators:
            generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002, TID251
        for generator, state in zip(torch_generators, states, strict=True):
            generator.set_state(state)


def _to_array(image: Tensor) -> Any:
    return image.permute(1, 2, 0).cpu().numpy()


def _from_array(image: Any) -> Tensor:
    """(H, W) or (H, W, C) -> (C, H, W)."""
    values = np.asarray(image)
    if values.ndim not in (2, 3):
        raise BadImages(f"f returned an array of shape {values.shape}, but (H, W, C) was expected.")
    whole = np.issubdtype(values.dtype, np.integer)
    tensor = torch.from_numpy(values / 255 if whole else values.copy())
    return tensor.reshape(*values.shape[:2], -1).permute(2, 0, 1)


def _to_uint8(image: Tensor) -> Any:
    return _to_array((image * 255).round().clamp(0, 255).to(torch.uint8))


def _to_pillow(image: Tensor) -> Any:
    pixels = _to_uint8(image)
    if pixels.shape[2] not in (1, 3):
        raise BadImages(
            f'Layout "pillow" takes 1 or 3 channels, got {pixels.shape[2]}: use "array".'
        )
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _as_tensor(image: Any) -> Tensor:
    if isinstance(image, Tensor):
        return image
    raise BadImages(
        f"f returned {type(image).__name__}, where a torch tensor was expected: return one, or "
        'choose the layout "array", "uint8" or "pillow".'
    )


# layout -> what f is given, and what becomes of its answer: (C, H, W) floats in [0, 1].
_LAYOUTS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "tensor": (lambda image: image, _as_tensor),
    "batch": (lambda image: image[None], lambda images: _as_tensor(images).flatten(0, 1)),
    "array": (_to_array, _from_array),
    "uint8": (_to_uint8, _from_array),
    "pillow": (_to_pillow, _from_array),
}
