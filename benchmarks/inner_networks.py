"""Links with a network inside, beside loops over images: python -m benchmarks.inner_networks.

As the released codes do, the loops take one image at a time, with the same network, start and
steps. Adversarial transformation is 13 steps of PGD towards the least likely class of ResNet-20
(without the reference data: the digits' network). PixelDefend goes through 8 x 8 px in raster
order under three masked convolutions of random weights. It also counts the values in which the two
outputs differ: kernels round by shape, and a sign or an argmax may turn.

No target: both sides wait for the same network, pass for pass, and on one thread a batch of 16
gains only what its kernels and calls gain (measured: 4 to 5). Fewer passes would be another
defense.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.pgd import problem
from benchmarks.transforms import fastest
from besiege.core.key import Key
from besiege.defenses.adversarial_transformation import AdversarialTransformation
from besiege.defenses.pixel_defend import LEVELS, PixelDefend
from besiege.defenses.transform import Transform
from besiege.models.classifier import Classifier

BATCH, STEPS, DELTA, SIDE, WIDTH = 16, 13, 0.2, 8, 32


class Density(nn.Module):
    """Three convolutions over what stands before a pixel, row by row, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        key = Key.root(0, [0])
        before = torch.arange(25).reshape(5, 5) < 12
        widths = (3, WIDTH, WIDTH, WIDTH)
        self.kernels = [
            key.fold("layer", i).normal(b, a, 5, 5)[0] * before * (2 / (12 * a)) ** 0.5
            for i, (a, b) in enumerate(pairwise(widths))
        ]
        self.head = key.fold("head").normal(3, LEVELS, WIDTH)[0]
        self.eval()

    def forward(self, levels: Tensor, c: int, i: int, j: int) -> Tensor:
        """Logits (B, 256) of the value at [:, c, i, j]."""
        h = levels.float() / (LEVELS - 1)
        for kernel in self.kernels:
            h = F.relu(F.conv2d(h, kernel, padding=2))
        return F.linear(h[:, :, i, j], self.head[c])


def attacked_alone(f: Classifier, image: Tensor, u: Tensor) -> Tensor:
    """g of one image (C, H, W), from the numbers u in [0, 1)."""
    x = image[None]
    with torch.no_grad():
        goal = f(x).argmin(1)
    d = (2 * u[None] - 1) * DELTA
    for _ in range(STEPS):
        point = (x + d).requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(f(point), goal), point)
        d = (d - DELTA / 6 * slope.sign()).clamp(-DELTA, DELTA)
        d = (x + d).clamp(0, 1) - x
    return (x + d).clamp(0, 1)[0]


def purified_alone(density: Density, image: Tensor) -> Tensor:
    """One image (C, H, W), value after value in raster order."""
    levels = (image[None] * 255).round().long()
    for i in range(image.shape[1]):
        for j in range(image.shape[2]):
            for c in range(len(image)):
                at = int(levels[0, c, i, j])
                low, high = max(at - 16, 0), min(at + 16, 255)
                likely = density(levels, c, i, j)[0, low : high + 1]
                levels[0, c, i, j] = low + int(likely.argmax())
    return levels[0] / 255


def bench() -> bool:
    """Print the table; there is no target."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model, images, _ = problem()
    images = images[:BATCH]
    key, density = Key.root(0, range(BATCH)), Density()
    noise = key.fold("image").uniform(3, SIDE, SIDE)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    attack = AdversarialTransformation(model=model, steps=STEPS, delta=DELTA)
    u = attack.draw(key, shape)
    assert u is not None
    purify: Transform = PixelDefend(density=density)

    def attacked() -> Tensor:
        return torch.stack([attacked_alone(model, a, b) for a, b in zip(images, u, strict=True)])

    @torch.no_grad()
    def purified() -> Tensor:
        return torch.stack([purified_alone(density, image) for image in noise])

    table = Table(title=f"ms an image, batches of {BATCH}, one thread")
    for head in ("link", "image by image", "besiege", "times as fast", "values apart"):
        table.add_column(head, justify="left" if head == "link" else "right")
    for name, alone, together in (
        ("adversarial", attacked, lambda: attack.forward(images, u)),
        ("pixel-defend", purified, lambda: purify.forward(noise, None)),
    ):
        slow, fast = fastest(alone, 1) / BATCH, fastest(together, 1) / BATCH
        apart = float(((alone() - together()).abs() > 1e-6).float().mean())
        row = (f"{slow:.1f}", f"{fast:.1f}", f"{slow / fast:.1f}", f"{100 * apart:.2f} %")
        table.add_row(name, *row)
    torch.set_num_threads(before)
    Console().print(table)
    return True


if __name__ == "__main__":
    bench()
