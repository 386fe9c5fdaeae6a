"""The saved points of a run are judged again: the same verdict, or what is wrong by name."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from besiege.cli.main import main
from besiege.core.errors import BadRun, BesiegeError
from besiege.core.store import RunFolder
from besiege.data.catalog import load_images
from besiege.models.catalog import load_model
from besiege.study.experiment.experiment import experiment_from
from besiege.study.rejudge import rejudge
from besiege.study.run import run_experiment

OWN = """
import numpy as np
import torch

GENERATOR = np.random.default_rng()

def make_noise():
    return lambda image: (image + 0.3 * torch.randn_like(image)).clamp(0, 1)

def make_unkeyed():
    def noisy(image):
        noise = torch.tensor(GENERATOR.normal(0, 0.3, image.shape), dtype=image.dtype)
        return (image + noise).clamp(0, 1)
    return noisy
"""
SETTINGS = {
    "seed": 3,
    "data": {"source": "digits", "n": 12},
    "model": "digits-cnn",
    "defense": [{"name": "bare"}, {"name": "noise", "chain": "own.py:make_noise + bits:bits=3"}],
    "threat": [{"eps": 0.15}, {"eps": 0.15, "targeted": True, "eight_bit": True}],
    "recipe": [{"kind": "none"}, {"kind": "bpda", "steps": 3}],
    "judge": {"draws": 6},
    "keep": {"images": "all"},
    "engine": {"batch": 5, "micro_batch": 8},
}


def made(folder, **changes):
    """A run in `folder`, with settings changed."""
    (folder / "own.py").write_text(OWN)
    return run_experiment(experiment_from({**SETTINGS, **changes}, home=folder), folder / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def small(tmp_path):
    return made(tmp_path, defense=SETTINGS["defense"][1:], threat=SETTINGS["threat"][:1])


def last(run):
    """(cell, id) of some point that was searched for, and the file of it."""
    folder = RunFolder(run)
    row = next(r for r in folder.rows() if r["linf"] > 0)
    return row["cell"], row["id"], folder.image_file(row["cell"], row["id"])


def test_a_run_is_judged_as_recorded(whole):
    found = rejudge(whole)
    assert found.confirmed
    assert found.repeats
    assert not found.notes
    assert [(c.points, c.rows) for c in found.cells] == [(12, 12)] * 8
    assert [c.answers for c in found.cells] == [12] * 4 + [72] * 4
    assert all(c.same == c.answers and c.now == c.recorded for c in found.cells)
    by_hand = [np.mean(np.array(r["predicted"]) == r["label"]) for r in RunFolder(whole).rows()]
    assert np.isclose(np.mean(by_hand), np.mean([c.now for c in found.cells]))


def test_batches_do_not_matter_to_the_judge(whole):
    assert rejudge(whole, ["engine.batch=12"]).cells == rejudge(whole).cells


def test_another_seed_is_another_sample(whole):
    found = rejudge(whole, seed=4)
    assert found.confirmed
    assert not found.repeats
    assert any(c.same < c.answers for c in found.cells[4:])
    assert all(c.same == c.answers for c in found.cells[:4])  # deterministic
    assert all(abs(c.now - c.recorded) < 0.3 for c in found.cells)


def test_more_draws_begin_as_recorded(whole):
    found = rejudge(whole, draws=8)
    assert not found.repeats
    assert [c.answers for c in found.cells[4:]] == [96] * 4
    assert [c.same for c in found.cells[4:]] == [72] * 4


def test_a_changed_point_is_named(small):
    cell, image_id, place = last(small)
    parts = RunFolder(small).image(cell, image_id)
    parts["adversarial"][0, 3, 3] += 1e-4
    np.savez_compressed(place, **parts)
    found = rejudge(small)
    assert not found.confirmed
    assert found.wrong == (f"{place} is not the point that was judged: its pixels were changed",)
    assert sum(c.rows - c.points for c in found.cells) == 1
    assert all(c.same == c.answers for c in found.cells)


def test_a_missing_and_a_damaged_point_are_named(small):
    places = sorted((small / "images").glob("*.npz"))
    places[0].unlink()
    places[5].write_bytes(places[5].read_bytes()[:200])
    wrong = rejudge(small).wrong
    assert any(w == f"{places[0]} is missing" for w in wrong)
    assert any(w.startswith(f"{places[5]} is damaged") for w in wrong)
    assert len(wrong) == 2


def test_a_point_that_was_moved_with_its_hash_is_outside(small):
    """Someone who forges rows and images alike is held to the ball around the clean image."""
    folder = RunFolder(small)
    resolved = json.loads((small / "resolved.json").read_text())
    resolved["experiment"]["threat"][0]["eps"] = 0.01
    (small / "resolved.json").write_text(json.dumps(resolved))
    found = rejudge(small)
    assert not found.confirmed
    assert any("the point is outside linf 0.01" in w for w in found.wrong)
    assert found.notes
    assert len(folder.rows()) == 24


def test_other_weights_are_noted_and_do_not_confirm(small):
    own = small.parent / "own.py"
    own.write_text(OWN.replace("0.3 * torch", "0.9 * torch"))
    found = rejudge(small)
    assert not found.confirmed
    assert found.notes
    assert not found.wrong


def test_a_run_is_judged_and_resumed_on_another_machine(tmp_path, monkeypatch, capsys):
    """The run folder and its inputs in another folder, under other names, the originals gone."""
    here, there = tmp_path / "here", tmp_path / "there"
    x, y, _ = load_images("digits").take(range(6))
    for i, (image, label) in enumerate(zip(x, y.tolist(), strict=True)):
        place = here / "images" / str(label) / f"{i}.png"
        place.parent.mkdir(parents=True)
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(place)
    save_file(load_model("digits-cnn").network.state_dict(), here / "net.safetensors")
    inputs = {"data": "folder:path=images,channels=1,order=number", "model": "file:net.safetensors"}
    run = made(here, threat=SETTINGS["threat"][:1], **inputs)
    before, shards = rejudge(run), {p.name for p in run.glob("cells/*")}
    assert before.confirmed
    shutil.copytree(here, there / "copied")
    shutil.rmtree(here)
    monkeypatch.chdir(there)
    changes = [
        "data.source=folder:path=copied/images,channels=1,order=number",
        "model.source=file:copied/net.safetensors",
        "defense.noise.chain=copied/own.py:make_noise + bits:bits=3",
    ]
    found = rejudge(there / "copied" / "run", changes)
    assert found == before
    assert not found.notes
    sets = [word for change in changes for word in ("--set", change)]
    monkeypatch.setattr("sys.argv", ["besiege", "judge", "copied/run", *sets])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    assert capsys.readouterr().out.rstrip().endswith("as recorded")
    with pytest.raises(BesiegeError, match="there is no folder"):
        rejudge(there / "copied" / "run")
    again = {**SETTINGS, "threat": SETTINGS["threat"][:1], **inputs}
    run_experiment(experiment_from(again, home=there / "copied"), there / "copied" / "run")
    assert {p.name for p in (there / "copied" / "run").glob("cells/*")} == shards


def test_only_some_images_were_kept(tmp_path):
    found = rejudge(made(tmp_path, keep={"images": 2}))
    assert found.confirmed
    assert [(c.points, c.rows) for c in found.cells] == [(2, 12)] * 8


def test_a_defense_without_a_key_cannot_be_repeated(tmp_path, monkeypatch, capsys):
    chain = "own.py:make_unkeyed"
    run = made(tmp_path, defense=[{"name": "own", "chain": chain}], threat=[{"eps": 0.15}])
    assert all(
        row["flags"] == ["unkeyed: make_unkeyed draws from a generator of its own"]
        for row in RunFolder(run).rows()
    )
    found = rejudge(run)
    assert all(c.unkeyed and c.points == 12 for c in found.cells)
    assert any(c.same < c.answers for c in found.cells)
    assert found.confirmed
    monkeypatch.setattr("sys.argv", ["besiege", "judge", str(run)])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    assert "cannot be repeated" in capsys.readouterr().out


def test_the_command_says_how_many_answers_are_as_recorded(small, monkeypatch, capsys):
    def judged(*more):
        monkeypatch.setattr("sys.argv", ["besiege", "judge", str(small), *more])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code, capsys.readouterr().out

    code, out = judged()
    assert code == 0
    assert out.count("72 of 72") == 2
    assert out.rstrip().endswith("as recorded")
    code, out = judged("--seed", "9")
    assert (code, out.count("other draws")) == (0, 2)
    _, _, place = last(small)
    place.unlink()
    code, out = judged()
    assert code == 1
    assert f"wrong: {place} is missing" in out
    assert "NOT as recorded" in out


def test_what_is_no_run_of_an_experiment_is_refused(tmp_path, whole):
    with pytest.raises(BadRun, match="holds no run"):
        rejudge(tmp_path)
    (tmp_path / "resolved.json").write_text('{"experiment": {"seed": 0}, "cells": [], "ids": []}')
    with pytest.raises(BadRun, match="made in Python"):
        rejudge(tmp_path)
    with pytest.raises(BesiegeError, match="recipe"):
        rejudge(whole, ["recipe=[]"])
    with pytest.raises(BadRun, match="changed the grid"):
        rejudge(whole, ['recipe=[{kind="none"}]'])
