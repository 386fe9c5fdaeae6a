"""Philox 4x32-10 in elementwise torch integers: the same bits for any batch, chunk and device.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011),
section 3.3. A block takes a counter of four 32-bit words and a key of two, and gives four words.
Words live in int64, since torch has no unsigned 32-bit products: a product wraps modulo 2^64,
which keeps all of its bits.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)

# Blocks worked on at a time: six int64 buffers of them fit a core's second-level cache. A GPU
# wants everything at once. Elementwise, so the choice cannot change a bit.
LANES_CPU = 16_384
LANES_GPU = 1 << 22

# Words (2, rows, n) of one chunk -> as many bytes in the same order.
Convert: TypeAlias = Callable[[Tensor], Tensor]


class _Constants(NamedTuple):
    """Tensors that every call needs on its device; never written to."""

    word: Tensor  # () a mask
    shift: Tensor  # () 32
    multipliers: Tensor  # (2, 2, 1, 1): of even and of odd rounds
    order: Tensor  # (10, 2) which word of the key goes where
    weyl: Tensor  # (10, 2, 1) what is added to it


@functools.cache
def _constants(device: torch.device) -> _Constants:
    """A round exchanges the words 0 and 2 of the counter. `encrypt` leaves them where they are,
    so every other round finds them swapped, and takes its multipliers and keys swapped too."""
    order = torch.tensor([[1, 0], [0, 1]], device=device).repeat(ROUNDS // 2, 1)
    weyl = torch.tensor(WEYL, device=device)[order]
    rounds = torch.arange(ROUNDS, device=device)[:, None]
    return _Constants(
        torch.tensor(WORD, device=device),
        torch.tensor(32, device=device),
        torch.tensor([MULTIPLIERS, MULTIPLIERS[::-1]], device=device).reshape(2, 2, 1, 1),
        order,
        (rounds * weyl)[..., None],
    )


def halves(v: Tensor) -> Tensor:
    """The low and the high word of each int64, (...) -> (2, ...)."""
    const = _constants(v.device)
    return torch.stack([v, v >> const.shift]).bitwise_and_(const.word)


def round_keys(key: Tensor) -> Tensor:
    """Keys of the rounds for `key` (B,) int64, shape (10, 2, B, 1), for `encrypt` alone."""
    const = _constants(key.device)
    words = torch.stack([key, key >> const.shift])
    return (words[const.order] + const.weyl)[..., None]


def encrypt(even: Tensor, odd: Tensor, keys: Tensor) -> Tensor:
    """Run the ten rounds on counters; overwrites its two buffers.

    even: words 0 and 2 of the counters, odd: words 1 and 3, each (2, rows, n) int64.
    keys: (10, 2, rows, 1) from `round_keys`. Returns (2, rows, n) int64: words 0 and 1 of a block
    as low and high half of row 0, words 2 and 3 in row 1.

    Only `even` must have clean upper halves, since only it is multiplied.
    """
    const = _constants(even.device)
    first, second = even
    old, new = (odd, *odd), (product := torch.empty_like(even), *product)
    for key, multipliers in zip(keys, itertools.cycle(const.multipliers)):
        torch.mul(even, multipliers, out=new[0])
        torch.bitwise_right_shift(new[0], const.shift, out=even)
        first.bitwise_xor_(old[2])
        second.bitwise_xor_(old[1])
        even.bitwise_xor_(key).bitwise_and_(const.word)
        old, new = new, old
    # After an even number of rounds both are in order again.
    return even.bitwise_or_(old[0].bitwise_left_shift_(const.shift))


def hashed(key: Tensor, value: Tensor, kind: int, domain: int) -> Tensor:
    """64 bits from `key` (B,) and the counter (value (B,) or (1,), kind, domain), (B,) int64."""
    index = halves(value)[:, :, None]
    return encrypt(*counters(index, len(key), kind, domain), round_keys(key))[0, :, 0]


def counters(index: Tensor, rows: int, kind: int, domain: int) -> tuple[Tensor, Tensor]:
    """Words 0, 2 and words 1, 3 of the counters (index low, index high, kind, domain).

    index: (2, 1 or rows, n), its two words. Returns two (2, rows, n).
    """
    even = index.new_empty(2, rows, index.shape[2])
    odd = torch.empty_like(even)
    even[0], odd[0] = index
    even[1].fill_(kind)
    odd[1].fill_(domain)
    return even, odd


def stream(
    key: Tensor, blocks: int, kind: int, domain: int, convert: Convert, words: torch.dtype
) -> Tensor:
    """`blocks` blocks for each row of `key` (B,), converted, shape (B, 2 * blocks) int64.

    Block i has the counter (i low, i high, kind, domain); its words 0, 1 are the halves of
    column 2i, its words 2, 3 those of column 2i + 1. `convert` turns each chunk into what is
    stored (here still seen as int64) while the chunk is in the cache; it is given int32 words, four
    a block, or int64 words, two a block.
    """
    out = torch.empty(len(key), blocks, 2, dtype=torch.int64, device=key.device)
    if not out.numel():
        return out.reshape(len(key), 2 * blocks)
    lanes = LANES_CPU if key.device.type == "cpu" else LANES_GPU
    wide = -(-blocks // -(-blocks // lanes))  # equal chunks instead of a short last one
    tall = max(1, lanes // wide)
    keys = round_keys(key)
    for left in range(0, blocks, wide):
        index = halves(torch.arange(left, min(left + wide, blocks), device=key.device))[:, None]
        for top in range(0, len(key), tall):
            part = keys[:, :, top : top + tall]
            pairs = encrypt(*counters(index, part.shape[2], kind, domain), part)
            view = out[top : top + tall, left : left + wide]
            view[..., 0], view[..., 1] = convert(pairs.view(words)).view(torch.int64)
    return out.reshape(len(key), 2 * blocks)
