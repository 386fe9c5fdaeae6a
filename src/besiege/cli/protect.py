"""`besiege protect`: a defense applied to files of pictures."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from besiege.cli import options


def protect(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="A PNG, JPEG or WebP file, or a folder of them."),
    ],
    defense: options.Chain,
    out: Annotated[Path, typer.Option(help="Folder of the results; for one file also a name.png.")],
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
    form: Annotated[
        str,
        typer.Option(
            "--format", help="png or webp, both without loss. Default: as it was; JPEG becomes PNG."
        ),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite results.")] = False,
    sheet: Annotated[
        Path | None,
        typer.Option("--contact-sheet", help="A PNG file: before, after and their difference."),
    ] = None,
    shown: Annotated[
        int, typer.Option("--shown", min=1, help="The most pictures on the contact sheet.")
    ] = 12,
) -> None:
    """Apply a defense to pictures; exit 1 if some were skipped, the others are written."""
    from besiege.core.errors import BadRun, BadSetting
    from besiege.defenses.catalog import parse_chain
    from besiege.report.contact_sheet import before_and_after
    from besiege.study.progress import Display
    from besiege.study.protect import protect as protect_files

    if sheet is not None and sheet.suffix.lower() != ".png":
        raise BadSetting(f'a contact sheet is a .png file, not "{sheet}".')
    if sheet is not None and sheet.exists() and not force:
        raise BadRun(f'"{sheet}" is there already: choose another name, or add --force.')
    with Display(sys.stderr) if source.is_dir() else nullcontext() as display:
        done = protect_files(
            parse_chain(defense),
            source,
            out,
            seed=seed,
            form=form,
            force=force,
            keep=shown if sheet else 0,
            on_event=display,
        )
    for sentence in done.skipped:
        print(f"skipped: {sentence}", file=sys.stderr)
    print(f"{len(done.written)} written to {out}, {len(done.skipped)} skipped")
    if sheet is not None and done.pairs:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        before_and_after(done.pairs, defense).save(sheet)
        print(f"contact sheet: {sheet}")
    if done.skipped:
        raise typer.Exit(1)
