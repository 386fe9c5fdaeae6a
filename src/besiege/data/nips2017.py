"""A folder of PNG files with a table of labels, as the NIPS 2017 competition gave its images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from besiege.core.errors import BadImages
from besiege.core.files import existing
from besiege.data.assets import IMAGENET
from besiege.data.images import ImageSet
from besiege.data.members import Members, read_file
from besiege.data.pictures import Style, picture_set


def nips2017(path: str) -> ImageSet:
    """ImageNet-like photographs, decoded when taken, with labels and targets.

    path: a folder of RGB PNG files of one size. A table `labels.csv` in it, or `FOLDER_labels.csv`
    or `imagenet_nips2017_labels.csv` beside it, has the columns file, label and (if attacks are to
    be targeted) target: indices into `imagenet_classes.json` beside it, or else the usual 1000
    classes. The order of its lines is that of the ids.
    Source: Kurakin et al. 2018, arXiv:1804.00097.
    """
    folder = existing(path, "folder of images", BadImages)
    rows, table = _table(folder)
    if not rows:
        raise BadImages(f'"{table}" lists no images.')
    names = [row["file"] for row in rows]
    for name in names:
        existing(folder / name, f'image (line "{name}" of {table})', BadImages)
    targets = _column(rows, "target", table) if "target" in rows[0] else None
    return picture_set(
        Members(folder, {n: (folder / n).stat().st_size for n in names}, read_file),
        names,
        _column(rows, "label", table),
        _classes(table.parent),
        Style(),
        targets,
        name=folder.name,
    )


def _table(folder: Path) -> tuple[list[dict[str, str]], Path]:
    """The lines of the folder's table, and where it was found."""
    places = (
        folder / "labels.csv",
        folder.parent / f"{folder.name}_labels.csv",
        folder.parent / "labels.csv",
    )
    table = next((p for p in places if p.is_file()), None)
    if table is None:
        raise BadImages(
            f'No table of labels for "{folder}": expected one of {", ".join(map(str, places))}, '
            "with the columns file, label and target."
        )
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := {"file", "label"} - set(reader.fieldnames or ()):
            raise BadImages(
                f'"{table}" lacks the column "{min(missing)}"; it has {reader.fieldnames}.'
            )
        return list(reader), table


def _column(rows: list[dict[str, str]], name: str, table: Path) -> list[int]:
    for number, row in enumerate(rows, start=2):
        if not (row[name] or "").strip().isdigit():
            raise BadImages(f'"{row[name]}" in line {number} of "{table}" is no {name}.')
    return [int(row[name]) for row in rows]


def _classes(folder: Path) -> tuple[str, ...]:
    names = folder / "imagenet_classes.json"
    return tuple(json.loads(names.read_text("utf-8"))) if names.is_file() else IMAGENET
