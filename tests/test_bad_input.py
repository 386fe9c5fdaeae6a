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
from besiege.study.experiment.experiment import experiment_from, load_experiment
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
    with pytest.raises(BadImages, match=re.escape(says)):
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
    with RunFolder.open(out), pytest.raises(BadRun, match=r"process \d+ on \S+ is running on"):
        run_experiment(experiment_from(settings), out)
    assert len(RunFolder(out).rows()) == 2


def model_of(f):
    """A classifier of three classes around a function of images."""

    class Network(torch.nn.Module):
        def forward(self, x):
            return f(x.flatten(1)[:, :3])

    return besiege.Classifier(Network(), 3, channels=1).eval()


SPREAD = torch.linspace(0, 1, 64).reshape(4, 1, 4, 4)
MODELS_THAT_LIE = [
    (lambda v: v.softmax(1), "returned probabilities where logits are expected"),
    (lambda v: v - v.mean(0), "depend on the others in its batch"),
    (lambda v: v * float("nan"), "returned no finite logit for 4 images"),
]


@pytest.mark.parametrize(("f", "says"), MODELS_THAT_LIE, ids=[m[1] for m in MODELS_THAT_LIE])
def test_a_model_that_no_score_could_mean_anything_for(f, says):
    defense = besiege.Defense(Chain(), model_of(f))
    with pytest.raises(BadModel, match=re.escape(says)):
        besiege.evaluate(defense, SPREAD, Y, BALL, recipes=["none"])


@pytest.mark.parametrize("hole", [float("nan"), float("inf")])
@pytest.mark.parametrize("image", range(4))
def test_a_model_that_fails_on_some_images_abstains_there(image, hole):
    first = SPREAD[image, 0, 0, 0]

    def fragile(v):
        return torch.where(v[:, :1] == first, hole, v)

    defense = besiege.Defense(Chain(), model_of(fragile))
    result = besiege.evaluate(defense, SPREAD, torch.full((4,), 2), BALL, recipes=["none"])
    assert result.lines[0].accuracy.estimate == 0.75
    assert result.lines[0].flags == {"no answer on some draws": 1}


def test_coupling_shows_also_where_the_first_image_has_no_answer():
    def coupled(v):
        return torch.where(v[:, :1] < 0.2, torch.nan, v - v.mean(0))

    defense = besiege.Defense(Chain(), model_of(coupled))
    with pytest.raises(BadModel, match="depend on the others in its batch"):
        besiege.evaluate(defense, SPREAD, Y, BALL, recipes=["none"])


def own_generator():
    generator = np.random.default_rng()  # noqa: TID251
    return lambda image: (image + 0.01 * torch.tensor(generator.random(image.shape))).float()


def test_a_defense_with_a_generator_of_its_own_is_marked_in_every_row():
    defense = besiege.Defense(
        Chain((besiege.Opaque(own_generator(), name="mine"),)), BARE.classifier
    )
    result = besiege.evaluate(defense, X, Y, BALL, recipes=["none", "bpda"], steps=2)
    for line in result.lines:
        assert line.flags["unkeyed: mine draws from a generator of its own"] == 4


def test_a_defense_that_draws_in_secret_is_refused():
    link = besiege.Opaque(own_generator(), is_random=False, name="mine")
    with pytest.raises(BesiegeError, match="give Opaque is_random=True"):
        besiege.evaluate(besiege.Defense(Chain((link,)), BARE.classifier), X, Y, BALL)
