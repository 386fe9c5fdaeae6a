"""A surrogate that was learned: a network that imitates a link, and the file that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from besiege.core.errors import BadModel
from besiege.defenses.network import in_micro_batches
from besiege.defenses.transform import Around, Follow, Shape, Surrogate, Transform, contents
from besiege.models.sources import read_weights, weights_hash
from besiege.ops.registration import resized

LEARNED = "learned"  # the name of the surrogate
FOLLOWS = "follows"  # what a file says of its network


class Imitator(nn.Module):
    """Residual blocks of 3 x 3 convolutions around the identity, for images of any size.

    Images (B, C, H, W) -> (B, out, H, W): x (the mean of its channels where C != out) plus a
    correction that is zero at first. An output pixel sees 2 blocks + 2 pixels each way.
    follows: what it is given has its pixels where the link has put them (`Follow`), so that only
        the rest is learned; no such network learns a reflection.
    """

    def __init__(
        self, channels: int, out: int, width: int, blocks: int, follows: bool = False
    ) -> None:
        super().__init__()
        self.channels, self.out, self.follows = channels, out, follows
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
            for _ in range(blocks)
        )
        self.last = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x and its correction; not clipped."""
        y = self.first(x)
        for block in self.blocks:
            one, two = block.children()
            y = y + two(F.silu(one(F.silu(y))))
        start = x if self.out == self.channels else x.mean(1, keepdim=True)
        return start + self.last(F.silu(y))  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Imitation(Around):
    """`link` with one more surrogate, "learned": what `imitate` trained. All else is the link's."""

    network: Imitator

    @property
    def digest(self) -> str:
        """Names what the link reads, and the weights of the network."""
        return " + ".join(filter(None, (contents(self.link), weights_hash(self.network))))

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The link's own, then "learned"."""
        stand_in = (Following if self.network.follows else Learned)(self.link, self.network)
        return {**self.link.surrogates, LEARNED: stand_in}


@dataclass(frozen=True, eq=False)
class Learned:
    """h(x), which knows nothing of the draw: a stand-in for `link`.

    Of images with other channels than it was trained on, each channel is seen as a grey image.
    """

    link: Transform
    network: Imitator

    def __call__(self, x: Tensor, draw: Any) -> Tensor:
        """What the network makes of x, resized to what the link returns."""
        shape = self.link.out_shape((x.shape[1], x.shape[2], x.shape[3]))
        return answer(self.network, resized(x, shape[1:]), shape)


@dataclass(frozen=True, eq=False)
class Following(Follow):
    """h of the image with its pixels where `link` has put them under the draw."""

    network: Imitator

    def towards(self, x: Tensor, value: Tensor) -> Tensor:
        """The same where the link has already returned `value`."""
        shape = (value.shape[1], value.shape[2], value.shape[3])
        return answer(self.network, super().towards(x, value), shape)


def answer(network: Imitator, seen: Tensor, shape: Shape) -> Tensor:
    """What the network says of images (B, C, H, W), as images of `shape` (C', H, W)."""
    channels, out = seen.shape[1], shape[0]
    if len(seen) == 0:
        return seen.new_zeros(0, *shape)
    own = network.channels, network.out
    grey = (channels, out) != own
    given = seen.float()
    if grey:
        given = given.flatten(0, 1)[:, None].expand(-1, own[0], -1, -1)
    y = in_micro_batches(network, given)
    if grey:
        y = y.mean(1).reshape(len(seen), channels, *shape[1:])
        y = y if out == channels else y.mean(1, keepdim=True).expand(-1, out, -1, -1)
    return y.to(seen.dtype)


def write_imitator(network: Imitator, folder: Path) -> Path:
    """Keep `network` in `folder` as a safetensors file that is named after its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{weights_hash(network)}{'-follows' * network.follows}.safetensors"
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    save_file(tensors, path, {FOLLOWS: str(network.follows).lower()})
    return path


def read_imitator(path: Path, device: torch.device | str = "cpu") -> Imitator:
    """The network that `write_imitator` kept; its layout follows from the shapes in the file.

    Raises BadModel for a file that is missing or holds another network.
    """
    return _read(Path(path).resolve(), torch.device(device))


@lru_cache(maxsize=16)
def _read(path: Path, device: torch.device) -> Imitator:
    _, tensors, metadata = read_weights(path)
    follows = metadata.get(FOLLOWS) == "true"
    try:
        first, last = tensors["first.weight"], tensors["last.weight"]
        blocks = len({key.split(".")[1] for key in tensors if key.startswith("blocks.")})
        with torch.device("meta"):
            network = Imitator(first.shape[1], last.shape[0], first.shape[0], blocks, follows)
        network.load_state_dict(tensors, assign=True)
    except (KeyError, IndexError, RuntimeError) as error:
        raise BadModel(
            f"{path} holds no network that imitates a link: the layers of besiege's Imitator were "
            f"expected ({error})."
        ) from error
    return network.to(device).requires_grad_(False).eval()
