"""`besiege reproduce NAME`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from besiege.cli import options


def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="A table or figure of --list, or a TOML file of your own.")
    ] = None,
    every: Annotated[bool, typer.Option("--list", help="What can be reproduced; runs nothing.")] = (
        False
    ),
    images: Annotated[
        str | None,
        typer.Option(help="Folder of images (class folders or labels.csv), or a data SPEC."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help='See `besiege list models`; or "mine.py:make_model".')
    ] = None,
    count: Annotated[int | None, typer.Option(help="How many images.", min=1)] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ROW", help="Only this row. Repeatable.")
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="On digits, which everybody has: shows the command at work.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder, made or resumed. Default: runs/reproduce-NAME.")
    ] = None,
    change: options.Change = None,
) -> None:
    """A paper's table or figure: published, by its own protocol, and by a correct one."""
    from besiege.core.errors import BadSetting
    from besiege.papers.load import load_paper

    if every:
        _list()
        return
    if name is None:
        raise BadSetting("name a table or figure: `besiege reproduce --list` has them.")
    changes = [f"data.source={json.dumps(_images(images))}"] if images else []
    changes += [f"model.source={json.dumps(_here(model))}"] if model else []
    changes += [f"data.n={count}"] if count else []
    paper = load_paper(name, [*changes, *(change or ())], only or (), quick)
    folder = out or Path("runs") / f"reproduce-{paper.name}{'-quick' if quick else ''}"

    from besiege.papers.reproduce import FOLDERS
    from besiege.papers.reproduce import reproduce as measured
    from besiege.papers.show import show, write
    from besiege.report.page import write_report
    from besiege.study.progress import Display

    with Display(sys.stderr) as display:
        found = measured(paper, folder, display)
    show(found, sys.stdout)
    print(f"written: {write(found)}")
    for part in FOLDERS.values():
        print(f"report: {write_report(folder / part)}")


def _images(given: str) -> str:
    """A folder's spec, or the spec itself, with paths that hold from anywhere."""
    if Path(given).expanduser().is_dir():
        return options.folder_spec(Path(given).expanduser().resolve(), 0, 3)
    return _here(given)


def _here(spec: str) -> str:
    from besiege.study.experiment.places import respelled

    return respelled(spec, lambda path: str(Path(path).expanduser().resolve()))


def _list() -> None:
    """Print what comes with besiege."""
    from besiege.papers.load import load_paper, shipped

    for name in shipped():
        file = load_paper(name).file
        print(f"{name:24}{file.title} ({file.paper}, {file.part})")
