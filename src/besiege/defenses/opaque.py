"""Any function or module as a link, unchanged, whatever it draws from global generators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from besiege.core.errors import BadImages, BadSetting, BesiegeError, one_of
from besiege.core.foreign import Foreign, made
from besiege.core.generators import seeded
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity


@dataclass(frozen=True, eq=False)
class Opaque(Transform):
    """Any function or module as a link, unchanged, whatever it draws from global generators.

    f is called with one example at a time. Before each call the global generators of `random`,
    NumPy and torch are seeded from the example's draw, and after it put back, so that f's random
    choices belong to the example. A generator that f keeps for itself is out of reach (its rows
    are marked "unkeyed"): make f build it from the global ones.

    f: takes and returns an image.
    layout: of that image. "tensor": float (C, H, W) in [0, 1]; "batch": the same as (B, C, H, W),
        B = 1 where f draws; "array": NumPy float (H, W, C) in [0, 1]; "uint8": NumPy (H, W, C) in
        0..255, rounded; "pillow": an 8-bit picture, mode L or RGB. Whole numbers that the last
        three return count as 0..255; one channel may come back as (H, W).
    is_random: whether f draws; if not, the link is deterministic and no generator is touched.
    differentiable: whether gradients pass through f; then "exact" is its best surrogate.
    shape: (C, H, W) of f's output; None if it is that of its input.

    Without `differentiable` its surrogate is "identity", or "resized" (bilinear) where f changes
    height or width. Raises BadImages for an output of another shape, not finite, or far from
    [0, 1], and for a batch whose images f does not treat alone; BadSetting where f itself fails.

    >>> halved = Opaque(lambda image: image / 2, is_random=False)
    >>> halved.forward(torch.ones(1, 1, 1, 1), None)
    tensor([[[[0.5000]]]])
    """

    f: Callable[[Any], Any]
    layout: str = "tensor"
    is_random: bool = True
    differentiable: bool = False
    shape: Shape | None = None
    name: str = "opaque"

    def __post_init__(self) -> None:
        if not callable(self.f):
            raise BadSetting(
                f"{self.name}: f is a function or module, not {type(self.f).__name__}."
            )
        one_of("layout", self.layout, _LAYOUTS, f"transform {self.name}")
        if self.differentiable and self.layout not in ("tensor", "batch"):
            raise BadSetting(
                f'{self.name}: gradients pass through the layouts "tensor" and "batch" only, not '
                f'through "{self.layout}".'
            )

    def draw(self, key: Key, shape: Shape) -> Tensor | None:
        """A seed (B,) for each example's generators."""
        return key.integers(1 << 31) if self.is_random else None

    def forward(self, x: Tensor, draw: Tensor | None) -> Tensor:
        """f of each image of x, float (B, C, H, W) in [0, 1]."""
        wanted = self.out_shape((x.shape[1], x.shape[2], x.shape[3]))
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            given = x if self.differentiable else x.detach()
            if draw is None and self.layout == "batch":
                return self._whole(given, wanted)
            done = []
            for i, image in enumerate(given):
                with nullcontext() if draw is None else seeded(int(draw[i]), x.device):
                    answer = self._ask(image.clone())
                done.append(self._checked(answer, wanted).to(x))
        return torch.stack(done) if done else x.new_zeros(0, *wanted)

    def out_shape(self, shape: Shape) -> Shape:
        """`shape` of the constructor, else that of the input."""
        return self.shape or shape

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The true gradient where f has one, or f ignored."""
        plain = {"resized": self._resized} if self.shape else {"identity": identity}
        return {"exact": self.forward, **plain} if self.differentiable else plain

    def _resized(self, x: Tensor, draw: Any) -> Tensor:
        size = self.out_shape((x.shape[1], x.shape[2], x.shape[3]))[1:]
        return functional.interpolate(x, size, mode="bilinear", align_corners=False)

    def _ask(self, image: Tensor) -> Tensor:
        """f's answer to one image (C, H, W), as such a tensor."""
        give, take = _LAYOUTS[self.layout]
        return take(self._call(give(image)))

    def _call(self, given: Any) -> Any:
        try:
            return self.f(given)
        except BesiegeError:
            raise
        except Exception as error:
            raise BadSetting(
                f'{self.name}: f fails on an image in the layout "{self.layout}" '
                f"({type(error).__name__}: {error}). If it takes another, name that: "
                f"{', '.join(_LAYOUTS)}."
            ) from error

    def _whole(self, x: Tensor, wanted: Shape) -> Tensor:
        """All images at once; the first one alone too, since it must not depend on the others."""
        if len(x) == 0:
            return x.new_zeros(0, *wanted)
        images = _as_tensor(self._call(x.clone()))
        if len(images) != len(x):
            raise BadImages(f"{self.name}: f returned {len(images)} images for {len(x)}.")
        self._checked(images[0], wanted)
        self._in_range(images)
        if len(x) > 1 and not torch.allclose(self._ask(x[0].clone()), images[0], atol=1e-4):
            raise BadImages(
                f"{self.name}: what f makes of an image depends on the others in its batch. Give "
                'it one at a time (layout="tensor"), or take batch statistics out of it.'
            )
        return images.to(x)

    def _checked(self, image: Tensor, wanted: Shape) -> Tensor:
        """What f returned, if it is an image.

        A defense may leave [0, 1], as noise without clipping does, but not as far as another unit.
        """
        if tuple(image.shape) != wanted:
            raise BadImages(
                f"{self.name}: f returned an image (C, H, W) = {tuple(image.shape)}, where "
                f"{wanted} was expected. Pass shape={tuple(image.shape)} if f changes the shape, "
                f'another layout than "{self.layout}" if f takes another.'
            )
        self._in_range(image)
        return image

    def _in_range(self, images: Tensor) -> None:
        if not bool(images.isfinite().all()):
            raise BadImages(f"{self.name}: f returned values that are not finite.")
        low, high = (float(end) for end in images.detach().aminmax())
        if low < -1 or high > 2:
            raise BadImages(
                f"{self.name}: f returned values from {low:.4g} to {high:.4g}, but images are in "
                "[0, 1]: scale them in f, or return whole numbers (uint8) for 0..255."
            )


def own_link(foreign: Foreign) -> Transform:
    """The link that "path.py:NAME" names: a Transform as it is, any other function as Opaque.

    Settings layout, is_random and differentiable are Opaque's; others go to the factory NAME.
    """
    opaque = {k: v for k, v in foreign.settings.items() if k in _OF_OPAQUE}
    rest = {k: v for k, v in foreign.settings.items() if k not in _OF_OPAQUE}
    found = made(foreign._replace(settings=rest), "defense")
    if isinstance(found, Transform) and not opaque:
        return found
    if isinstance(found, Transform | type) or not callable(found):
        raise BadSetting(
            f"{foreign.name} in {foreign.path} gives {found!r}: a function or module that takes an "
            "image, a besiege.Transform, or a function without arguments that returns one, was "
            f"expected. ({', '.join(_OF_OPAQUE)} are settings of plain functions only.)"
        )
    return Opaque(found, name=foreign.name, **opaque)


_OF_OPAQUE = ("layout", "is_random", "differentiable")


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
