"""Options that several commands take, each worded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Chain: TypeAlias = Annotated[
    str,
    typer.Option(
        help='Links in order: "fd + rdg:limit=0.15", or your own: "mine.py:make_defense".'
    ),
]
Network: TypeAlias = Annotated[
    str, typer.Option(help='See `besiege list models`; or your own: "mine.py:make_model".')
]
Goal: TypeAlias = Annotated[str, typer.Option(help='Ball and radius: "linf:eps=8/255".')]
Steps: TypeAlias = Annotated[int, typer.Option(help="Steps of every attacker.")]
Out: TypeAlias = Annotated[Path, typer.Option(help="Run folder, made or resumed.")]
Change: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting of the file format, as in engine.workers=2."),
]
SaveImages: TypeAlias = Annotated[
    bool,
    typer.Option("--save-images", help="Keep every example's images, for `besiege judge` too."),
]
Budget: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Of each attacker: passes an image (forward and backward, draws counted), as in 3000, "
        "the default of the adaptive one; or for all of them a time, as in 10min."
    ),
]
Claim: TypeAlias = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Robust accuracy that is claimed, in [0, 1].")
]
Until: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="End once each defense's accuracy is known to lie above or below this, in [0, 1].",
    ),
]
Size: TypeAlias = Annotated[
    int, typer.Option(help="Side of the square that images are brought to; 0 if all have one size.")
]
Channels: TypeAlias = Annotated[int, typer.Option(help="3 for RGB, 1 for grey.")]
Order: TypeAlias = Annotated[
    str,
    typer.Option(help='What class folders named by numbers mean: "text" (sorted) or "number".'),
]


def changes(change: Sequence[str] | None, save_images: bool) -> list[str]:
    """What `--set` and `--save-images` ask for, as changes of settings."""
    return [*(change or ()), *(["keep.images=all"] if save_images else [])]


def folder_spec(path: Path, size: int, channels: int, order: str = "", labels: str = "") -> str:
    """The data set of a folder. Raises BadSetting for a path that no spec can hold."""
    from besiege.core.errors import BadSetting

    if "," in str(path):
        raise BadSetting(f'"{path}" has a comma in it, which separates settings: rename it.')
    more = "".join(f",{k}={v}" for k, v in (("order", order), ("labels", labels)) if v)
    return f"folder:path={path},size={size},channels={channels}{more}"
