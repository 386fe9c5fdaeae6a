"""The validation images of ImageNet (ILSVRC 2012), resized and cut as is usual."""

from __future__ import annotations

import io
import re
from pathlib import PurePosixPath

from scipy.io import loadmat

from besiege.core.errors import BadImages
from besiege.data.assets import IMAGENET
from besiege.data.images import ImageSet
from besiege.data.members import Members, open_members
from besiege.data.pictures import Style, is_picture, picture_set

WNID = re.compile(r"n\d{8}")
SYNSETS = ("synset_words.txt", "LOC_synset_mapping.txt", "imagenet_synsets.txt", "synsets.txt")
TABLES = (
    "LOC_val_solution.csv",
    "val.txt",
    "labels.csv",
    "ILSVRC2012_validation_ground_truth.txt",
)


def imagenet(
    path: str, size: int = 224, shorter: int = 0, resample: str = "bilinear", labels: str = ""
) -> ImageSet:
    """ImageNet photographs: shorter side brought to `shorter`, a square of `size` cut from there.

    path: class folders named by WordNet ids; or a flat folder of ILSVRC2012_val_*.JPEG with a table
    of labels in it; or a .zip or .tar of either. Ids follow the sorted paths. labels: file name of
    the table in `path`; by default LOC_val_solution.csv, val.txt, labels.csv or
    ILSVRC2012_validation_ground_truth.txt. Its lines are a file and a label, which is 0 to 999 or
    a WordNet id (more files than are there may be named); or, as in the development kit, one number
    of 1 to 1000 a line, which needs that kit's meta.mat too: those numbers are in another order.
    WordNet ids become labels by their rank among the 1000, so either all 1000 class folders are
    there or a list of them (synset_words.txt, LOC_synset_mapping.txt, imagenet_synsets.txt or
    synsets.txt).
    shorter: 0 for size / 0.875, as 256 for 224. resample: "bilinear", "bicubic" or "lanczos" of
    Pillow, antialiased; longer side and offsets are rounded as torchvision does. EXIF orientation
    is not applied, as in published accuracies; grey and CMYK files become RGB.
    Source: Russakovsky et al. 2015, arXiv:1409.0575.
    """
    members = open_members(path, "imagenet")
    style = Style(size=size, shorter=shorter or round(size / 0.875), resample=resample)
    names = [n for n in members.sizes if is_picture(n)]
    tables = [t for n in ([labels] if labels else TABLES) for t in members.named(n)]
    if tables:
        found = _table(members, tables[0], names)
        names = [n for n in names if PurePosixPath(n).stem in found]
        y = [found[PurePosixPath(n).stem] for n in names]
    elif labels:
        raise BadImages(f'"{path}" holds no file "{labels}".')
    else:
        y = _by_folder(members, names)
    return picture_set(members, names, y, IMAGENET, style, name="imagenet")


def _by_folder(members: Members, names: list[str]) -> list[int]:
    wnids = [PurePosixPath(n).parent.name for n in names]
    if odd := next((n for n, w in zip(names, wnids, strict=True) if not WNID.fullmatch(w)), None):
        raise BadImages(
            f'"{members.where / odd}" is in no folder named by a WordNet id (n01440764), and '
            f"no table of labels was found: put one of {', '.join(TABLES)} into {members.where}."
        )
    rank = _ranks(members, set(wnids))
    return [rank[w] for w in wnids]


def _ranks(members: Members, used: set[str]) -> dict[str, int]:
    """WordNet id -> label: its rank among the 1000 ids."""
    lists = [m for n in SYNSETS for m in members.named(n)]
    every = set(WNID.findall(members.text(lists[0]))) if lists else used
    if len(every) != len(IMAGENET) or not used <= every:
        raise BadImages(
            f'"{lists[0] if lists else members.where}" names {len(every)} WordNet ids'
            f"{'' if used <= every else f', but not {min(used - every)}'}. All 1000 are needed to "
            f"know the label of each: put a list of them as {SYNSETS[0]} into {members.where}."
        )
    return {wnid: rank for rank, wnid in enumerate(sorted(every))}


def _table(members: Members, table: str, names: list[str]) -> dict[str, int]:
    """File name without ending -> label."""
    lines = [re.split(r"[,\s]+", t.strip()) for t in members.text(table).splitlines() if t.strip()]
    where = f'"{members.where / table}"'
    if lines and all(len(cells) == 1 and cells[0].isdecimal() for cells in lines):
        return _development_kit(members, table, [int(cells[0]) for cells in lines], names)
    stems = {PurePosixPath(n).stem for n in names}
    if len(stems) < len(names):
        raise BadImages(f'"{members.where}" holds images of one name; {where} cannot label them.')
    pairs: dict[str, str] = {}
    for number, cells in enumerate(lines, 1):
        stem = PurePosixPath(cells[0]).stem
        label = cells[1] if len(cells) > 1 else ""
        if number == 1 and stem not in stems and not re.search(r"\d", label):
            continue  # the names of the columns
        if not (label.isdecimal() or WNID.fullmatch(label)) or stem in pairs:
            raise BadImages(
                f"Line {number} of {where} must be a file, named once, and its label "
                f"(0 to 999, or a WordNet id): {' '.join(cells[:4])}."
            )
        pairs[stem] = label
    if missing := stems - pairs.keys():
        raise BadImages(f'{where} has no line for the image "{min(missing)}".')
    wnids = {label for label in pairs.values() if not label.isdecimal()}
    rank = _ranks(members, wnids) if wnids else {}
    return {stem: rank[w] if w in rank else int(w) for stem, w in pairs.items()}


def _development_kit(
    members: Members, table: str, numbers: list[int], names: list[str]
) -> dict[str, int]:
    """Line i is the ILSVRC2012_ID of image i; meta.mat has the WordNet id of each."""
    where = members.where / table
    metas = members.named("meta.mat")
    if not metas:
        raise BadImages(
            f'"{where}" has one number a line and no file names. The numbers of the development '
            "kit are not the usual labels: put its meta.mat beside it, or a table of file and "
            "label instead."
        )
    if len(numbers) != len(names):
        raise BadImages(f'"{where}" has {len(numbers)} lines for {len(names)} images.')
    path = members.where / metas[0]
    try:
        synsets = loadmat(io.BytesIO(members.read(metas[0])), squeeze_me=True)["synsets"]
        wnids = {
            int(number): str(wnid)
            for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
            if int(number) <= len(IMAGENET)
        }
    except Exception as error:  # damaged files make SciPy's reader raise whatever it meets
        raise BadImages(f'"{path}" is not the meta.mat of the kit ({error!r}).') from error
    if bad := [n for n in numbers if n not in wnids]:
        raise BadImages(f'"{where}" has the number {bad[0]}, which "{path}" does not know.')
    if len(wnids) != len(IMAGENET):
        raise BadImages(f'"{path}" has {len(wnids)} of {len(IMAGENET)} classes.')
    rank = {wnid: label for label, wnid in enumerate(sorted(wnids.values()))}
    stems = [PurePosixPath(n).stem for n in names]
    return {s: rank[wnids[n]] for s, n in zip(stems, numbers, strict=True)}
