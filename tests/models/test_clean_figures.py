"""The published counts of correct images, with the reference weights beside the checkout."""

import pytest
import torch

from besiege.data.catalog import load_images
from besiege.models.catalog import load_model

pytestmark = pytest.mark.shared

CIFAR = "packed:path={}/cifar10_test_subset.npz"
NIPS = "nips2017:path={}/imagenet_nips2017"


def correct(model, images, batch):
    hits = 0
    for ids in torch.arange(len(images)).split(batch):
        x, y, _ = images.take(ids)
        hits += int((model(x).argmax(1) == y).sum())
    return hits


@pytest.mark.parametrize(
    ("model", "file", "images", "figure"),
    [
        ("resnet20", "cifar10_resnet20", CIFAR, 1846),
        ("resnet56", "cifar10_resnet56", CIFAR, 1884),
        ("resnet20-pni", "cifar10_resnet20_adv", CIFAR, 1680),
        ("vgg0", "cifar10_vgg0_adv", CIFAR, 1442),
        ("mobilenet-v2", "imagenet_mobilenet_v2_fp16", NIPS, 120),
        ("squeezenet1.1", "imagenet_squeezenet1_1_fp16", NIPS, 79),
    ],
)
def test_clean_figures(shared, model, file, images, figure):
    loaded = load_model(f"{model}:weights={shared}/data/{file}.safetensors")
    data = load_images(images.format(shared / "data"))
    assert loaded.classes == data.classes
    assert abs(correct(loaded, data, batch=40) - figure) <= 1
    assert load_model(f"file:{shared}/data/{file}.safetensors").name == model


def test_efficientnet_lite0(shared):
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `imagenet`")
    data = load_images(NIPS.format(shared / "data"))
    assert abs(correct(load_model("efficientnet-lite0"), data, batch=40) - 120) <= 1
