"""Tiny ImageNet, in the folders in which it is published."""

from __future__ import annotations

from pathlib import PurePosixPath

from besiege.core.errors import BadImages, BadSetting
from besiege.data.images import ImageSet
from besiege.data.members import Members, open_members
from besiege.data.pictures import Style, is_picture, picture_set


def tiny_imagenet(path: str, part: str = "val") -> ImageSet:
    """Tiny ImageNet: 64 x 64 photographs of 200 classes, 10,000 to validate, 100,000 to train.

    path: the folder tiny-imagenet-200, one that holds it, or its .zip as published. part: "val" or
    "train" (the labels of its test part are not public). Labels count the WordNet ids of wnids.txt
    in sorted order, as loaders of folders do, and not in the order of that file. Ids follow the
    sorted paths (as text: val_10 before val_2). Grey files become RGB.
    Source: Stanford CS231N; Le and Yang 2015, Tiny ImageNet Visual Recognition Challenge.
    """
    if part not in ("val", "train"):
        raise BadSetting(f'part of tiny-imagenet must be "val" or "train", not "{part}".')
    members = open_members(path, "tiny-imagenet")
    lists = members.named("wnids.txt")
    if not lists:
        raise BadImages(f'"{path}" is not Tiny ImageNet: there is no wnids.txt in it.')
    base = PurePosixPath(lists[0]).parent
    wnids = sorted(members.text(lists[0]).split())
    index = {wnid: label for label, wnid in enumerate(wnids)}
    folder = str(base / part) + "/"
    names = [n for n in members.sizes if n.startswith(folder) and is_picture(n)]
    if part == "train":
        found = {n: n.removeprefix(folder).split("/")[0] for n in names}
    else:
        found = _annotated(members, str(base / "val"), names)
    for name, wnid in found.items():
        if wnid not in index:
            raise BadImages(f'"{members.where / name}" is of class "{wnid}", not in wnids.txt.')
    words = _words(members, str(base / "words.txt"))
    return picture_set(
        members,
        names,
        [index[found[n]] for n in names],
        [words.get(wnid, wnid) for wnid in wnids],
        Style(),
        name=f"tiny-imagenet ({part})",
    )


def _annotated(members: Members, folder: str, names: list[str]) -> dict[str, str]:
    """File -> WordNet id, from val_annotations.txt: file, id and a box, with tabs between."""
    table = f"{folder}/val_annotations.txt"
    if table not in members.sizes:
        raise BadImages(
            f'"{members.where}" lacks {table}. If its images were sorted into class folders, use '
            "folder:path=... on the folder val."
        )
    found = {}
    for number, line in enumerate(members.text(table).splitlines(), 1):
        cells = line.split("\t")
        if len(cells) < 2:
            raise BadImages(f'Line {number} of "{members.where / table}" is not FILE, tab, ID.')
        found[f"{folder}/images/{cells[0]}"] = cells[1]
    if odd := set(found).symmetric_difference(names):
        one = min(odd)
        why = "is not there" if one in found else "has no line"
        raise BadImages(
            f'"{members.where / one}" {why} ({table}; {len(odd)} such): unpack the set anew.'
        )
    return found


def _words(members: Members, name: str) -> dict[str, str]:
    lines = members.text(name).splitlines() if name in members.sizes else []
    return {wnid: words for wnid, tab, words in (line.partition("\t") for line in lines) if tab}
