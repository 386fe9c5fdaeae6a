"""Class-activation maps: the definition, computed independently, and networks without one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from besiege.core.errors import BadModel
from besiege.core.key import Key
from besiege.models.activation import activation_map
from besiege.models.callable import from_callable
from besiege.models.classifier import Classifier


class Pooled(nn.Module):
    """Convolutions, in-place ReLU, global mean, linear."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, stride=2)
        )
        self.last = nn.ReLU(inplace=True)
        self.linear = nn.Linear(6, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(self.last(self.features(x)).mean((2, 3)))
        return out


def classifier(network: nn.Module, classes: int = 7) -> Classifier:
    key = Key.root(0, [0])
    for name, weight in network.named_parameters():
        weight.data = key.fold(name).normal(*weight.shape)[0]
    return Classifier(network.eval(), classes, mean=0.4, std=0.2)


def images() -> torch.Tensor:
    return Key.root(1, range(5)).uniform(3, 15, 17)


@pytest.mark.parametrize("frozen", [True, False])
def test_it_is_the_class_activation_map(frozen: bool) -> None:
    network = Pooled()
    guard, x = classifier(network), images()
    network.requires_grad_(not frozen)
    with torch.no_grad():
        got = activation_map(guard, x, classes=5)
        feature = F.relu(network.features((x - 0.4) / 0.2))
        logits = network.linear(feature.mean((2, 3)))
        for i in range(len(x)):
            cam = np.zeros(feature.shape[-2:])
            for rank, k in enumerate(logits[i].argsort(descending=True)[:5].tolist(), 1):
                weight = network.linear.weight[k].double().numpy()
                cam += np.tensordot(weight, feature[i].double().numpy(), 1) / 2**rank
            cam = (cam - cam.min()) / (cam.max() - cam.min())
            want = F.interpolate(torch.from_numpy(cam)[None, None], (15, 17), mode="bilinear")
            np.testing.assert_allclose(got[i], want[0, 0], atol=1e-4)


def test_it_leaves_nothing_behind() -> None:
    network = Pooled()
    guard, x = classifier(network), images().requires_grad_()
    before = guard(x.detach())
    found = activation_map(guard, x)
    assert not found.requires_grad
    assert torch.equal(guard(x.detach()), before)
    assert all(not module._forward_hooks for module in network.modules())
    assert all(p.grad is None for p in network.parameters())


def test_few_classes_and_layers_after_the_map() -> None:
    """Where the head is more than one linear layer, gradients stand for its weights."""
    head = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.Flatten(), nn.Linear(4 * 3 * 4, 2))
    found = activation_map(classifier(head, 2), images())
    assert found.shape == (5, 15, 17)
    assert found.amin() >= 0
    assert found.amax() <= 1
    assert (found.amax((1, 2)) - found.amin((1, 2)) > 0.5).all()


def test_a_flat_map_is_zero() -> None:
    network = Pooled()
    guard = classifier(network)
    for weight in network.parameters():
        weight.data.zero_()
    assert activation_map(guard, images()).abs().max() == 0


def test_a_function_has_no_map() -> None:
    guard = from_callable(lambda x: x.mean((2, 3)), 3)
    with pytest.raises(BadModel, match=r"no class-activation map.*deflection:map=false"):
        activation_map(guard, images())
