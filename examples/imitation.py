"""The descent test of learned surrogates: python examples/imitation.py [NAME ...]

50 images of CIFAR-10 and ResNet-20 (the authors' data in `../shared/data`):
an imitation of each link, learned on 300 other images, against the link's best surrogate, the
identity and random directions. Prints rows of the table in docs/surrogates.md.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from surrogates import HEAD, SIZES, rows

import besiege
from besiege.core.key import Key

DATA = Path(__file__).parents[2] / "shared" / "data"
TEST, LEARNT = 50, 300  # images
LINKS = {
    "adversarial": f"adversarial:model=file:{DATA / 'cifar10_vgg0_adv.safetensors'},delta=0.05",
    "quilt": "quilt",
    "jpeg": "jpeg:quality=20,subsampling=4:4:4",
    "tvm": "tvm:kind=isotropic,of=pixels,tol=0.05",
    "pad": "pad",
}


def measured(name: str) -> None:
    """Print the rows of one link."""
    net = besiege.load_model(f"file:{DATA / 'cifar10_resnet20.safetensors'}")
    images = besiege.load_images(f"packed:path={DATA / 'cifar10_test_subset.npz'}")
    x, y, _ = images.take(range(TEST))
    others, _, _ = images.take(range(TEST, TEST + LEARNT))
    (link,) = besiege.parse_chain(LINKS[name]).links
    start = time.perf_counter()
    known = besiege.imitate(link, others, Key.root(1, range(LEARNT)), copies=2)
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    found = besiege.descent(
        besiege.Defense(besiege.Chain((known,)), net),
        link.name,
        x,
        y,
        Key.root(0, range(TEST)),
        surrogates=list(dict.fromkeys([next(iter(link.surrogates)), "identity", "learned"])),
        sizes=SIZES,
        draws=4,
        fresh=4,
        directions=1,
    )
    for row in rows(name, found):
        print(row, flush=True)


if __name__ == "__main__":
    print("\n".join(HEAD))
    for wanted in sys.argv[1:] or LINKS:
        measured(wanted)
