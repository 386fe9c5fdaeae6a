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
