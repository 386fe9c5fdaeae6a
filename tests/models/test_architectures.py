"""The details by which reimplemented networks go wrong: padding, sizes, numbers of parameters."""

import pytest
import torch

from besiege.models.catalog import LAYOUTS
from besiege.models.cifar_resnet import RESNET20, RESNET20_PNI, Shortcut
from besiege.models.mobilenet_v2 import Convolution


@pytest.mark.parametrize(
    ("layout", "zeros"),
    [(RESNET20, [*range(8), *range(24, 32)]), (RESNET20_PNI, range(16, 32))],
    ids=lambda v: getattr(v, "name", ""),
)
def test_shortcuts_pad_where_the_release_does(layout, zeros):
    with torch.device("meta"):
        shortcut = layout.network(10).layer2[0].shortcut
    assert isinstance(shortcut, Shortcut)
    x = torch.arange(1.0, 17.0)[:, None, None] * torch.tensor([[1.0, 9, 1, 9], [9, 9, 9, 9]])
    y = shortcut(x[None])[0]
    full = [c for c in range(32) if c not in zeros]
    assert y.shape == (32, 1, 2)
    assert torch.equal(y[full, 0, 1], torch.arange(1.0, 17.0))
    assert y[list(zeros)].abs().sum() == 0


def test_same_padding_at_stride_two_starts_at_the_first_pixel():
    with torch.device("meta"):
        convolution = Convolution(1, 1, 3, stride=2)
    ones = {"weight": torch.ones(1, 1, 3, 3), "bias": torch.zeros(1)}
    convolution.load_state_dict(ones, assign=True)
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    assert convolution(ramp)[0, 0].tolist() == [[9.0, 15.0], [6.0, 10.0]]


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet20", 0.27),
        ("resnet56", 0.85),
        ("resnet20-pni", 0.27),
        ("mobilenet-v2", 3.488),  # 3.505 of the paper, less a scale for each folded channel
        ("squeezenet1.1", 1.24),
    ],
)
def test_numbers_of_parameters(name, millions):
    (layout,) = (a for a in LAYOUTS if a.name == name)
    with torch.device("meta"):
        network = layout.network(len(layout.classes))
    count = sum(p.numel() for p in network.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.006)


def skeleton(name, classes=None):
    (layout,) = (a for a in LAYOUTS if a.name == name)
    with torch.device("meta"):
        return layout, layout.network(classes or len(layout.classes))


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("resnet18", 10, 11_173_962),
        ("resnet18", 100, 11_220_132),
        ("resnet18-64", 200, 11_271_432),
        ("vgg16-bn", 10, 14_728_266),
        ("vgg0", 10, 939_402),
        ("resnet20", 10, 269_722),
        ("resnet56", 10, 853_018),
    ],
)
def test_exact_numbers_of_parameters(name, classes, count):
    _, network = skeleton(name, classes)
    assert sum(p.numel() for p in network.parameters()) == count


def names(name):
    layout, network = skeleton(name)
    return {layout.rename(k) for k in network.state_dict()}


def test_keys_are_those_of_public_checkpoints():
    block = {"conv1.weight", "bn2.running_var", "conv2.weight", "bn2.num_batches_tracked"}
    blocks = {f"layer{i}.{j}.{k}" for i in (1, 2, 3, 4) for j in (0, 1) for k in block}
    narrow, wide = names("resnet18"), names("resnet18-64")
    assert len(narrow) == len(wide) == 122  # as torchvision.models.resnet18 has
    assert narrow >= blocks | {"conv1.weight", "layer4.0.shortcut.0.weight", "linear.bias"}
    assert wide >= blocks | {"conv1.weight", "layer4.0.downsample.1.weight", "fc.bias"}
    assert not any(".0.shortcut" in k for k in narrow if k.startswith("layer1"))
    vgg = names("vgg16-bn")
    convolutions = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
    assert {k for k in vgg if k.endswith(".bias")} == {"classifier.bias"} | {
        f"features.{i + bn}.bias" for i in convolutions for bn in (0, 1)
    }


@pytest.mark.parametrize(
    ("name", "size", "before_pooling"),
    [
        ("resnet18", 32, (512, 4, 4)),
        ("resnet18-64", 64, (512, 8, 8)),
        ("vgg16-bn", 32, (512, 1, 1)),
    ],
)
def test_shapes_on_the_way(name, size, before_pooling):
    """The stem keeps the size: neither its stride nor a pool halves it."""
    _, network = skeleton(name)
    seen = []
    inner = network.layer4 if hasattr(network, "layer4") else network.features
    inner.register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape)))
    with torch.device("meta"):
        logits = network.eval()(torch.empty(2, 3, size, size))
    assert seen == [(2, *before_pooling)]
    assert logits.shape == (2, 200 if size == 64 else 10)


def test_a_projection_adds_to_its_block():
    """With convolutions of zero a block is its shortcut alone."""
    (layout,) = (a for a in LAYOUTS if a.name == "resnet18")
    with torch.device("meta"):
        block = layout.network(10).layer2[0]
    tensors = {k: torch.zeros(t.shape) for k, t in block.state_dict().items()}
    tensors |= {k: torch.ones_like(t) for k, t in tensors.items() if "var" in k}
    tensors["shortcut.0.weight"][:, 0] = 1.0  # each new channel is the first old one
    tensors["shortcut.1.weight"] += (1 + 1e-5) ** 0.5
    block.load_state_dict(tensors, assign=True)
    x = torch.arange(64 * 16.0).reshape(1, 64, 4, 4)
    wanted = x[:, :1, ::2, ::2].expand(1, 128, 2, 2)
    torch.testing.assert_close(block.eval()(x), wanted)
