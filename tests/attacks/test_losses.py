"""The difference of logits ratio is its equation, and what is mended no longer sticks."""

import pytest
import torch

from besiege.attacks.loss import LOSSES, dlr, margin
from besiege.core.errors import BadModel
from besiege.core.key import Key

Z = torch.tensor([[2.0, -1.0, 0.5, 1.5, 0.0]], dtype=torch.float64)


def value(z, y, targeted=False, **settings):
    return dlr(**settings)(z, torch.tensor([y]), targeted).item()


def slope(z, y, targeted=False, loss=None):
    leaf = z.clone().requires_grad_()
    return torch.autograd.grad((loss or dlr())(leaf, torch.tensor([y]), targeted).sum(), leaf)[0]


@pytest.mark.parametrize("published", [False, True])
def test_values_are_the_equations(published):
    # Sorted: 2, 1.5, 0.5, 0, -1.
    assert value(Z, 0, published=published) == pytest.approx(-(2 - 1.5) / (2 - 0.5))
    assert value(Z, 4, published=published) == pytest.approx(-(0 - 2) / (2 - 0.5))
    assert value(Z, 1, True, published=published) == pytest.approx(-(2 + 1) / (2 - 0.25))
    assert value(Z, 0, True, published=published) == pytest.approx((2 - 1.5) / (2 - 0.25))


def test_values_do_not_depend_on_shift_and_scale():
    for y in range(5):
        for targeted in (False, True):
            assert value(7 * Z - 3, y, targeted) == pytest.approx(value(Z, y, targeted))


def test_the_printed_gradient_has_no_part_along_the_logits_and_the_mended_one_has():
    printed, mended = (slope(Z, 0, loss=dlr(published=p)) for p in (True, False))
    assert float((printed * Z).sum()) == pytest.approx(0, abs=1e-12)
    assert float((mended * Z).sum()) == pytest.approx(value(Z, 0))
    assert torch.allclose(mended, slope(Z, 0, loss=margin()) / 1.5)


@pytest.mark.parametrize(
    ("z", "y", "targeted", "stuck"),
    [([3.0, 2.0, 1.0, 0.0], 2, False, 1), ([3.0, 2.0, 1.0, 0.0], 3, True, None)],
)
def test_a_printed_plateau_is_alive_once_mended(z, y, targeted, stuck):
    z = torch.tensor([z], dtype=torch.float64)
    if stuck is not None:
        assert value(z, y, targeted, published=True) == stuck
        assert not slope(z, y, targeted, dlr(published=True)).any()
    step = slope(z, y, targeted)
    assert step.abs().max() > 0.1
    assert margin()(z + 0.1 * step, torch.tensor([y]), targeted) > margin()(
        z, torch.tensor([y]), targeted
    )


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_ascent_reaches_the_goal_with_any_number_of_classes(classes, targeted):
    z = Key.root(1, range(20)).normal(classes).double()
    y = z.argmin(1) if targeted else z.argmax(1)
    for _ in range(200):
        leaf = z.requires_grad_()
        value = dlr()(leaf, y, targeted)
        z = (leaf + 0.1 * torch.autograd.grad(value.sum(), leaf)[0]).detach()
    assert bool(((z.argmax(1) == y) == targeted).all())
    assert bool((dlr()(z, y, targeted) > 0).all())


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@pytest.mark.parametrize(
    "z", [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 1]], ids=str
)
def test_ties_give_finite_gradients(z, scale, targeted, published):
    z = scale * torch.tensor([z], dtype=torch.float32)
    for y in range(5):
        assert bool(slope(z, y, targeted, dlr(published)).isfinite().all())
        assert bool(dlr(published)(z, torch.tensor([y]), targeted).isfinite().all())


def test_too_few_classes_for_the_published_equation_are_refused():
    with pytest.raises(BadModel, match="needs 3 classes for this goal, the classifier has 2"):
        value(Z[:, :2], 0, published=True)
    with pytest.raises(BadModel, match="needs 4 classes for this goal, the classifier has 3"):
        value(Z[:, :3], 0, True, published=True)
    assert value(Z[:, :2], 0) == -3


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("targeted", [False, True])
def test_a_loss_is_larger_the_nearer_the_goal_and_never_sees_its_batch(name, targeted):
    loss = LOSSES.build(name)
    z = Key.root(2, range(6)).normal(7).double()
    y = z.argmin(1) if targeted else z.argmax(1)
    whole = loss(z, y, targeted)
    assert torch.equal(loss(z[2:4], y[2:4], targeted), whole[2:4])
    step = torch.zeros_like(z).scatter_(1, y[:, None], 0.2 if targeted else -0.2)
    assert bool((loss(z + step, y, targeted) > whole).all())
