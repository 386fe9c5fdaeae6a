"""`besiege evaluate` and `besiege judge` on a stranger's files: defense, model and images."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import besiege
from besiege.core.store import RunFolder
from besiege.report import page
from besiege.report.tables import summarise

OWN = """
import torch
import besiege

def make_shaken():
    return lambda image: (image + 0.05 * torch.randn_like(image)).clamp(0, 1)

def make_model():
    return besiege.load_model("digits-cnn")
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a defense, a model, and ten digits as 8-bit class folders."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    write(tmp_path / "images", *digits())
    return tmp_path


def digits(n=10):
    """uint8 (n, H, W) and labels."""
    x, y, _ = besiege.load_images("digits").take(range(n))
    return (x[:, 0] * 255).round().byte().numpy(), y.tolist()


def write(folder, images, labels, kind="png"):
    """Class folders; names are the numbers of the images."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / str(label) / f"{i}.{kind}"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)


OURS = ["--defense", "own.py:make_shaken", "--model", "own.py:make_model", "--channels", "1"]
NAMES = ("none", "oblivious", "bpda", "bpda+eot")
FOUR = [word for name in NAMES for word in ("--recipe", name)]
QUICK = [*FOUR, "--steps", "2", "--set", "judge.draws=3", "--set", "recipe.bpda+eot.draws=2"]


def test_a_defense_of_ones_own_against_four_attackers(home, command_line):
    code, out, err = command_line("evaluate", *OURS, "--images", "images", *QUICK, "--save-images")
    assert code == 0, err
    found = summarise(home / "runs" / "evaluate")
    assert [line.recipe for line in found.lines] == ["none", "oblivious", "bpda", "bpda+eot"]
    assert all(line.n == 10 and line.defense == "make_shaken" for line in found.lines)
    assert "oblivious" in out
    assert len(RunFolder(home / "runs" / "evaluate").kept()) == 40
    code, out, err = command_line("judge", "runs/evaluate")
    assert (code, out.count("30 of 30")) == (0, 4), err


def test_nobody_named_it_is_the_attacker_that_adapts(home, command_line):
    unreadable(home / "images" / "0" / "a.png")  # the first one, on which a plan would be made
    evaluate = ["evaluate", *OURS, "--images", "images", "--n", "5", "--threat", "linf:eps=0.3"]
    evaluate += ["--budget", "90", "--set", "judge.draws=3", "--claim", "0.9", "--out", "run"]
    code, out, err = command_line(*evaluate)
    assert (code, "1 image cannot be scored" in err) == (2, True)
    found = summarise(home / "run")
    assert [(line.recipe, line.n) for line in found.lines] == [("none", 4), ("adaptive", 4)]
    assert found.lines[1].forwards + found.lines[1].backwards <= 90 + 3 * 16
    (headline,) = found.worst
    assert (headline.verdict.claim, headline.verdict.bar) == (0.9, 0.9)
    assert "how adaptive came to attack make_shaken, linf 0.3 untargeted" in out
    assert "1 pgd, best surrogates" in out
    assert f"make_shaken: {headline.verdict}: robust accuracy at most" in out
    before = RunFolder(home / "run").rows()
    assert command_line(*evaluate)[0] == 2
    assert RunFolder(home / "run").rows() == before


def test_it_may_end_once_it_is_told(home, command_line):
    evaluate = ["evaluate", "--defense", "bits:bits=4", "--model", "digits-cnn", "--data", "digits"]
    evaluate += ["--recipe", "bpda", "--steps", "3", "--threat", "linf:eps=0.6", "--n", "300"]
    code, out, err = command_line(*evaluate, "--until", "0.5", "--out", "run")
    assert code == 0, err
    assert "robust accuracy below 50 %, known after " in " ".join(out.split())
    assert len(RunFolder(home / "run").resolved()["ids"]) <= 64


def test_a_budget_may_be_a_time_and_a_run_that_resumes_keeps_it(home, command_line):
    evaluate = ["evaluate", "--defense", "bits:bits=4", "--model", "digits-cnn", "--data", "digits"]
    evaluate += ["--recipe", "bpda", "--n", "3", "--budget", "1s", "--out", "run"]
    code, out, err = command_line(*evaluate)
    assert code == 0, err
    (budget,) = RunFolder(home / "run").resolved()["budgets"]
    assert budget["minutes"] == pytest.approx(1 / 60)
    assert budget["note"] in " ".join(out.split())
    rows = RunFolder(home / "run").rows()
    assert len(rows) == 6
    assert command_line(*evaluate)[0] == 0
    assert RunFolder(home / "run").rows() == rows
    cells = RunFolder(home / "run").resolved()["cells"]
    assert [cell["passes"] for cell in cells] == [budget["passes"]] * 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--steps", "3"], "--steps are of the attackers that --recipe names"),
        (["--budget", "soon"], 'as "3000", "10min", "90s" or "2h", got "soon"'),
        (["--budget", "1.5"], 'got "1.5"'),
        (["--budget", "0min"], 'got "0min"'),
        (["--claim", "60"], "claim"),
    ],
)
def test_what_no_budget_can_mean_is_refused(home, command_line, more, says):
    code, _, err = command_line("evaluate", *OURS, "--images", "images", *more)
    assert (code, says in err) == (2, True), err


SMOOTH = """
data = { source = "digits", n = 20 }
model = "digits-cnn"
judge = { draws = 2 }
defense = [{ name = "smooth", chain = "noise:scale=0.2", vote = "majority:draws=30,quorum=0.8" }]
threat = [{ ball = "l2", eps = 0.05 }]
recipe = [{ kind = "none" }, { kind = "bpda", steps = 1, confirm = 1 }]
"""


def test_a_run_is_certified(home, command_line):
    (home / "e.toml").write_text(SMOOTH)
    code, out, err = command_line("run", "e.toml", "--out", "run")
    assert (code, "smooth: unproved" in out) == (0, True), err
    vote = "majority:draws=30,quorum=0.8"
    certify = ["certify", "--model", "digits-cnn", "--vote", vote, "--into", "run"]
    certify += ["--samples", "500", "--select", "10", "--defense"]
    code, _, err = command_line(*certify, "noise:scale=0.1")
    assert (code, "run has no defense of noise:scale=0.1" in err) == (2, True)
    code, out, err = command_line(*certify, "noise:scale=0.2")
    assert (code, "kept: run" in out) == (0, True), err
    said = " ".join(out.split())
    assert "NOTE 40 too few images: certified accuracy at radius 0: " in said
    assert "NOTE 40 too few images: smooth · " in said  # what touches the run's own figures
    (proof,) = RunFolder(home / "run").certificates()
    sure = [a == y and r >= 0.05 for a, y, r in zip(*(proof[k] for k in PROOF), strict=True)]
    code, out, err = command_line("report", "run")
    assert f"smooth: certified at l2 0.05: robust accuracy at most {100:.1f} %" in out
    assert f"- {100 * sum(sure) / 20:.1f} % [" in out
    assert "proved right within l2 0.05" in out
    code, out, err = command_line("check", "run")
    assert (code, "certificate violated" in out) == (0, False), err
    kept = home / "run" / "certificates.json"
    honest = kept.read_text()
    kept.write_text(json.dumps([{**proof, "answer": [(a + 1) % 10 for a in proof["label"]]}]))
    code, out, err = command_line("check", "run")
    assert (code, "44 certificate violated" in out) == (1, True), err
    kept.write_text(honest)
    certify[certify.index("run")] = "images"
    code, _, err = command_line(*certify, "noise:scale=0.2")
    assert (code, "images holds no run of an experiment" in err) == (2, True)


PROOF = ("answer", "label", "answering")
TOML = """
data = { source = "digits", n = 6 }
model = "digits-cnn"
judge = { draws = 1 }
defense = [{ name = "none" }]
threat = [{ eps = 0.1 }]
recipe = [{ kind = "bpda", steps = 1 }]
"""


def test_every_image_is_saved_and_the_page_stays_short(home, command_line, monkeypatch):
    (home / "e.toml").write_text(TOML)
    code, _, err = command_line("run", "e.toml", "--save-images", "--out", "run")
    assert code == 0, err
    assert len(RunFolder(home / "run").kept()) == 6
    monkeypatch.setattr(page, "STRIPS", 5)
    chosen = ["--set", "data.n=6", "--steps", "1", "--save-images"]
    code, _, err = command_line("attack", *chosen, "--out", "attack")
    assert code == 0, err
    assert len(RunFolder(home / "attack").kept()) == 12
    text = (home / "attack" / "report.html").read_text()
    assert text.count('<div class="strip">') == 5


def test_own_and_built_in_links_chain_and_recipes_can_be_chosen(home, command_line):
    chain = ["--defense", "bits:bits=4 + own.py:make_shaken", "--model", "digits-cnn"]
    choice = ["--recipe", "none", "--recipe", "bpda", "--n", "3", "--out", "run"]
    code, _, err = command_line("evaluate", *chain, "--data", "digits", *choice, "--steps", "1")
    assert code == 0, err
    found = summarise(home / "run")
    assert [(line.recipe, line.n) for line in found.lines] == [("none", 3), ("bpda", 3)]
    assert found.lines[0].defense == "bits:bits=4 + make_shaken"


def test_images_are_brought_to_a_size(home, command_line):
    images, labels = digits(3)
    write(home / "large", images.repeat(2, axis=1).repeat(3, axis=2), labels)
    evaluate = ["evaluate", *OURS, "--images", "large", "--size", "32", "--recipe", "none"]
    code, _, err = command_line(*evaluate, "--out", "run")
    assert code == 2
    assert "say which by order=text or order=number" in err
    code, _, err = command_line(*evaluate, "--order", "number", "--out", "run")
    assert code == 0, err
    run = RunFolder(home / "run")
    assert {parts["clean"].shape for _, _, parts in run.images()} == {(1, 32, 32)}
    assert {row["label"] for row in run.rows()} == set(labels)


def unreadable(place):
    place.write_bytes(b"no image")


def oversized(place):
    Image.new("1", (9000, 9000)).save(place)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(unreadable, "is not a readable image"), (oversized, "has 9000 x 9000 pixels")],
)
def test_a_bad_image_among_many_fails_alone(home, command_line, spoil, says):
    spoil(home / "images" / "0" / "bad.png")
    evaluate = ["evaluate", *OURS, "--images", "images", "--n", "0", *QUICK, "--out", "run"]
    code, out, err = command_line(*evaluate)
    assert code == 2
    assert '1 image cannot be scored; all others are written and stay.\n  "' in err
    assert f'images/0/bad.png" {says}' in err
    assert all((line.n, line.expected) == (10, 11) for line in summarise(home / "run").lines)
    assert "10/11" in out
    before = RunFolder(home / "run").rows()
    assert command_line(*evaluate)[0] == 2
    assert RunFolder(home / "run").rows() == before
    assert "where images, weights or own files were changed, every row is made anew" in err
    shutil.copy(home / "images" / "0" / "0.png", home / "images" / "0" / "bad.png")
    assert command_line(*evaluate)[0] == 0
    assert all((line.n, line.expected) == (11, 11) for line in summarise(home / "run").lines)
    assert len(RunFolder(home / "run").rows()) == len(before) + 44


def test_every_bad_image_is_named_also_where_the_right_ones_are_chosen(home, command_line):
    for i in range(7):
        unreadable(home / "images" / str(i) / "bad.png")
    evaluate = ["evaluate", *OURS, "--images", "images", "--recipe", "none", "--out", "run"]
    code, _, err = command_line(*evaluate, "--set", "data.select=correct", "--set", "judge.draws=2")
    assert code == 2
    assert "7 images cannot be scored" in err
    assert [f'images/{i}/bad.png" is not' in err for i in range(7)] == 5 * [True] + 2 * [False]
    assert "and 2 more." in err
    assert all((line.n, line.expected) == (10, 17) for line in summarise(home / "run").lines)


def test_a_label_that_the_model_does_not_have_is_named(home, command_line):
    shutil.move(home / "images" / "9", home / "images" / "11")
    images = home / "images"
    names = sorted(p.relative_to(images) for p in images.rglob("*.png"))
    lines = [f"{name},{name.parts[0]}" for name in names]
    (images / "labels.csv").write_text("\n".join(["filename,label", *lines]))
    code, _, err = command_line("evaluate", *OURS, "--images", "images", *QUICK, "--out", "run")
    assert code == 2
    assert "has a label outside 0..9, the classes of the model" in err
    assert "label 11" in err
    assert all((line.n, line.expected) == (9, 10) for line in summarise(home / "run").lines)


JUDGE = ["judge", *OURS, "--images", "adv", "--clean", "images", "--draws", "4"]


def moved(images, by):
    return np.clip(images.astype(int) + by, 0, 255).astype(np.uint8)


def test_images_of_others_are_audited_and_judged(home, command_line):
    images, labels = digits()
    write(home / "adv", moved(images, 8), labels, "bmp")  # the ending may be another
    code, out, err = command_line(*JUDGE, "--threat", "linf:eps=8/255", "--out", "run")
    assert code == 0, err
    assert "linf 0.03137, at most 0.03137" in out
    assert "outside linf 8/255: none" in out
    rows = RunFolder(home / "run").rows()
    assert {len(r["predicted"]) for r in rows} == {4}
    assert sorted(r["label"] for r in rows[:10]) == sorted(labels)
    assert [line.recipe for line in summarise(home / "run").lines] == ["none", "given"]


def test_points_outside_the_threat_are_named_and_judged_clean(home, command_line):
    images, labels = digits()
    images[7] = moved(images[7], 9)
    write(home / "adv", images, labels)
    code, out, _ = command_line(*JUDGE, "--threat", "linf:eps=8/255")
    assert code == 0
    assert "outside linf 8/255: 1 (" in out
    assert f"adv/{labels[7]}/7.png" in out
    assert "note: point outside the threat: judged at the clean image (1 rows)" in out


def test_targets_come_from_the_table(home, command_line):
    images, labels = digits()
    write(home / "adv", images, labels)
    code, _, err = command_line(*JUDGE, "--targeted")
    assert (code, 'column "target" in labels.csv' in err) == (2, True)
    clean = home / "images"
    names = [f"{label}/{i}.png" for i, label in enumerate(labels)]
    lines = [f"{n},{y},{(y + 1) % 10}" for n, y in zip(names, labels, strict=True)]
    (clean / "labels.csv").write_text("\n".join(["filename,label,target", *lines]))
    code, _, err = command_line(*JUDGE, "--targeted", "--out", "run")
    assert code == 0, err
    assert all(r["target"] == (r["label"] + 1) % 10 for r in RunFolder(home / "run").rows())


@pytest.mark.parametrize(("folder", "other"), [("images", "adv"), ("adv", "images")])
def test_a_file_without_a_partner_is_named(home, command_line, folder, other):
    images, labels = digits()
    write(home / "adv", images, labels)
    lone = home / folder / str(labels[2]) / "lone.png"
    Image.fromarray(images[0]).save(lone)
    code, out, err = command_line(*JUDGE)
    assert (code, out) == (2, "")
    assert f'"{folder}/{labels[2]}/lone.png" has no partner in "{other}" (1 such)' in err


def test_two_files_of_one_name_are_ambiguous(home, command_line):
    images, labels = digits()
    write(home / "adv", images, labels)
    write(home / "adv", images[:1], labels[:1], "bmp")
    code, _, err = command_line(*JUDGE)
    assert code == 2
    assert f'"adv" holds "{labels[0]}/0.bmp" and "{labels[0]}/0.png"' in err


def test_a_comma_in_a_path_is_refused(home, command_line):
    code, _, err = command_line("evaluate", *OURS, "--images", "a,b")
    assert (code, "has a comma" in err) == (2, True)
