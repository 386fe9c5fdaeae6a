"""Total variation: least values and recorded outputs, proven gaps, scikit-image, and derivatives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.restoration import denoise_tv_bregman
from torch import Tensor

from besiege.core.errors import BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.total_variation import TotalVariation
from besiege.defenses.transform import surrogate_of
from besiege.ops import bregman
from besiege.ops.total_variation import KINDS, adjoint, differences, minimise, objective, variation
from besiege.ops.variation_slope import attached

IMAGES = ("img32_0", "img32_1", "img32_2", "img32_3", "photo96", "photo96_pix")
SHORT = {"isotropic": "iso", "anisotropic": "aniso", "rows": "rows"}


def as_batch(image: NDArray[Any]) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None]


def as_image(batch: Tensor) -> NDArray[Any]:
    return batch[0].permute(1, 2, 0).numpy()


class Golden:
    """Inputs, masks and results of P3, and least values found by another solver."""

    def __init__(self, folder: Path) -> None:
        self.pixels = dict(np.load(folder / "inputs.npz"))
        self.arrays = dict(np.load(folder / "tvm.npz"))
        self.values = json.loads((folder / "tvm.json").read_text())
        self.unmasked = json.loads((folder / "skimage_tv.json").read_text())

    def image(self, name: str) -> Tensor:
        number = name.split("_")[1]
        whole = self.pixels["photo96"] if name[:5] == "photo" else self.pixels["imgs32"]
        return as_batch((whole if name[:5] == "photo" else whole[int(number)]) / 255)

    def kept(self, name: str) -> Tensor:
        shape = as_image(self.image(name)).shape
        bits = np.unpackbits(self.arrays[f"{name}mask" if "pix" in name else f"{name}_mask"])
        return as_batch(bits[: np.prod(shape)].reshape(shape) > 0)
