"""`besiege quilt build`: the patches of which the transform `quilt` lays images."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from besiege.cli import options

app = typer.Typer(help="Databases of patches for the transform quilt.", no_args_is_help=True)


@app.command("build")
def build(
    images: Annotated[
        str, typer.Argument(help='A folder of your images, or a data set: "cifar10:path=DIR".')
    ],
    out: Annotated[Path, typer.Option(help="The .npy file to write.")],
    patches: Annotated[int, typer.Option(help="How many patches.")] = 1_000_000,
    size: Annotated[int, typer.Option(help="Side of a patch, in pixels.")] = 5,
    image_size: Annotated[
        int, typer.Option(help="Of a folder: side of the square that images are brought to.")
    ] = 0,
    channels: options.Channels = 3,
    seed: Annotated[int, typer.Option(help="Of the choice of images and places.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Cut patches from IMAGES at random; images that cannot be read are named and passed over."""
    from besiege.data.catalog import load_images
    from besiege.data.folder import UNLABELLED
    from besiege.data.patches import build
    from besiege.study.progress import Display, Event

    folder = Path(images).expanduser()
    if folder.is_dir():
        images = options.folder_spec(folder, image_size, channels, labels=UNLABELLED)
    source = load_images(images)
    began = time.perf_counter()
    with Display(sys.stderr) as display:

        def show(done: int) -> None:
            display(Event("", "patches", done, patches, time.perf_counter() - began))

        base, bad = build(source, out, patches, size, seed, force, show)
    for why in bad.values():
        print(f"passed over: {why}", file=sys.stderr)
    print(f"{out}: {len(base.pixels)} patches of {size} x {size}, digest {base.digest}")
    print(f"defense: quilt:patches={out}" + (f",size={size}" if size != 5 else ""))
