"""Preprocessing inside, and what a classifier refuses."""

import pytest
import torch
from torch import nn

from besiege.core.errors import BadImages, BadModel, UnknownName
from besiege.core.key import Key
from besiege.models.classifier import Classifier


class Probe(nn.Module):
    """Remembers what reaches the network."""

    def forward(self, x):
        self.seen = x
        return x.mean((2, 3))


def image(size=6, channels=3):
    return Key.root(0, [1, 2]).uniform(channels, size, size)


def test_the_network_sees_normalised_pixels():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    probe = Probe().eval()
    x = image()
    Classifier(probe, 3, mean=mean, std=std)(x)
    for c in range(3):
        torch.testing.assert_close(probe.seen[:, c], (x[:, c] - mean[c]) / std[c])


def test_one_number_normalises_every_channel():
    probe = Probe().eval()
    Classifier(probe, 3, mean=0.5, std=0.25)(image())
    torch.testing.assert_close(probe.seen, (image() - 0.5) / 0.25)


def test_resizing_is_inside_and_only_where_needed():
    probe = Probe().eval()
    model = Classifier(probe, 3, size=4)
    model(image(9))
    wanted = nn.functional.interpolate(
        image(9), (4, 4), mode="bilinear", align_corners=False, antialias=True
    )
    assert torch.equal(probe.seen, wanted)
    model(image(4))
    assert torch.equal(probe.seen, image(4))


def test_gradient_reaches_the_pixels():
    x = image(9).requires_grad_()
    Classifier(Probe().eval(), 3, mean=0.5, std=0.25, size=4)(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad.sum((2, 3)), torch.full((2, 3), 4.0))


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (nn.Sequential(nn.Flatten(), nn.Dropout()), 'its module "1" (Dropout)'),
        (nn.Flatten(), "its network"),
    ],
)
def test_training_mode_is_refused_on_each_forward_and_named(network, named):
    model = Classifier(network.eval(), 108)
    model(image())
    (network[1] if isinstance(network, nn.Sequential) else network).train()
    with pytest.raises(BadModel, match="training mode") as error:
        model(image())
    assert named in str(error.value)


def test_names_or_number_of_classes():
    assert Classifier(Probe(), ["cat", "dog"]).classes == ("cat", "dog")
    assert Classifier(Probe(), 3).classes == ("0", "1", "2")
    assert Classifier(Probe(), 3).num_classes == 3


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (image(channels=1), r"takes images \(B, 3, H, W\), not \(2, 1, 6, 6\)"),
        (image()[0], r"not \(3, 6, 6\)"),
        (image().double(), "images are torch.float64"),
        ((image() * 255).byte(), "images are torch.uint8"),
    ],
)
def test_images_that_do_not_fit(x, message):
    with pytest.raises(BadImages, match=message):
        Classifier(Probe().eval(), 3)(x)


def test_double_precision_by_conversion():
    model = Classifier(Probe().eval(), 3, mean=0.5).double()
    assert model(image().double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (nn.Identity(), r"returned \(2, 3, 6, 6\)"),
        (nn.Flatten(), r"\(B, K\) = \(2, 3\), one per class, but its network returned \(2, 108\)"),
        (nn.LSTM(6, 6, batch_first=True), "returned tuple"),
    ],
)
def test_logits_that_are_none(network, got):
    x = image()
    if isinstance(network, nn.LSTM):
        network = nn.Sequential(nn.Flatten(1, 2), network)
    with pytest.raises(BadModel, match=got):
        Classifier(network.eval(), 3)(x)


class Function(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x.flatten(1)[:, :3])


def test_probabilities_are_refused_on_the_first_batch():
    softmax = Function(lambda v: v.softmax(1)).eval()
    with pytest.raises(BadModel, match=r"mine returned probabilities .* all 2 rows") as error:
        Classifier(softmax, 3, name="mine")(image())
    assert 'kind="probabilities"' in str(error.value)
    assert Classifier(softmax, 3, probe=False)(image()).shape == (2, 3)


@pytest.mark.parametrize(
    "f",
    [
        lambda v: v,  # in [0, 1], but of any sum
        lambda v: v.log_softmax(1),
        lambda v: v - v.mean(1, keepdim=True) + 1 / 3 + torch.tensor([-9.0, 9.0, 0.0]),  # sum 1
        lambda v: torch.full_like(v, torch.nan),
    ],
)
def test_what_is_no_distribution_is_not_refused(f):
    assert Classifier(Function(f).eval(), 3)(image()).shape == (2, 3)


def test_rows_without_an_answer_do_not_hide_probabilities():
    def network(v):
        return torch.where(torch.tensor([[True], [False]]), torch.nan, v.softmax(1))

    with pytest.raises(BadModel, match="all 1 rows"):
        Classifier(Function(network).eval(), 3)(image())


@pytest.mark.parametrize("f", [torch.detach, lambda v: torch.from_numpy(v.detach().numpy() * 2)])
def test_a_gradient_that_the_network_cuts_off_is_refused(f):
    model = Classifier(Function(f).eval(), 3, name="mine")
    x = image().requires_grad_()
    with pytest.raises(BadModel, match=r"mine gives no gradient.*threat\.access"):
        model(x)
    with torch.no_grad():
        model(x)
    assert model(image()).shape == (2, 3)


def test_access_is_one_of_three():
    with pytest.raises(UnknownName, match='Did you mean "scores"'):
        Classifier(Probe(), 3, access="score")


def test_preprocessing_that_makes_no_sense():
    with pytest.raises(BadModel, match="std of classifier must be above 0"):
        Classifier(Probe(), 3, std=(1.0, 0.0, 1.0))
    with pytest.raises(BadModel, match="mean must be one number or 3"):
        Classifier(Probe(), 3, mean=(0.5, 0.5))
