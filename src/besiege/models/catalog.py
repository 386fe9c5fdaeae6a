"""Every model that can be named."""

from __future__ import annotations

import torch

from besiege.core.entry import Catalog, Entry
from besiege.core.foreign import foreign_in
from besiege.models.cifar_resnet import (
    RESNET18,
    RESNET18_64,
    RESNET18_64_POOL,
    RESNET20,
    RESNET20_PNI,
    RESNET56,
    resnet18,
    resnet18_64,
    resnet18_64_pool,
    resnet20,
    resnet20_pni,
    resnet56,
)
from besiege.models.classifier import Classifier
from besiege.models.digits_cnn import LAYOUT as DIGITS_CNN
from besiege.models.digits_cnn import digits_cnn
from besiege.models.efficientnet_lite import efficientnet_lite0
from besiege.models.hubs import timm_network, torchvision_network
from besiege.models.mobilenet_v2 import LAYOUT as MOBILENET_V2
from besiege.models.mobilenet_v2 import mobilenet_v2
from besiege.models.onnx_file import onnx_file
from besiege.models.own import own_model
from besiege.models.sources import assemble, read_weights, recognise
from besiege.models.squeezenet import LAYOUT as SQUEEZENET
from besiege.models.squeezenet import squeezenet
from besiege.models.vgg import VGG0, VGG16_BN, vgg0, vgg16_bn

LAYOUTS = (
    RESNET20,
    RESNET56,
    RESNET20_PNI,
    RESNET18,
    RESNET18_64,
    RESNET18_64_POOL,
    VGG0,
    VGG16_BN,
    MOBILENET_V2,
    SQUEEZENET,
    DIGITS_CNN,
)


def from_file(weights: str) -> Classifier:
    """Any network known here from a safetensors file, recognised by its keys and shapes.

    Weights that fit two networks (resnet18-64 and resnet18-64-pool) are refused: name one of them.
    weights: the file. Its metadata may say "classes", "mean" and "std" (each as JSON); else those
    that the published weights of the architecture were made for are taken.
    """
    found = read_weights(weights)
    return assemble(recognise(found, LAYOUTS), found)


MODELS: Catalog[Classifier] = Catalog(
    "model",
    [
        Entry("digits-cnn", digits_cnn, "trained on the spot on scikit-learn's digits"),
        Entry("resnet20", resnet20, "He et al. 2015, arXiv:1512.03385, section 4.2", cases=()),
        Entry("resnet56", resnet56, "He et al. 2015, arXiv:1512.03385, section 4.2", cases=()),
        Entry("resnet20-pni", resnet20_pni, "He et al. 2019, arXiv:1811.09310", cases=()),
        Entry("resnet18", resnet18, "He et al. 2015, arXiv:1512.03385, table 1", cases=()),
        Entry("resnet18-64", resnet18_64, "He et al. 2015, arXiv:1512.03385, table 1", cases=()),
        Entry(
            "resnet18-64-pool",
            resnet18_64_pool,
            "He et al. 2015, arXiv:1512.03385, table 1",
            cases=(),
        ),
        Entry("vgg0", vgg0, "Xiao and Zheng 2020, released code: the external model f_b", cases=()),
        Entry("vgg16-bn", vgg16_bn, "Simonyan and Zisserman 2015, arXiv:1409.1556", cases=()),
        Entry("mobilenet-v2", mobilenet_v2, "Sandler et al. 2018, arXiv:1801.04381", cases=()),
        Entry("squeezenet1.1", squeezenet, "Iandola et al. 2016, arXiv:1602.07360", cases=()),
        Entry(
            "efficientnet-lite0",
            efficientnet_lite0,
            "Tan and Le 2019, arXiv:1905.11946; Lite variant of the authors, 2020",
        ),
        Entry("file", from_file, "keys and shapes of a safetensors file", cases=()),
        Entry("onnx", onnx_file, "an ONNX file of the user, run by onnxruntime", cases=()),
        Entry("torchvision", torchvision_network, "the user's torchvision", cases=()),
        Entry("timm", timm_network, "the user's timm", cases=()),
    ],
)

# What the text after the colon gives, where no key=value is needed.
BARE = {"file": "weights", "onnx": "weights", "torchvision": "network", "timm": "network"}


def load_model(
    spec: str,
    catalog: Catalog[Classifier] = MODELS,
    device: torch.device | str = "cpu",
    shape: tuple[int, int, int] | None = None,
) -> Classifier:
    """The classifier that `spec` names, in evaluation mode, on `device`.

    spec: "digits-cnn", "resnet20:weights=PATH", "file:PATH" or "onnx:PATH", where PATH may hold any
        character, "torchvision:NAME" or "timm:NAME"; or a model of your own, "path.py:NAME".
    shape: (C, H, W) of the images, which the logits of a model of your own are counted on.
    Raises UnknownName, BadSetting or BadModel.
    """
    if (own := foreign_in(spec)) is not None:
        return own_model(own, shape).to(device)
    kind, _, rest = (part.strip() for part in spec.partition(":"))
    setting = BARE.get(kind, "")
    if rest and setting and not rest.startswith(f"{setting}="):
        return catalog[kind].factory(**{setting: rest}).to(device)
    return catalog.build(spec).to(device)
