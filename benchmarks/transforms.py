"""Transforms in batches beside the loops of the released codes: python -m benchmarks.transforms.

The loops are written anew with the same work an image. FD visits every 8x8 block of every channel
and grows its output by concatenation. RDG reads every pixel through an index in a Python loop; the
released code has that loop but may leave it to OpenCV, for which one NumPy gather stands here, as a
yardstick without a target. Quilting searches each patch and paints it by itself; its released seam
overwrites, and SciPy's maximum flow stands for the cut of the paper (the share of equal values is
that of the two results).

What stays below 20 times, and why (processor time, measured on one thread):
SHIELD: Pillow encodes and decodes an image four times, two thirds of our time and of the loop's,
and holds the interpreter's lock, so that threads gain nothing.
Deflection, moves: the loop makes 1800 moves in 4 ms; a sixth of our time are the draws, half one
sort and one search of the moves in their order.
Deflection, denoised: the loop calls scikit-image, which is vectorised; both are the same passes
over memory, most of them at the finest of five scales.
Quilting: both search by the same exact product, which alone is a third of our time.
FFT (32 px): 65 to 70 % of our time are the two transforms themselves; alone they would be 9 times.
At 299 px (13 * 23)
they are 93 %, and we as fast as the loop, since MKL is slower there than NumPy's pocketfft. SVD and
ME-Net: 50 to 65 % are one LAPACK call a matrix (syevd, 63 us), most of the rest matrix products;
the loops are 84 to 97 % such calls (gesdd, 114 us and at 32 x 96 215 us). Soft-impute has 100
decompositions on both sides, each of what the last gave.
"""

import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.fftpack import dct, idct
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from skimage.restoration import denoise_wavelet

from besiege.core.key import Key
from besiege.defenses.deflection import Deflection
from besiege.defenses.feature_distillation import FeatureDistillation
from besiege.defenses.fft import FrequencyCompression
from besiege.defenses.menet import MENet
from besiege.defenses.quilting import Quilting
from besiege.defenses.random_distortion import RandomDistortion
from besiege.defenses.shield import Shield
from besiege.defenses.svd import LowRank
from besiege.defenses.transform import Transform
from besiege.ops.patches import built_in

SHAPE = (3, 299, 299)
BATCH = 8
SIDE, SMALL = 32, 64  # of the images that are quilted, from 4096 patches, and their number
TARGET = 50  # times as fast as the loop

# operation, loop over, ms of the loop, ms of ours, target (0: none)
Line = tuple[str, str, float, float, float]
Array = NDArray[Any]


def fd_by_blocks(image: Array, steps: Array) -> Array:
    """(299, 299, 3) in [0, 1], a block at a time."""
    padded = np.pad(image, ((2, 3), (2, 3), (0, 0)), "reflect") * 255
    planes = np.zeros((3, 304, 304))
    for c, channel in enumerate(np.split(padded, 3, axis=2)):
        rows = np.zeros((0, 304))
        for strip in np.split(channel, 38, axis=0):
            done = np.zeros((8, 0))
            for block in np.split(strip, 38, axis=1):
                y = dct(dct(np.reshape(block, (8, 8)).T, norm="ortho").T, norm="ortho")
                y = np.round(np.divide(y, steps)) * steps
                z = idct(idct(y.T, norm="ortho").T, norm="ortho")
                done = np.concatenate((done, z), axis=1)
            rows = np.concatenate((rows, done), axis=0)
        planes[c] = rows
    return np.clip(np.float32(planes.transpose(1, 2, 0) / 255), 0, 1)[:299, :299]


def axis_map(size: int, stretch: Array) -> Array:
    """Where each output row or column comes from, a cell at a time."""
    step, out, end = size // 10, np.zeros(size, np.float32), 0.0
    for k, start in enumerate(range(0, size, step)):
        stop = min(start + step, size)
        begin, end = end, size if start + step > size else end + step * (1 + stretch[k])
        out[start:stop] = np.linspace(begin, end, stop - start)
    return np.minimum(np.round(out).astype(int), size - 1)


def rdg_by_pixels(image: Array, rows: Array, columns: Array) -> Array:
    """(299, 299, 3), a pixel at a time through a grid of index pairs."""
    x, y = np.meshgrid(axis_map(299, columns), axis_map(299, rows))
    index = np.dstack((y, x))
    out = np.zeros_like(image)
    for i in range(299):
        for j in range(299):
            out[i, j] = image[tuple(index[i][j])]
    return out


def rdg_by_gather(image: Array, rows: Array, columns: Array) -> Array:
    """(299, 299, 3), the whole image in one NumPy gather."""
    x, y = np.meshgrid(axis_map(299, columns), axis_map(299, rows))
    return image[y, x]


def fft_by_images(images: Array, percent: float) -> Array:
    """(B, 3, H, W), an image at a time, its mask made anew: two quarter discs."""
    out = np.zeros_like(images)
    _, _, height, width = images.shape
    half = width // 2 + 1
    for k, image in enumerate(images):
        radius = int(np.sqrt(2 * (1 - percent / 100) * height * half / np.pi))
        y, x = np.ogrid[:height, :half]
        near = (x**2 + y**2 < radius**2) | (x**2 + (height - 1 - y) ** 2 < radius**2)
        out[k] = np.fft.irfft2(np.fft.rfft2(image) * near, s=(height, width))
    return np.clip(out, 0, 1)


def svd_by_channels(images: Array, percent: float) -> Array:
    """(B, 3, H, W), a channel of an image at a time."""
    out = np.zeros_like(images)
    rank = int((1 - percent / 100) * images.shape[2])
    for k, image in enumerate(images):
        for c, channel in enumerate(image):
            u, s, v = np.linalg.svd(channel)
            out[k, c] = u[:, :rank] @ np.diag(s[:rank]) @ v[:rank]
    return np.clip(out, 0, 1)


def usvt_by_images(images: Array, kept: Array) -> Array:
    """(B, 3, H, W), an image at a time, channels side by side."""
    out = np.zeros_like(images)
    for k, (image, mask) in enumerate(zip(images, kept, strict=True)):
        a, m = np.concatenate(2 * image - 1, axis=1), np.concatenate(mask, axis=1)
        u, s, v = np.linalg.svd(a * m)
        sigma = np.zeros(a.shape)
        for j in range(int(0.8 * len(a))):
            sigma[j, j] = s[j]
        out[k] = np.stack(np.split((u @ sigma @ v) / m.mean(), 3, axis=1))
    return (np.clip(out, -1, 1) + 1) / 2


def imputed_by_images(images: Array, kept: Array) -> Array:
    """(B, 3, H, W), an image at a time: what the package fancyimpute does."""
    out = np.zeros_like(images)
    for k, (image, mask) in enumerate(zip(images, kept, strict=True)):
        a, m = np.concatenate(2 * image - 1, axis=1), np.concatenate(mask, axis=1)
        x = a * m
        amount = np.linalg.svd(x, compute_uv=False)[0] / 50
        for _ in range(100):
            u, s, v = np.linalg.svd(x, full_matrices=False)
            y = np.where(m, x, (u * np.maximum(s - amount, 0)) @ v)
            moved, before = np.linalg.norm((y - x)[~m]), np.linalg.norm(x[~m])
            x = y
            if moved < 1e-3 * before:
                break
        out[k] = np.stack(np.split(x, 3, axis=1))
    return (np.clip(out, -1, 1) + 1) / 2


def channels() -> None:
    """Print a table of the lossy channels at 32 px; it has no targets."""
    key = Key.root(0, range(16))
    small = FrequencyCompression(percent=90).forward(key.uniform(3, 32, 32), None)
    usvt, imputed = MENet(), MENet(method="soft-impute")
    kept = usvt.draw(key.fold("mask"), (3, 32, 32))
    images, mask = small.double().numpy(), kept.numpy()
    released = FrequencyCompression(percent=50, form="released")
    lines: list[tuple[str, Callable[[], object], Transform]] = [
        ("FFT", lambda: fft_by_images(images, 50), released),
        ("SVD", lambda: svd_by_channels(images, 50), LowRank()),
        ("ME-Net, USVT", lambda: usvt_by_images(images, mask), usvt),
        ("ME-Net, soft-impute", lambda: imputed_by_images(images, mask), imputed),
    ]
    table = Table(title="ms an image at 32, one thread, batches of 16 (fastest of 3)")
    for head in ("operation", "loop over images", "besiege", "times as fast"):
        table.add_column(head, justify="left" if head == "operation" else "right")
    for name, loop, link in lines:
        slow = fastest(loop, 3) / len(small)
        fast = fastest(lambda link=link: link.forward(small, kept), 3) / len(small)  # type: ignore[misc]
        table.add_row(name, f"{slow:.3f}", f"{fast:.3f}", f"{slow / fast:.1f}")
    Console().print(table)


def shield_by_blocks(image: Array, choice: Array) -> Array:
    """(299, 299, 3) in [0, 1], encoded at each quality, then a block at a time."""
    picture = Image.fromarray((image * 255).astype(np.uint8))
    coded = []
    for quality in (20, 40, 60, 80):
        file = BytesIO()
        picture.save(file, "JPEG", quality=quality)
        coded.append(np.asarray(Image.open(file)) / 255)
    out = np.empty_like(image)
    for i in range(38):
        for j in range(38):
            block = slice(8 * i, 8 * i + 8), slice(8 * j, 8 * j + 8)
            out[block] = coded[choice[i, j]][block]
    return out


def deflected_by_moves(image: Array, moves: Array) -> Array:
    """(299, 299, 3), move after move, a channel after another."""
    out = image.copy()
    for i, (u, down, right) in enumerate(moves):
        x, y = divmod(int(u * 299 * 299), 299)
        low, left = max(x - 10, 1), max(y - 10, 1)
        a = low + int(down * (min(x + 10, 298) - low + 1))
        b = left + int(right * (min(y + 10, 298) - left + 1))
        out[x, y, i % 3] = out[a, b, i % 3]
    return out


def denoised_by_library(image: Array, moves: Array) -> Array:
    """(299, 299, 3), deflected and denoised by scikit-image."""
    moved = deflected_by_moves(image, moves)
    return denoise_wavelet(moved, sigma=0.04, convert2ycbcr=True, channel_axis=-1)


def quilted_by_patches(
    image: Array, base: Array, norms: Array, picks: Array, cut: bool = False
) -> Array:
    """(3, H, W) in [0, 1], a patch at a time, each searched and laid over those before.

    cut: along the smallest cut, up to the border; else as released.
    """
    out = np.zeros_like(image)
    for i, y in enumerate(range(0, image.shape[1] - 5 + cut, 3)):
        for j, x in enumerate(range(0, image.shape[2] - 5 + cut, 3)):
            query = np.float32(255) * image[:, y : y + 5, x : x + 5].reshape(-1)
            scores = norms - 2 * (base @ query)
            near = np.argpartition(scores, 10)[:10]
            pick = near[np.argsort(scores[near])][picks[i, j]]
            new, under = base[pick].reshape(3, 5, 5), out[:, y : y + 5, x : x + 5]
            under[:] = np.where(cut_by_flow(under, new, i > 0, j > 0), new, under) if cut else new
    return out / 255


def cut_by_flow(old: Array, new: Array, top: bool, left: bool) -> Array:
    """Where a new patch (3, 5, 5) shows beside the old one, by SciPy's maximum flow."""
    gap = np.abs(old.astype(np.int32) - new).sum(0)
    row, column = np.mgrid[:5, :5]
    fixed = ((row == 0) & top) | ((column == 0) & left)
    free = (((row < 2) & top) | ((column < 2) & left)) & ~fixed
    at, most = np.arange(25).reshape(5, 5), 1 << 24
    edges = [
        (at[:-1], at[1:], gap[:-1] + gap[1:]),
        (at[:, :-1], at[:, 1:], gap[:, :-1] + gap[:, 1:]),
    ]
    edges += [(b, a, cost) for a, b, cost in edges]
    edges += [(np.full(fixed.sum(), 25), at[fixed], np.full(fixed.sum(), most))]
    beyond = ~fixed & ~free
    edges += [(at[beyond], np.full(beyond.sum(), 26), np.full(beyond.sum(), most))]
    a, b, cost = (
        np.concatenate([part.ravel() for part in parts]) for parts in zip(*edges, strict=True)
    )
    graph = coo_array((cost.astype(np.int32), (a, b)), shape=(27, 27)).tocsr()
    rest = graph - maximum_flow(graph, 25, 26).flow
    rest.eliminate_zeros()
    shown = np.ones(27, bool)
    shown[breadth_first_order(rest, 25, return_predecessors=False)] = False
    return shown[:25].reshape(5, 5)


def fastest(call: Callable[[], object], rounds: int) -> float:
    """Milliseconds of the fastest of `rounds` calls, after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times[1:])


def local_lines(image: Array, key: Key, batched: Callable[[Transform], float]) -> list[Line]:
    """Operations that act on blocks and on single pixels."""
    shield = Shield(rounding="truncate")
    choice = shield.draw(key, SHAPE)[0].numpy()
    moves_only = Deflection(deflections=1800, form="released", sigma=0)
    moves = moves_only.draw(key, SHAPE)[0].numpy()
    whole = Deflection(form="released", convention="rescaled")
    blocks = fastest(lambda: shield_by_blocks(image, choice), 5)
    by_moves = fastest(lambda: deflected_by_moves(image, moves), 5)
    by_library = fastest(lambda: denoised_by_library(image, moves[:201]), 5)
    return [
        ("SHIELD", "blocks", blocks, batched(shield), 0),
        ("deflection, 1800 moves", "moves", by_moves, batched(moves_only), 0),
        ("deflection, denoised", "moves", by_library, batched(whole), 0),
    ]


def quilting_lines() -> list[Line]:
    """Quilting of small images, without and with its cuts."""
    quilt, cut = Quilting(seam="overwrite", cover="released"), Quilting()
    key = Key.root(0, range(SMALL))
    small = key.fold("small").uniform(3, SIDE, SIDE)
    picks, places = (link.draw(key, (3, SIDE, SIDE)) for link in (quilt, cut))
    base = built_in(5).pixels.numpy().astype(np.float32)
    norms = (base * base).sum(1)
    image, first, second = small[0].numpy(), picks[0].numpy(), places[0].numpy()
    done = quilted_by_patches(image, base, norms, second, cut=True)
    same = float((torch.from_numpy(done) == cut.forward(small[:1], places[:1])[0]).float().mean())
    slow = fastest(lambda: quilted_by_patches(image, base, norms, first), 3)
    plain = fastest(lambda: quilt.forward(small, picks), 3) / SMALL
    slow_cut = fastest(lambda: quilted_by_patches(image, base, norms, second, cut=True), 3)
    seams = fastest(lambda: cut.forward(small, places), 3) / SMALL
    return [
        (f"quilting at {SIDE}", "patches", slow, plain, 0),
        (f"quilting at {SIDE}, cut ({same:.0%} equal)", "patches", slow_cut, seams, 0),
    ]


def bench() -> bool:
    """Print the table; True if every target is met."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # As after the first pass of a network, whose activations teach the C allocator to keep blocks
    # of this size; before it, every batch's memory comes from the system anew, page by page.
    torch.zeros(7_000_000)
    key = Key.root(0, range(BATCH))
    x = key.fold("image").uniform(*SHAPE)
    image = x[0].permute(1, 2, 0).double().numpy()
    steps = np.full((8, 8), 30.0)
    steps[:4, :4] = 25.0
    released = RandomDistortion(limit=0.25, sampling="nearest", corner="upper-left")
    drawn = released.draw(key, SHAPE)
    rows, columns = (0.25 * (2 * u[0].double().numpy() - 1) for u in (drawn.y, drawn.x))

    def batched(link: Transform) -> float:
        """Milliseconds an image, draws included."""
        return fastest(lambda: link.forward(x, link.draw(key, SHAPE)), 30) / BATCH

    by_blocks = fastest(lambda: fd_by_blocks(image, steps), 3)
    by_pixels = fastest(lambda: rdg_by_pixels(image, rows, columns), 3)
    by_gather = fastest(lambda: rdg_by_gather(image, rows, columns), 30)
    nearest = batched(released)
    lines = [
        ("FD", "blocks", by_blocks, batched(FeatureDistillation(form="released")), TARGET),
        ("RDG, nearest", "pixels", by_pixels, nearest, TARGET),
        ("RDG, bilinear", "pixels", by_pixels, batched(RandomDistortion()), TARGET),
        ("RDG, nearest", "none (gather)", by_gather, nearest, 0),
        *local_lines(image, key, batched),
        *quilting_lines(),
    ]
    channels()
    torch.set_num_threads(before)
    table = Table(title=f"ms an image at 299, one thread, batches of {BATCH} (fastest of 30)")
    for head in ("operation", "loop over", "loop", "besiege", "times as fast", "target"):
        table.add_column(head, justify="left" if head in ("operation", "loop over") else "right")
    for name, loop, slow, fast, target in lines:
        shown = f">= {target}" if target else ""
        table.add_row(name, loop, f"{slow:.2f}", f"{fast:.2f}", f"{slow / fast:.1f}", shown)
    Console().print(table)
    return all(slow / fast >= target for _, _, slow, fast, target in lines)


if __name__ == "__main__":
    raise SystemExit(0 if bench() else "a target is missed")
