"""Nearest patches under squared distance, exactly, or by the inverted lists of faiss.

Exact means that nothing rounds. Patches have 8 bits, and queries are rounded to a fraction of a
grey level so fine as float32 holds every product and sum without loss. So the result depends on
neither batch, order, threads nor device, and equal distances can be told: the lowest index wins.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from besiege.core.errors import BadSetting

BLOCK = 256  # queries worked on at once (measured)
PIECE = 8192  # patches made float at once (measured)
WORST = 2.0**24  # no score is above
MIDDLE = 128  # subtracted, so that sums stay small


def fineness(length: int) -> int:
    """Steps a grey level to which queries of `length` values are rounded: a power of two, >= 2.

    With d in [-128, 127] and q in steps, |d|^2 / 2 - q d in units of a step is a whole number below
    1.5 * 2^14 * length * steps, for which float32 has room up to 2^24.

    >>> fineness(75), fineness(25), fineness(243)
    (8, 16, 2)
    """
    room = int(2**24 / (1.5 * 2**14)) // length
    if room < 2:
        raise BadSetting(f"patches have at most 341 values, got {length}: take smaller ones.")
    return 1 << (room.bit_length() - 1)


def nearest(patches: Tensor, queries: Tensor, k: int) -> Tensor:
    """Indices of the `k` patches nearest to each query, nearest first, (M, k) int64.

    patches uint8 (N, n), on any device; queries float (M, n) on the scale [0, 1], compared after
    rounding to 1 / (255 * fineness(n)), which leaves 8-bit images as they are. Equal distances in
    the order of indices. Equal queries are looked up once.
    Raises BadSetting for k outside 1..N. Cost: 2 N n operations and N / 16
    bytes a query; memory that of 256 queries, whatever M.

    >>> patches = torch.tensor([[0, 9], [5, 5], [5, 5]], dtype=torch.uint8)
    >>> nearest(patches, torch.tensor([[5 / 255, 6 / 255]]), 2)
    tensor([[1, 2]])
    """
    if not 1 <= k <= len(patches):
        raise BadSetting(f"k is 1 to {len(patches)}, the number of patches, not {k}.")
    if len(queries) == 0:
        return torch.empty(0, k, dtype=torch.int64, device=queries.device)
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        steps = fineness(queries.shape[1])
        whole = (queries.clamp(0, 1) * (255 * steps)).round() - MIDDLE * steps
        distinct, back = torch.unique(whole.float(), dim=0, return_inverse=True)
        found = [_nearest(patches, block, k, steps) for block in torch.split(distinct, BLOCK)]
        return torch.cat(found)[back]


def _nearest(patches: Tensor, q: Tensor, k: int, steps: int) -> Tensor:
    """The groups that can hold the k best, by the best of each; then the best of those."""
    count = len(patches)
    group = 1 << max(3, (count.bit_length() - 7) // 2)  # 64 for a million (measured)
    # Made at once: small results kept between large buffers would scatter the heap.
    low = q.new_empty(len(q), -(-count // group))
    weights = F.pad(-q, (0, 1), value=1)
    for start in range(0, count, PIECE):
        piece = patches[start : start + PIECE].to(q.device)
        d = q.new_empty(len(piece), q.shape[1] + 1)
        d[:, :-1] = piece
        d[:, :-1] -= MIDDLE
        d[:, -1] = _half(d[:, :-1], steps)
        scores = weights @ d.T  # |d|^2 / 2 - q d
        if missing := -len(piece) % group:
            scores = F.pad(scores, (0, missing), value=WORST)
        at, best = start // group, scores.reshape(len(q), -1, group).amin(2)
        low[:, at : at + best.shape[1]] = best
    number = torch.arange(low.shape[1], device=q.device)
    groups = _smallest(low, number, min(k, low.shape[1]))
    members = (groups[..., None] * group + torch.arange(group, device=q.device)).flatten(1)
    if count <= PIECE:
        return _smallest(scores.gather(1, members), members, k)
    out = [
        ranked(patches, m, p, k, steps)
        for m, p in zip(torch.split(members, 32), torch.split(q, 32), strict=True)
    ]
    return torch.cat(out)


def ranked(patches: Tensor, members: Tensor, q: Tensor, k: int, steps: int) -> Tensor:
    """The k best of the patches `members` (M, m) of each row; outside 0..N - 1 there is none."""
    there = (members >= 0) & (members < len(patches))
    rows = patches[members.clamp(0, len(patches) - 1).to(patches.device)].to(q.device)
    d = rows.float() - MIDDLE
    scores = _half(d, steps) - (d @ q[..., None])[..., 0]
    return _smallest(torch.where(there, scores, WORST), members, k)


def _half(d: Tensor, steps: int) -> Tensor:
    return (d * d).sum(-1) * (steps / 2)


def _smallest(scores: Tensor, numbers: Tensor, k: int) -> Tensor:
    """Numbers (< 2^32) of the k smallest whole scores of each row, then of the lowest numbers."""
    keys = (scores.long() << 32) + numbers
    return keys.topk(k, dim=1, largest=False).values & 0xFFFFFFFF


class Lists:
    """Inverted lists: patches by the nearest of about sqrt(N) centres; some lists are searched.

    Centres are rounded to 8 bits and found exactly, so that the search of a query does not depend
    on its batch; the centres themselves come from k-means, whose last bits may differ by machine.
    """

    def __init__(self, patches: Tensor) -> None:
        """patches uint8 (N, n). Raises BadSetting where faiss is not installed.

        Cost: at 1,000,000 x 75 about 20 s and 90 MB.
        """
        self.patches = patches.cpu()
        count, length = patches.shape
        faiss = _faiss()
        lists = max(1, round(count**0.5))
        kmeans = faiss.Kmeans(length, lists, niter=10, seed=1, max_points_per_centroid=64)
        kmeans.min_points_per_centroid = 1
        kmeans.cp.min_points_per_centroid = 1
        kmeans.train(self._floats(slice(0, 64 * lists)))
        self.centres = torch.from_numpy(kmeans.centroids).round().clamp(0, 255).to(torch.uint8)
        self.quantizer = faiss.IndexFlatL2(length)
        self.quantizer.add(self.centres.float().numpy())
        kind = faiss.ScalarQuantizer.QT_8bit_direct
        self.index: Any = faiss.IndexIVFScalarQuantizer(
            self.quantizer, length, lists, kind, faiss.METRIC_L2, False
        )
        self.index.train(self._floats(slice(0, lists)))
        for start in range(0, count, 1 << 16):
            self.index.add(self._floats(slice(start, start + (1 << 16))))

    def _floats(self, part: slice) -> np.ndarray:
        return self.patches[part].float().numpy()

    def nearest(self, queries: Tensor, k: int, probes: int) -> Tensor:
        """As `nearest`, but among the patches of the `probes` lists with the nearest centres.

        Of patches as far away as the k-th, which one is given is left to faiss; all others are in
        the order of `nearest`. Queries whose lists hold fewer than k patches are searched exactly.
        """
        probes = min(probes, len(self.centres))
        steps = fineness(queries.shape[1])
        where = queries.detach().cpu()
        near = nearest(self.centres, where, probes)
        whole = (where.clamp(0, 1) * (255 * steps)).round().float()
        grey = (whole / steps).numpy()
        self.index.nprobe = probes
        _, found = self.index.search_preassigned(
            grey, k, near.numpy(), np.zeros(near.shape, np.float32)
        )
        members = torch.from_numpy(found)
        out = ranked(self.patches, members, whole - MIDDLE * steps, k, steps)
        if len(short := (members < 0).any(1).nonzero()[:, 0]):
            out[short] = nearest(self.patches, where[short], k)
        return out.to(queries.device)


def _faiss() -> Any:
    try:
        return import_module("faiss")
    except (ImportError, OSError) as error:
        raise BadSetting(
            f'index="faiss" needs the package faiss-cpu, which cannot be imported ({error}): '
            'pip install "besiege[quilting]", or take index="exact".'
        ) from error


@lru_cache(maxsize=4)
def lists_of(patches: Tensor) -> Lists:
    """The inverted lists of `patches`, built once a process."""
    return Lists(patches)
