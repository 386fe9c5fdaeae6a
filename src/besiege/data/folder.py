"""A user's own images: class folders or files with a table of labels, unpacked or archived."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from besiege.core.errors import BadImages, BadSetting
from besiege.core.files import existing
from besiege.data.images import ImageSet, fingerprint
from besiege.data.members import Members, open_members
from besiege.data.pictures import Pictures, Style, is_picture, picture_set

TABLE = "labels.csv"
UNLABELLED = "none"  # instead of the name of a table


def folder(
    path: str, size: int = 0, channels: int = 3, labels: str = "", order: str = ""
) -> ImageSet:
    """Images in class folders, or files with a table of labels; decoded when taken.

    path: a folder with one folder a class, whose names are the classes; or with a table
    `labels.csv` of the columns filename (as seen from the table), label and, if attacks are to be
    targeted, target. Labels are numbers, or names of classes, counted in sorted order. Images may
    have any format that Pillow reads but EPS. Ids follow the sorted paths, and not the table;
    hidden files, and those that the table does not name, are left out. labels: another name of the
    table; "none" takes every image, all of one class, for what asks for no labels. size: 0 if all
    images have one size; else the shorter side is brought to it (bilinear, antialiased) and a
    square cut from the middle. channels: 3 (RGB) or 1 (grey). order: "text" counts the class
    folders as sorted text, as torchvision does; "number" takes their names for labels; to be given
    where the two differ. EXIF orientation is applied. How each kind of file is read:
    besiege.data.pictures.decode.
    """
    if not existing(path, "folder of images", BadImages).is_dir():
        raise BadImages(f'"{path}" is no folder: for an archive say zip:path={path}.')
    return _labelled(open_members(path, "folder of images"), size, channels, labels, order)


def zipped(
    path: str, size: int = 0, channels: int = 3, labels: str = "", order: str = ""
) -> ImageSet:
    """Images in a .zip or plain .tar, laid out as for `folder` and never extracted.

    A single folder around all others is looked through. An archive with a path that leads out of
    it, a link, or two files of one name is refused. The parameters are those of `folder`.
    """
    if existing(path, "archive of images", BadImages).is_dir():
        raise BadImages(f'"{path}" is a folder: say folder:path={path}.')
    return _labelled(open_members(path, "archive of images"), size, channels, labels, order)


def counterparts(clean: ImageSet, path: str) -> ImageSet:
    """Other versions of the images of `clean`, adversarial ones say, with its ids and labels.

    path: a folder or archive whose files are paired with those of `clean` by their paths in it; the
    endings may differ ("cat/1.png" belongs to "cat/1.jpg"). Decoded as those of `clean` are.
    Raises BadImages for a set that is not of files, and names the first file without a partner.
    """
    pictures = clean.pixels
    if not isinstance(pictures, Pictures):
        raise BadImages(f"{clean.name} is no set of files: there are no paths to pair by.")
    members = open_members(path, "folder of images")
    other = _by_stem(_pictures(members), members)
    own = _by_stem(pictures.names, pictures.members)
    for stems, partners, here, there in (
        (own, other, pictures.members, members),
        (other, own, members, pictures.members),
    ):
        if lone := [name for stem, name in stems.items() if stem not in partners]:
            raise BadImages(
                f'"{here.where / lone[0]}" has no partner in "{there.where}" ({len(lone)} such): '
                "a file of the same path is expected there, whatever its ending."
            )
    names = tuple(other[stem] for stem in own)
    return replace(
        clean,
        name=members.where.stem,
        pixels=replace(pictures, members=members, names=names),
        digest=fingerprint(clean.digest, *(f"{n}\0{members.sizes[n]}" for n in names)),
    )


def file_names(images: ImageSet) -> tuple[str, ...]:
    """The file of each image, by id; empty for a set that is not of files."""
    return images.pixels.names if isinstance(images.pixels, Pictures) else ()


def _pictures(members: Members) -> list[str]:
    """The paths of all image files."""
    return [name for name in members.sizes if is_picture(name)]


def _by_stem(names: Sequence[str], members: Members) -> dict[str, str]:
    """Path without ending -> path."""
    found: dict[str, str] = {}
    for name in names:
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem in found:
            raise BadImages(
                f'"{members.where}" holds "{found[stem]}" and "{name}": which of them is meant '
                "cannot be told, since endings do not count."
            )
        found[stem] = name
    return found


def _labelled(members: Members, size: int, channels: int, labels: str, order: str) -> ImageSet:
    style = Style(channels=channels, size=size, upright=True)
    if labels == UNLABELLED:
        names = _pictures(members)
        return picture_set(members, names, [0] * len(names), ("unlabelled",), style)
    tables = members.named(labels or TABLE)
    if tables:
        return _from_table(members, tables[0], style)
    if labels:
        raise BadImages(f'"{members.where}" holds no file "{labels}".')
    names = _pictures(members)
    depth = _depth(names)
    if loose := [n for n in names if n.count("/") <= depth]:
        raise BadImages(
            f'"{members.where / loose[0]}" is in no class folder ({len(loose)} such), and there is '
            f"no {TABLE} with the columns filename and label."
        )
    folders = [n.split("/")[depth] for n in names]
    classes, index = _classes(sorted(set(folders)), order, members)
    return picture_set(members, names, [index[f] for f in folders], classes, style)


def _depth(names: Sequence[str]) -> int:
    """How many folders lie around the class folders: each holds all images, and in folders."""
    depth = 0
    while (
        names
        and all(n.count("/") > depth + 1 for n in names)
        and len({n.split("/")[depth] for n in names}) == 1
    ):
        depth += 1
    return depth


def _classes(
    folders: list[str], order: str, members: Members
) -> tuple[Sequence[str], dict[str, int]]:
    """The names of the classes, and the label of each folder."""
    if order not in ("", "text", "number"):
        raise BadSetting(f'order must be "text" or "number", not "{order}".')
    text = {name: label for label, name in enumerate(folders)}
    if not folders or not all(name.isdecimal() for name in folders):
        if order == "number":
            raise BadImages(f'Folders of "{members.where}" are not all numbers: {folders[:3]}.')
        return folders, text
    number = {name: int(name) for name in folders}
    if not order and number != text:
        odd = next(name for name in folders if number[name] != text[name])
        raise BadImages(
            f'The class folder "{odd}" of "{members.where}" is label {text[odd]} in the order of '
            f"text, as in torchvision, but {number[odd]} as a number: say which by order=text or "
            "order=number."
        )
    if order == "text":
        return folders, text
    return [str(i) for i in range(max(number.values()) + 1)], number


def _from_table(members: Members, table: str, style: Style) -> ImageSet:
    where = f'"{members.where / table}"'
    reader = csv.DictReader(io.StringIO(members.text(table), newline=""), restval="")
    columns = set(reader.fieldnames or ())
    if missing := {"filename", "label"} - columns:
        raise BadImages(
            f'{where} lacks the column "{min(missing)}": its first line must be filename,label or '
            f"filename,label,target, not {','.join(reader.fieldnames or ())}."
        )
    base = PurePosixPath(table).parent
    rows: dict[str, dict[str, str]] = {}
    for number, row in enumerate(reader, 2):
        name = str(base / (row["filename"] or "").strip())
        if name not in members.sizes:
            raise BadImages(f'Line {number} of {where}: there is no file "{name}".')
        if name in rows:
            raise BadImages(f'Line {number} of {where} names "{name}" a second time.')
        rows[name] = row
    used = [c for c in ("label", "target") if c in columns]
    values = {c: [(rows[n][c] or "").strip() for n in sorted(rows)] for c in used}
    texts = {value for column in values.values() for value in column}
    if "" in texts:
        raise BadImages(f"A label or target in {where} is empty.")
    if texts and all(t.isdecimal() for t in texts):
        index = {t: int(t) for t in texts}
        classes = [str(i) for i in range(max(index.values()) + 1)]
    elif odd := sorted(t for t in texts if t.isdecimal()):
        raise BadImages(f"{where} has numbers ({odd[0]}) and names of classes: use one of them.")
    else:
        classes = sorted(texts)
        index = {t: label for label, t in enumerate(classes)}
    y = {c: [index[v] for v in column] for c, column in values.items()}
    return picture_set(members, sorted(rows), y["label"], classes, style, y.get("target"))
