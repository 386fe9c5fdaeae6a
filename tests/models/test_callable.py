"""Any function as a classifier: what it is given, what may come back, what an attacker learns."""

import numpy as np
import pytest
import torch
from torch import nn

import besiege
from besiege.core.errors import BadModel, BadSetting, UnknownName
from besiege.core.key import Key
from besiege.defenses.defense import ABSTAIN, Defense
from besiege.defenses.transform import Chain
from besiege.models.callable import from_callable
from besiege.models.sources import weights_hash
from besiege.study.judge import Judging

W = Key.root(5, [0]).normal(4, 3)[0]
X = Key.root(0, range(5)).uniform(3, 6, 4)
WANTED = X.mean((2, 3)) @ W.T  # the logits of every function below


def linear(x):
    return x.mean((2, 3)) @ W.T


def on_arrays(x):
    assert x.shape[1:] == (6, 4, 3)
    return x.mean((1, 2)) @ W.numpy().T


KINDS = {
    "logits": lambda logits: logits,
    "scores": lambda logits: logits.softmax(1),
    "probabilities": lambda logits: logits.softmax(1),
    "labels": lambda logits: logits.argmax(1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("single", [False, True])
def test_every_kind_gives_the_same_labels(kind, single):
    def f(x):
        found = KINDS[kind](linear(x[None] if single else x))
        return found[0] if single else found

    model = from_callable(f, 4, kind, single=single)
    found = model(X)
    assert found.shape == (5, 4)
    assert found.dtype == torch.float32
    assert torch.equal(found.argmax(1), WANTED.argmax(1))


def test_logits_pass_unchanged_and_probabilities_as_their_logarithm():
    assert torch.equal(from_callable(linear, 4)(X), WANTED)
    found = from_callable(lambda x: linear(x).softmax(1), 4, "probabilities")(X)
    torch.testing.assert_close(found, WANTED.log_softmax(1))


def test_labels_become_rows_with_a_single_one():
    model = from_callable(lambda x: [2, 0, 3, 3, 1], 4, "labels")
    wanted = torch.eye(4)[torch.tensor([2, 0, 3, 3, 1])]
    assert torch.equal(model(X), wanted)


@pytest.mark.parametrize("single", [False, True])
def test_layouts(single):
    cut = (lambda v: v[0]) if single else (lambda v: v)
    seen = []

    def f(x):
        seen.append(x)
        whole = x[None] if single else x
        scaled = whole / 255 if whole.dtype == np.uint8 else whole
        return cut(on_arrays(scaled))

    for layout, kind in (("array", np.float32), ("uint8", np.uint8)):
        seen.clear()
        found = from_callable(f, 4, layout=layout, single=single)(X)
        assert all(x.dtype == kind for x in seen)
        assert seen[0].shape == ((6, 4, 3) if single else (5, 6, 4, 3))
        assert len(seen) == (5 if single else 1)
        torch.testing.assert_close(found, WANTED, atol=1e-5 if layout == "array" else 1e-2, rtol=0)


def test_bytes_are_rounded_not_cut():
    seen = []
    f = from_callable(lambda x: seen.append(x) or np.zeros(1), 2, "labels", layout="uint8")
    f(torch.full((1, 3, 2, 2), 0.999))
    assert (seen[0] == 255).all()


def test_what_f_writes_into_its_array_stays_there():
    def f(x):
        x[:] = 0
        return np.zeros((len(x), 2))

    x = X.clone()
    from_callable(f, 2, layout="array")(x)
    assert torch.equal(x, X)


def test_a_function_of_torch_has_a_gradient():
    def gradient(f, kind):
        x = X.clone().requires_grad_()
        from_callable(f, 4, kind)(x)[:, 0].sum().backward()
        return x.grad

    wanted = (W[0] / 24)[None, :, None, None].expand_as(X)
    torch.testing.assert_close(gradient(linear, "logits"), wanted)
    found = gradient(lambda x: linear(x).softmax(1), "probabilities")
    assert (found.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("settings", "access"),
    [
        ({"layout": "array"}, "scores"),
        ({"layout": "uint8"}, "scores"),
        ({"kind": "labels"}, "labels"),
    ],
)
def test_a_gradient_is_refused_where_there_is_none(settings, access):
    def f(x):
        return np.zeros(len(x), int) if access == "labels" else on_arrays(x)

    model = from_callable(f, 4, name="mine", **settings)
    assert model.access == access
    with pytest.raises(BadModel, match="mine gives no gradient"):
        model(X.clone().requires_grad_())
    result = model(X), torch.zeros(5, dtype=torch.long)
    assert result[0].shape == (5, 4)
    defense = Defense(Chain(), model)
    with pytest.raises(BadSetting, match=f"mine can tell {access} only"):
        besiege.evaluate(defense, X, result[1], besiege.Linf(0.1), recipes=["bpda"], steps=1)
    summary = besiege.evaluate(defense, X, result[1], besiege.Linf(0.1), recipes=["none"])
    right = (result[0].argmax(1) == 0).float().mean().item()
    assert summary.lines[0].accuracy.estimate == pytest.approx(right)


def test_probabilities_are_detected_where_logits_are_said():
    with pytest.raises(BadModel, match="mine returned probabilities where logits"):
        from_callable(lambda x: linear(x).softmax(1), 4, name="mine")(X)


def test_logits_are_detected_where_probabilities_are_said():
    with pytest.raises(BadModel, match=r"mine returned values from .* are in \[0, 1\]"):
        from_callable(lambda x: 9 * linear(x), 4, "probabilities", name="mine")(X)


def test_a_probability_of_zero_is_an_answer():
    model = from_callable(lambda x: torch.eye(4)[: len(x)], 4, "probabilities")
    found = model(X[:4])
    assert found.isfinite().all()
    assert found.argmax(1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_is_passed_on_and_judged_as_abstention(kind):
    """NaN for some images: these rows alone are NaN, the defense abstains, the judge counts it."""

    def f(x):
        found = KINDS[kind](linear(x)).float()
        found[1] = torch.nan
        return found

    model = from_callable(f, 4, kind)
    assert model(X).isfinite().all(1).tolist() == [True, False, True, True, True]
    defense = Defense(Chain(), model)
    labels = defense.labels(X, Key.root(0, range(5)))
    assert labels[1] == ABSTAIN
    assert torch.equal(labels[[0, 2, 3, 4]], WANTED.argmax(1)[[0, 2, 3, 4]])
    verdict = besiege.judge(
        *(defense, besiege.Threat(besiege.Linf(0.1)), X, X, Key.root(0, range(5))),
        Judging(micro_batch=5),
    )
    assert verdict.predicted[:, 0].tolist() == labels.tolist()


def test_label_minus_one_is_no_answer():
    found = from_callable(lambda x: torch.tensor([0, -1]), 2, "labels")(X[:2])
    assert found[0].tolist() == [1.0, 0.0]
    assert found[1].isnan().all()


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 4], "values from 0 to 4"),
        ([0.5, 1.0], "whole numbers from 0 to 3"),
        ([[0, 1], [1, 0]], r"returned torch.int64 \(2, 2\)"),
        ([-2, 1], "values from -2 to 1"),
    ],
)
def test_labels_that_are_none(labels, says):
    with pytest.raises(BadModel, match=says):
        from_callable(lambda x: labels, 4, "labels")(X[:2])


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (object(), "f returned object"),
        (np.zeros((5, 3)), r"returned \(5, 3\)"),
        ("cat", "f returned str"),
    ],
)
def test_answers_of_another_form(answer, says):
    with pytest.raises(BadModel, match=says):
        from_callable(lambda x: answer, 4)(X)


def test_settings_that_do_not_exist():
    with pytest.raises(UnknownName, match='Did you mean "logits"'):
        from_callable(linear, 4, "logit")
    with pytest.raises(UnknownName, match='Did you mean "array"'):
        from_callable(linear, 4, layout="arrays")
    with pytest.raises(BadSetting, match="f is a function or module, not int"):
        from_callable(3, 4)


def test_a_module_keeps_its_mode():
    """The caller calls .eval(), as for Classifier."""
    network = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.LazyLinear(4))
    with pytest.raises(BadModel, match="training mode"):
        from_callable(network, 4)(X)


def test_a_run_folder_tells_functions_apart_by_name():
    hashes = {weights_hash(from_callable(linear, 4, name=n)) for n in ("one", "two", "one")}
    assert len(hashes) == 2
