"""The descent test of every surrogate in the catalog: python examples/surrogates.py [NAME ...]

100 images of CIFAR-10, 20 for the LONG ones, and ResNet-20 (the authors' data in `../shared/data`):
each surrogate of each transform, under every setting that the laws try, against random directions.
Writes the table of docs/surrogates.md; with names, the rows of these transforms alone, and the
others stay.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from besiege.attacks.balls.ball import spelt
from besiege.core.entry import Catalog, Entry
from besiege.core.key import Key
from besiege.data.catalog import load_images
from besiege.data.images import ImageSet
from besiege.defenses.catalog import TRANSFORMS
from besiege.defenses.defense import Defense
from besiege.defenses.transform import Chain, Transform
from besiege.models.catalog import load_model
from besiege.models.classifier import Classifier
from besiege.study.adaptive.descent import RANDOM, Descent, descent

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PAGE = ROOT / "docs" / "surrogates.md"
START, END = "<!-- rows of examples/surrogates.py -->", "<!-- end -->"
N = 100
FEW = 20  # images for those that take long
LONG = ("deflection", "menet", "quilt", "adversarial", "barrage", "pixel-defend")
SIZES = (1 / 255, 4 / 255)
SHARES = " | ".join(f"beats random at {spelt(size)}" for size in SIZES)
HEAD = [
    f"| link | surrogate | {SHARES} | loss gained |",
    f"|---|---|{'---:|' * len(SIZES)}---:|",
]


def measured(entry: Entry[Transform], images: ImageSet, net: Classifier) -> Iterator[str]:
    """The rows of one transform; one with the reason where a case needs what is not at hand."""
    wanted = FEW if entry.name in LONG else N
    x, y, _ = images.take(range(min(wanted, len(images))))
    if not entry.cases:
        yield f"| `{entry.name}` | left out: has no case of its own | {'| ' * len(SIZES)}|"
    for spec, case in zip(entry.specs, entry.cases, strict=True):
        try:
            link = entry.factory(**case)
            found = descent(
                Defense(Chain((link,)), net),
                link.name,
                x,
                y,
                Key.root(0, range(len(x))),
                sizes=SIZES,
                draws=4,
                fresh=4,
                directions=1,
            )
        except Exception as error:  # weights or files that are not at hand, sizes that do not fit
            reason = str(error).partition(". ")[0].replace("|", "/")
            yield f"| `{spec}` | left out: {reason} | {'| ' * len(SIZES)}|"
            continue
        yield from rows(spec, found)


def rows(spec: str, found: Descent) -> Iterator[str]:
    """A row for each surrogate, as they rank; those that no step proves better are in italics."""
    for name in found.ranking:
        steps = [s for s in found.steps if s.surrogate == name]
        shares = " | ".join(
            f"{100 * s.share.estimate:.0f} %" if name != RANDOM else "-" for s in steps
        )
        lost = name != RANDOM and not any(s.leads for s in steps)
        shown = f"*{name}*" if lost else f"{name}" if name == RANDOM else f"`{name}`"
        yield f"| `{spec}` | {shown} | {shares} | {found.gain(name):+.2f} |"


def owner(row: str) -> str:
    """The name of the transform that a row is of."""
    return re.split(r"[`:]", row)[1]


def write(page: Path, catalog: Catalog[Transform], fresh: Sequence[str]) -> None:
    """Put the rows `fresh` into the page, in the place of others of their transforms."""
    text = page.read_text("utf-8")
    before, _, rest = text.partition(START)
    old, _, after = rest.partition(END)
    new = {owner(row) for row in fresh}
    kept = [r for r in old.splitlines() if r.startswith("| `") and owner(r) not in new]
    order = list(catalog)
    lines = sorted(
        (row for row in [*kept, *fresh] if owner(row) in catalog),
        key=lambda row: order.index(owner(row)),
    )
    page.write_text(before + "\n".join([START, "", *HEAD, *lines, "", END]) + after, "utf-8")


def main(names: Sequence[str]) -> None:
    """Measure and write, transform by transform, so that what is done stays."""
    images = load_images(f"packed:path={DATA / 'cifar10_test_subset.npz'}")
    net = load_model(f"file:{DATA / 'cifar10_resnet20.safetensors'}")
    for name in names or TRANSFORMS:
        found = list(measured(TRANSFORMS[name], images, net))
        write(PAGE, TRANSFORMS, found)
        print("\n".join(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
