"""Pictures of every operation in the catalog: python examples/operations.py [FOLDER]

One photograph (scikit-learn's palace, 299 x 299) behind every transform under every setting that
the laws try, with the difference magnified. Writes operations.png, operations-2.png, ... to FOLDER
(docs/images), where the catalog page finds them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from besiege.core.entry import Catalog
from besiege.data.catalog import load_images
from besiege.defenses.catalog import TRANSFORMS
from besiege.defenses.transform import Transform
from besiege.report.contact_sheet import Panel, contact_sheet, difference_of
from besiege.study.protect import apply_chain

FOLDER = Path(__file__).parents[1] / "docs" / "images"
SIDE = 150  # px of a picture on the sheet
ACROSS = 2  # operations in a line
LINES = 9  # of a page


def photograph() -> np.ndarray:
    """uint8 (299, 299, 3)."""
    x = load_images("photo").take([0]).x[0]
    return (x * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def panels(
    photo: np.ndarray, catalog: Catalog[Transform]
) -> tuple[list[tuple[Panel, Panel]], list[str]]:
    """After and difference of every case, and why some have no picture."""
    found, left_out = [], []
    for entry in catalog.values():
        for spec, case in zip(entry.specs, entry.cases, strict=True):
            try:
                after = apply_chain(entry.factory(**case), ["photo"], [photo], seed=0)[0]
            except Exception as error:
                left_out.append(f"{spec}: {error}")
                continue
            factor, change = difference_of(photo, after)
            magnified = f"difference x {factor}" if factor else "no difference"
            sized = "" if after.shape == photo.shape else f", {after.shape[1]} x {after.shape[0]}"
            found.append((Panel(spec + sized, after), Panel(magnified, change, smooth=False)))
    return found, left_out


def pages(photo: np.ndarray, pairs: Sequence[tuple[Panel, Panel]]) -> list[list[list[Panel]]]:
    """Pages of lines: the photograph, then ACROSS times after and difference."""
    first = Panel("before", photo)
    lines = [
        [first, *(panel for pair in pairs[i : i + ACROSS] for panel in pair)]
        for i in range(0, len(pairs), ACROSS)
    ]
    return [lines[i : i + LINES] for i in range(0, len(lines), LINES)]


def write(folder: Path, catalog: Catalog[Transform] = TRANSFORMS) -> list[str]:
    """Write the pages in the place of those that were there; returns what was left out."""
    photo = photograph()
    pairs, left_out = panels(photo, catalog)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("operations*.png"):
        old.unlink()
    for number, lines in enumerate(pages(photo, pairs), 1):
        sheet = contact_sheet(lines, SIDE)
        small = sheet.quantize(256)  # a quarter of the bytes, and nothing that the eye sees
        small.save(folder / f"operations{'' if number == 1 else f'-{number}'}.png", optimize=True)
    return left_out


if __name__ == "__main__":
    for sentence in write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER):
        print(f"left out: {sentence}")
