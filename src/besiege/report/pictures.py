"""Images of a run as data URIs: clean, adversarial, their difference magnified, and as seen."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from besiege.report.cells import goal_of


@dataclass(frozen=True)
class Strip:
    """The pictures of one example in one cell."""

    defense: str
    recipe: str
    threat: str
    goal: str
    image_id: int
    label: str
    target: str
    predicted_clean: str
    predicted_adversarial: str
    fooled: bool
    magnified: int  # factor of the difference
    pictures: tuple[tuple[str, str], ...]  # (caption, data URI)


def strip(record: Mapping[str, Any], image_id: int, parts: Mapping[str, Any]) -> Strip:
    """Pictures of `parts`, as in the run folder, for the cell that `record` describes."""
    clean, adversarial = parts["clean"], parts["adversarial"]
    difference = adversarial - clean
    largest = float(np.abs(difference).max())
    factor = max(1, int(0.5 / largest)) if largest > 0 else 1
    classes = record["classes"]

    def name(index: Any) -> str:
        return classes[int(index)] if 0 <= int(index) < len(classes) else "no answer"

    wrong = int(parts["predicted_adversarial"]) != int(parts["label"])
    met = int(parts["predicted_adversarial"]) == int(parts["target"])
    return Strip(
        defense=record["defense"],
        recipe=record["recipe"],
        threat=record["threat"],
        goal=goal_of(record["targeted"]),
        image_id=image_id,
        label=name(parts["label"]),
        target=name(parts["target"]) if int(parts["target"]) >= 0 else "",
        predicted_clean=name(parts["predicted_clean"]),
        predicted_adversarial=name(parts["predicted_adversarial"]),
        fooled=met if record["targeted"] else wrong,
        magnified=factor,
        pictures=(
            ("clean", data_uri(clean)),
            ("adversarial", data_uri(adversarial)),
            (f"difference x {factor}", data_uri(0.5 + factor * difference)),
            ("clean, as the network sees it", data_uri(parts["seen_clean"])),
            ("adversarial, as the network sees it", data_uri(parts["seen_adversarial"])),
        ),
    )


def data_uri(image: NDArray[np.float32]) -> str:
    """A PNG of an image (C, H, W) in [0, 1], inline."""
    pixels = np.clip(np.rint(image * 255), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
