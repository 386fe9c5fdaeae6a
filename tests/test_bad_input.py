"""Bad images, labels, models and folders: one message each, and nothing finished is lost."""

import re

import numpy as np
import pytest
import torch

import besiege
from besiege.core.errors import BadImages, BadModel, BadRun, BesiegeError, OutsideThreat
from besiege.core.store import RunFolder
from besiege.defenses.transform import Chain
from besiege.laws.problems import linear_classifier
from besiege.study.experiment import experiment_from, load_experiment
from besiege.study.judge import Judging
from besiege.study.run import run_experiment

BARE = besiege.Defense(Chain(), linear_classifier(3, (1, 4, 4)))
X, Y = torch.full((4, 1, 4, 4), 0.5), torch.tensor([0, 1, 2, 0])
BALL = besiege.Linf(0.1)


def with_value(value):
    x = X.clone()
    x[2, 0, 1, 1] = value
    return x


IMAGES = [
    (with_value(float("nan")), Y, BadImages, "image with id 2 has pixels that are NaN or infinite"),
    (with_value(1.5), Y, BadImages, "image with id 2 has pixels outside [0, 1]; divide 8-bit"),
    (with_value(-1e-3), Y, BadImages, "image with id 2 has pixels outside [0, 1]"),
    (X * 255, Y, BadImages, "divide 8-bit images by 255"),
    (X.expand(-1, 3, -1, -1), Y, BadImages, "images have shape (4, 3, 4, 4), but the classifier"),
    (X[:, 0], Y, BadImages, "images have shape (4, 4, 4)"),
    (X, torch.tensor([0, 1, 3, 0]), BadImages, "image with id 2 has a label outside 0..2"),
    (X, torch.tensor([0, -1, 2, 0]), BadImages, "image with id 1 has a label outside 0..2"),
    (X, Y[:3], BadImages, "4 images and 3 labels came"),
    (X[:0], Y[:0], BadImages, "0 images and 0 labels came"),
]


@pytest.mark.parametrize(("x", "y", "error", "says"), IMAGES, ids=[i[3][:45] for i in IMAGES])
def test_bad_images_are_named(x, y, error, says):
    with pytest.raises(error, match=re.escape(says)):
        besiege.evaluate(BARE, x, y, BALL, recipes=["none"])


def test_a_model_in_training_mode_is_refused():
    model = linear_classifier(3, (1, 4, 4))
    model.train()
    with pytest.raises(BadModel, match="training"):
        besiege.evaluate(besiege.Defense(Chain(), model), X, Y, BALL, recipes=["none"])


def test_no_recipe_is_an_error():
    with pytest.raises(BesiegeError, match="no recipe came"):
        besiege.evaluate(BARE, X, Y, BALL, recipes=[])


def test_the_judge_names_what_is_outside():
    x = X.clone()
    x[3] += 0.2
    key = besiege.Key.root(0, range(4))
    says = "row 3 is outside the threat linf 0.1: its size is 0.2 where at most 0.1 is admitted"
    with pytest.raises(OutsideThreat, match=re.escape(says)):
        besiege.judge(BARE, besiege.Threat(BALL), x, X, key, Judging())


def test_given_targets_need_a_data_set_that_has_them(tmp_path):
    experiment = experiment_from(
        {
            "data": {"source": "digits", "n": 2, "targets": "given"},
            "model": "digits-cnn",
            "defense": [{"name": "none"}],
            "threat": [{"eps": 0.1, "targeted": True}],
            "recipe": [{"kind": "bpda", "steps": 1}],
        }
    )
    with pytest.raises(BesiegeError, match="gives no targets"):
        run_experiment(experiment, tmp_path / "run")


def packed(path, images):
    """An image file of ten digits' classes."""
    n = len(images)
    np.savez(path, images=images, labels=np.arange(n) % 10, classes=np.array(list("0123456789")))


MODELS = [
    ("three channels", (5, 32, 32, 3), "images have shape (5, 3, 32, 32)"),
]


@pytest.mark.parametrize(("name", "shape", "says"), MODELS, ids=[m[0] for m in MODELS])
def test_images_that_do_not_fit_the_model_are_named(name, shape, says, tmp_path):
    packed(tmp_path / "x.npz", np.zeros(shape, np.uint8))
    (tmp_path / "e.toml").write_text(
        'data = "packed:path=x.npz"\nmodel = "digits-cnn"\n[[defense]]\nname = "none"\n'
        '[[threat]]\neps = 0.1\n[[recipe]]\nkind = "bpda"\nsteps = 1\n'
    )
    with pytest.raises(BadRun, match=re.escape(says)):
        run_experiment(load_experiment(tmp_path / "e.toml"), tmp_path / "run")


def test_a_second_run_on_one_folder_is_refused_and_loses_nothing(tmp_path):
    settings = {
        "data": {"source": "digits", "n": 2},
        "model": "digits-cnn",
        "defense": [{"name": "none"}],
        "threat": [{"eps": 0.1}],
        "recipe": [{"kind": "bpda", "steps": 1}],
    }
    out = run_experiment(experiment_from(settings), tmp_path / "run")
    (out / "lock").write_text("1")
    with pytest.raises(BadRun, match="process 1 is running"):
        run_experiment(experiment_from(settings), out)
    assert len(RunFolder(out).rows()) == 2
