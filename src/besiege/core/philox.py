"""Philox 4x32-10 in elementwise torch integers: the same bits for any batch, chunk and device.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011),
section 3.3. A block takes a counter of four 32-bit words and a key of two, and gives four words.
Words live in int64, since torch has no unsigned 32-bit products: a product wraps modulo 2^64,
which keeps all of its bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

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


def halves(v: Tensor) -> Tensor:
    """The low and the high word of each int64, (n,) -> (2, n)."""
    return torch.stack([v & WORD, (v >> 32) & WORD])


def round_keys(key: Tensor) -> Tensor:
    """Keys of the rounds for `key` (B,) int64, shape (10, 2, B), in the order `encrypt` stores."""
    steps = torch.arange(ROUNDS, device=key.device).reshape(-1, 1, 1)
    weyl = torch.tensor(WEYL, device=key.device).reshape(1, 2, 1)
    keys = (steps * weyl + halves(key)) & WORD
    keys[::2] = keys[::2].flip(1)
    return keys


def encrypt(even: Tensor, odd: Tensor, keys: Tensor) -> Tensor:
    """Run the ten rounds on counters; overwrites its two buffers.

    even: words 0 and 2 of the counters, odd: words 1 and 3, each (2, rows, n) int64.
    keys: (10, 2, rows, 1) from `round_keys`. Returns (2, rows, n) int64: words 0 and 1 of a block
    as low and high half of row 0, words 2 and 3 in row 1.

    A round exchanges the words 0 and 2. They are left where they are instead, so every other
    round finds them swapped and takes its multipliers and keys swapped too.
    """
    straight = torch.tensor(MULTIPLIERS, device=even.device).reshape(2, 1, 1)
    swapped = straight.flip(0)
    product = torch.empty_like(even)
    first, second = even
    odd_first, odd_second = odd
    next_first, next_second = product
    for r in range(ROUNDS):
        torch.mul(even, swapped if r % 2 else straight, out=product)
        torch.bitwise_right_shift(product, 32, out=even)
        first.bitwise_xor_(odd_second)
        second.bitwise_xor_(odd_first)
        even.bitwise_xor_(keys[r])
        even.bitwise_and_(WORD)  # low words stay unmasked in `odd`: here they must be clean
        odd, odd_first, odd_second, product, next_first, next_second = (
            product, next_first, next_second, odd, odd_first, odd_second,
        )  # fmt: skip
    odd <<= 32  # after an even number of rounds both are in order again
    even |= odd
    return even


def hashed(key: Tensor, value: Tensor | int, kind: int, domain: int) -> Tensor:
    """64 bits from `key` (B,) and the counter (value, kind, domain), shape (B,) int64."""
    count = torch.as_tensor(value, dtype=torch.int64, device=key.device).reshape(-1)
    low, high = halves(count.expand(len(key)))
    even = torch.stack([low, torch.full_like(low, kind)])[..., None]
    odd = torch.stack([high, torch.full_like(low, domain)])[..., None]
    return encrypt(even, odd, round_keys(key)[..., None])[0, :, 0]


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
    keys = round_keys(key)[..., None]
    for left in range(0, blocks, wide):
        index = halves(torch.arange(left, min(left + wide, blocks), device=key.device))
        for top in range(0, len(key), tall):
            part = keys[:, :, top : top + tall]
            even = torch.empty(
                2, part.shape[2], index.shape[1], dtype=torch.int64, device=key.device
            )
            odd = torch.empty_like(even)
            even[0], even[1], odd[0], odd[1] = index[0], kind, index[1], domain
            pairs = convert(encrypt(even, odd, part).view(words)).view(torch.int64)
            view = out[top : top + tall, left : left + wide]
            view[..., 0], view[..., 1] = pairs[0], pairs[1]
    return out.reshape(len(key), 2 * blocks)
