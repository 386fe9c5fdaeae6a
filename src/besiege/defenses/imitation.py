"""A surrogate that was learned: a network that imitates a link, and the file that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from besiege.core.errors import BadModel
from besiege.defenses.network import in_micro_batches
from besiege.defenses.transform import Shape, Surrogate, Transform, contents
from besiege.models.sources import read_weights, weights_hash
from besiege.ops.registration import resized

if TYPE_CHECKING:
    from besiege.core.batch import Draw
    from besiege.core.key import Key
    from besiege.models.classifier import Classifier

LEARNED = "learned"  # the name of the surrogate


class Imitator(nn.Module):
    """Residual blocks of 3 x 3 convolutions around the identity, for images of any size.

    Images (B, C, H, W) -> (B, out, H, W): x (the mean of its channels where C != out) plus a
    correction that is zero at first. An output pixel sees 2 blocks + 2 pixels each way.
    """

    def __init__(self, channels: int, out: int, width: int, blocks: int) -> None:
        super().__init__()
        self.channels, self.out = channels, out
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
class Imitation(Transform):
    """`link` with one more surrogate, "learned": what `imitate` trained. All else is the link's."""

    link: Transform
    network: Imitator

    @property
    def name(self) -> str:
        """The link's own."""
        return self.link.name

    @property
    def digest(self) -> str:
        """Names what the link reads, and the weights of the network."""
        return " + ".join(filter(None, (contents(self.link), weights_hash(self.network))))

    def draw(self, key: Key, shape: Shape) -> Draw:
        """The link's own."""
        return self.link.draw(key, shape)

    def forward(self, x: Tensor, draw: Any) -> Tensor:
        """The link's own."""
        return self.link.forward(x, draw)

    def out_shape(self, shape: Shape) -> Shape:
        """The link's own."""
        return self.link.out_shape(shape)

    @property
    def surrogates(self) -> Mapping[str, Surrogate]:
        """The link's own, then "learned"."""
        return {**self.link.surrogates, LEARNED: self._learned}

    def beside(self, classifier: Classifier) -> Transform:
        """Around the link beside it."""
        return replace(self, link=self.link.beside(classifier))

    def _learned(self, x: Tensor, draw: Any) -> Tensor:
        """h(x), which knows nothing of the draw.

        Of images with other channels than it was trained on, each channel is seen as a grey image.
        """
        _, channels, height, width = x.shape
        out, *size = self.out_shape((channels, height, width))
        if len(x) == 0:
            return x.new_zeros(0, out, *size)
        own = self.network.channels, self.network.out
        grey = (channels, out) != own
        seen = resized(x, (size[0], size[1])).float()
        if grey:
            seen = seen.flatten(0, 1)[:, None].expand(-1, own[0], -1, -1)
        y = in_micro_batches(self.network, seen)
        if grey:
            y = y.mean(1).reshape(len(x), channels, *size)
            y = y if out == channels else y.mean(1, keepdim=True).expand(-1, out, -1, -1)
        return y.to(x.dtype)


def write_imitator(network: Imitator, folder: Path) -> Path:
    """Keep `network` in `folder` as a safetensors file that is named after its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{weights_hash(network)}.safetensors"
    save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, path)
    return path


def read_imitator(path: Path, device: torch.device | str = "cpu") -> Imitator:
    """The network that `write_imitator` kept; its layout follows from the shapes in the file.

    Raises BadModel for a file that is missing or holds another network.
    """
    return _read(Path(path).resolve(), torch.device(device))


@lru_cache(maxsize=16)
def _read(path: Path, device: torch.device) -> Imitator:
    tensors = read_weights(path).tensors
    try:
        first, last = tensors["first.weight"], tensors["last.weight"]
        blocks = len({key.split(".")[1] for key in tensors if key.startswith("blocks.")})
        with torch.device("meta"):
            network = Imitator(first.shape[1], last.shape[0], first.shape[0], blocks)
        network.load_state_dict(tensors, assign=True)
    except (KeyError, IndexError, RuntimeError) as error:
        raise BadModel(
            f"{path} holds no network that imitates a link: the layers of besiege's Imitator were "
            f"expected ({error})."
        ) from error
    return network.to(device).requires_grad_(False).eval()
