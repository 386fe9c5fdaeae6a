"""Links that compress beside the codec that is installed, and images saved before a defense."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from besiege.checks.deployed import Codec
from besiege.checks.protocol import Saved
from besiege.defenses.defense import Defense
from besiege.defenses.jpeg import Jpeg
from besiege.defenses.transform import Around, Chain, Transform
from besiege.ops.codec import ROUNDINGS, codec_version
from besiege.ops.jpeg import SUBSAMPLINGS
from besiege.study.doctor.probes import Stage
from besiege.study.doctor.visit import Visit, array
from besiege.study.judge import answers

WAYS = tuple(product(SUBSAMPLINGS, ROUNDINGS))


def codec_of(link: Transform) -> Jpeg | None:
    """The JPEG that a link is, under another name perhaps."""
    if isinstance(link, Around):
        return codec_of(link.link)
    return link if isinstance(link, Jpeg) else None


def codec(visit: Visit, stage: Stage) -> Codec:
    """A JPEG link beside what the installed codec makes of the same images, and answers with both.

    Every subsampling and rounding, under the draws of the stage and of one answer.
    Cost: an encoding and decoding, and a forward of its defense, an image and way: 6 of them.
    """
    link, draw = codec_of(stage.link), stage.draw
    assert link is not None and not isinstance(draw, tuple)  # noqa: PT018
    with torch.no_grad():
        own = (link.forward(stage.x, draw) * 255).round()
    qualities = [link.quality] * len(own) if draw is None else draw.tolist()
    levels = []
    for subsampling, rounding in WAYS:
        made = _installed(link, stage.x, qualities, subsampling, rounding)
        levels.append(float((own.cpu() - made).abs().max()))
    part = next(p for p in visit.defense.parts if stage.link.name in _names(p))
    key, size = visit.key.fold("doctor", "codec"), visit.micro_batch
    settings = [{}, *({"subsampling": s, "rounding": r} for s, r in WAYS)]
    labels = [
        answers(_with(part, stage.link.name, s), visit.x, key, 1, size)[:, 0] for s in settings
    ]
    return Codec(
        codec_version(),
        tuple(f"{subsampling}, {rounding}" for subsampling, rounding in WAYS),
        WAYS.index((link.subsampling, link.rounding)),
        np.array(levels),
        array(torch.stack(labels, 1)),
    )


def _installed(
    link: Jpeg, x: Tensor, qualities: list[int], subsampling: str, rounding: str
) -> Tensor:
    """(B, C, H, W) grey levels, by Pillow alone."""
    levels = x.detach().cpu().clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255
    levels = np.rint(levels) if rounding == ROUNDINGS[0] else np.floor(levels)
    turned = link.order == "bgr"
    found = []
    for image, quality in zip(levels.astype(np.uint8), qualities, strict=True):
        given = np.ascontiguousarray(image[..., ::-1] if turned else image)
        coded = _coded(given, quality, subsampling)
        found.append(coded[..., ::-1] if turned else coded)
    return torch.from_numpy(np.stack(found).astype(np.float32)).permute(0, 3, 1, 2)


def _coded(image: NDArray[np.uint8], quality: int, subsampling: str) -> NDArray[np.uint8]:
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    file = BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file)).reshape(image.shape)


def _names(part: Defense) -> list[str]:
    return [link.name for link in part.links]


def _with(part: Defense, name: str, settings: dict[str, str]) -> Defense:
    """The defense with settings of one link changed."""
    links = tuple(_changed(one, settings) if one.name == name else one for one in part.links)
    return replace(part, chain=Chain(links))


def _changed(link: Transform, settings: dict[str, str]) -> Transform:
    if isinstance(link, Around):
        return replace(link, link=_changed(link.link, settings))
    return replace(link, **settings)  # type: ignore[type-var]


def saved(visit: Visit, x: Tensor) -> Saved:
    """Labels of points (B, C, H, W) as floats, and as 8 bit rounded and cut off; the same draws."""
    key = visit.key.fold("doctor", "saved")
    ways = {"as floats": x, "rounded": (x * 255).round() / 255, "cut off": (x * 255).floor() / 255}
    labels = [answers(visit.defense, z, key, 1, visit.micro_batch)[:, 0] for z in ways.values()]
    return Saved(array(torch.stack(labels, 1)), tuple(ways))
