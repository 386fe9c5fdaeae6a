"""Image quilting: the image laid out anew of patches of other images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from besiege.core.batch import in_pieces
from besiege.core.errors import BadImages, BadSetting, one_of
from besiege.core.key import Key
from besiege.defenses.transform import Shape, Surrogate, Transform, identity
from besiege.ops import neighbours, quilting
from besiege.ops.patches import Patches, built_in, load
from besiege.ops.seams import SEAMS
from besiege.ops.soft_patches import soft_patches

SIZES = range(2, 10)  # a smallest cut of size n keeps 2^n costs
COVERS = ("full", "released")
INDICES = ("exact", "faiss")
OVERWRITE = "overwrite"
SOFT = 30  # neighbours that the soft surrogate averages over, at least


@dataclass(frozen=True)
class Quilting(Transform):
    """Image quilting: the image laid out anew of patches of other images.

    The image is covered row by row with squares that overlap. Each is replaced by one of the k
    nearest patches of a database (squared distance over all channels, each chosen alike, anew for
    every square), and a seam through the overlap decides where it gives way to those before.

    patches: a .npy file of 8-bit patches, as `besiege quilt build` writes it; by default 4096 from
        two photographs, for trials only. Grey images see colour patches averaged over channels;
        colour images see grey ones as they are. Its content is part of what names a cell.
    size, overlap: side of a patch, 2 to 9 px, and what neighbours share, at most half of it.
    k: number of nearest patches to choose from, 10 or 1 in the paper; 1 draws nothing.
    seam: "cut" is the minimum graph cut of the paper (symmetric weights of Kwatra et al. 2003;
        outer edge of the overlap old, all beyond it new); "directed" the same with the weights of
        the released code, |new there - old here|; "path" a minimum error boundary (Efros and
        Freeman 2001; Athalye et al. 2018); "overwrite" lays the new patch over all others, which
        is what the released code does: its graph lacks one of the two terminals.
    cover: "full" moves the last row and column of patches to the border; "released" leaves the
        last 1 to size - overlap rows and columns black (3 px at 224).
    index: "exact", or "faiss" (extra: quilting): only the `probes` lists, of about sqrt(N), whose
        centres are nearest. Released: faiss on compressed patches (PCA, product quantiser).
    probes: lists that faiss searches.

    The released defense is seam="overwrite", cover="released".
    Patches are compared with the image rounded to 1/8 grey level (colour, size 5; see
    `ops.neighbours`), so that search and seams are exact and an image's bits depend on neither
    batch nor device. The result has 8 bits.

    Surrogates: "soft" is the average of the nearest patches (k, at least 30) weighted by
    softmax(-distance / their mean distance), with neighbours and seams held fixed. "identity"
    ignores the link.

    Source: Guo et al. 2018 (arXiv:1711.00117), section 4.4, and the code released with it.
    Cost: a search a square, 2 to 3 ms each in 1,000,000 patches on one CPU thread; its soft
    surrogate searches once more.
    """

    patches: str = ""
    size: int = 5
    overlap: int = 2
    k: int = 10
    seam: str = "cut"
    cover: str = "full"
    index: str = "exact"
    probes: int = 8
    name: str = "quilt"

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise BadSetting(f"quilt: size is a number from 2 to 9 (pixels), got {self.size}.")
        if self.overlap not in range(self.size // 2 + 1):
            raise BadSetting(
                f"quilt: overlap is at most half of size, 0 to {self.size // 2} pixels, got "
                f"{self.overlap}."
            )
        one_of("seam", self.seam, (OVERWRITE, *SEAMS), "transform quilt")
        one_of("cover", self.cover, COVERS, "transform quilt")
        one_of("index", self.index, INDICES, "transform quilt")
        if not (isinstance(self.probes, int) and self.probes >= 1):
            raise BadSetting(f"quilt: probes is a whole number of at least 1, got {self.probes}.")
        most = len(self._base().pixels)
        if self.k not in range(1, most + 1):
            raise BadSetting(f"quilt: k is 1 to {most}, the number of patches, got {self.k}.")

    @property
    def digest(self) -> str:
        """Names the content of the database."""
        return self._base().digest

    def draw(self, key: Key, shape: Shape) -> Tensor | None:
        """Which of the k nearest each patch is, (B, rows, columns) int64; None for k = 1."""
        return None if self.k == 1 else key.integers(self.k, *self._grid(shape).shape)

    def forward(self, x: Tensor, draw: Tensor | None) -> Tensor:
        """x float (B, C, H, W) in [0, 1], quilted. Raises BadImages if smaller than a patch."""
        with torch.no_grad():
            return in_pieces(self._quilted, x, draw)

    def _quilted(self, x: Tensor, draw: Tensor | None) -> Tensor:
        grid, base = self._under(x)
        chosen = _chosen(self._near(x, grid, base, self.k), draw)
        laid = _shaped(base[chosen], x, grid)
        return quilting.shown(laid, self._owner(laid, grid), grid).to(x.dtype) / 255

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """Neighbours averaged, or the whole link ignored."""
        return {"soft": lambda x, draw: in_pieces(self._soft, x, draw), "identity": identity}

    def _soft(self, x: Tensor, draw: Any) -> Tensor:
        grid, base = self._under(x)
        with torch.no_grad():
            near = self._near(x, grid, base, min(max(self.k, SOFT), len(base)))
            owner = self._owner(_shaped(base[_chosen(near[..., : self.k], draw)], x, grid), grid)
        squares = quilting.cut_out(x, grid).flatten(3)
        mixed = soft_patches(squares.flatten(0, 2), base, near.flatten(0, 2))
        return quilting.shown(_shaped(mixed.reshape(squares.shape), x, grid), owner, grid)

    def _under(self, x: Tensor) -> tuple[quilting.Grid, Tensor]:
        """Where patches lie on x, and the database as x sees it."""
        _, channels, height, width = x.shape
        return self._grid((channels, height, width)), self._base().seen(channels, x.device)

    def _near(self, x: Tensor, grid: quilting.Grid, base: Tensor, k: int) -> Tensor:
        """Which patches are the k nearest to each square, (B, R, K, k)."""
        squares = quilting.cut_out(x, grid).flatten(3)
        return self._search(base, squares.flatten(0, 2), k).reshape(*squares.shape[:3], k)

    def _owner(self, laid: Tensor, grid: quilting.Grid) -> Tensor:
        """Which patch shows in each pixel, (B or 1, H, W)."""
        if self.seam == OVERWRITE:
            return quilting.last_on_top(grid, laid.device)[None]
        return quilting.laid(laid, grid, SEAMS[self.seam])

    def _search(self, base: Tensor, squares: Tensor, k: int) -> Tensor:
        if self.index == "exact":
            return neighbours.nearest(base, squares, k)
        return neighbours.lists_of(base).nearest(squares, k, self.probes)

    def _base(self) -> Patches:
        if not self.patches:
            return built_in(self.size)
        return load(self.patches, self.size)

    def _grid(self, shape: Shape) -> quilting.Grid:
        _, height, width = shape
        full = self.cover == COVERS[0]
        least = self.size if full else self.size + 1
        if min(height, width) < least:
            raise BadImages(
                f"quilt: images of {height} x {width} pixels are smaller than {least} x {least}, "
                f"the least that cover={self.cover} takes with patches of {self.size}."
            )
        return quilting.grid_of(height, width, self.size, self.overlap, full)


def _chosen(near: Tensor, draw: Tensor | None) -> Tensor:
    """Of the nearest (B, R, K, k) the drawn ones, (B, R, K)."""
    return near[..., 0] if draw is None else near.gather(-1, draw[..., None])[..., 0]


def _shaped(flat: Tensor, x: Tensor, grid: quilting.Grid) -> Tensor:
    """Patches (..., C * size * size) as (..., C, size, size)."""
    return flat.reshape(*flat.shape[:-1], x.shape[1], grid.size, grid.size)
