"""The command line: what it prints, where, and with which exit code."""

import re
import subprocess
import sys

import pytest

SMALL = ["--set", "data.n=4", "--steps", "2"]


@pytest.fixture
def besiege(command_line, monkeypatch):
    """Run the command line, in a folder: returncode, stdout and stderr as of a process."""

    def run(*args, cwd=None):
        with monkeypatch.context() as patch:
            if cwd is not None:
                patch.chdir(cwd)
            return subprocess.CompletedProcess(args, *command_line(*args))

    return run


def test_help_does_not_wait_for_torch():
    code = "import sys, besiege.cli.main; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_help_names_every_command(besiege):
    done = besiege("--help")
    assert done.returncode == 0
    for command in (
        "demo",
        "run",
        "attack",
        "evaluate",
        "judge",
        "protect",
        "list",
        "explain",
        "report",
        "gate",
        "compare",
        "certify",
    ):
        assert command in done.stdout


def test_list_names_every_entry(besiege):
    done = besiege("list")
    for name in ("fd", "rdg", "bpda+eot", "pgd", "margin", "linf", "majority", "digits-cnn"):
        assert name in done.stdout
    some = besiege("list", "balls")
    assert "linf" in some.stdout
    assert "pgd" not in some.stdout


def test_explain_tells_parameters_surrogates_and_source(besiege):
    done = besiege("explain", "fd")
    assert done.returncode == 0
    for text in ("form = 'aligned'", "straight-through", "source: ", "displacement"):
        assert text in done.stdout
    assert "for example:\n  fd:form=released\n" in done.stdout
    assert "nothing: deterministic" in done.stdout
    assert re.search(r"cost, on this machine: [\d.e-]+ ms an image, [\d.e-]+ ms with", done.stdout)


def test_attack_prints_a_table_and_report_prints_it_again(besiege, tmp_path):
    done = besiege("attack", "--defense", "bits", *SMALL, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bpda+eot" in done.stdout
    assert "robust accuracy at most" in done.stdout
    assert "8/8" in done.stderr
    page = (tmp_path / "run" / "report.html").read_bytes()
    again = besiege("report", "run", cwd=tmp_path)
    assert again.stdout == done.stdout
    assert (tmp_path / "run" / "report.html").read_bytes() == page


def test_compare_prints_pairs_of_a_run(besiege, tmp_path):
    recipes = ("--recipe", "bpda", "--recipe", "oblivious")
    done = besiege("attack", "--defense", "bits", *recipes, *SMALL, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = besiege("compare", "run", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert re.search(r"\| bpda +\| oblivious +\|", found.stdout)
    assert "1 comparison; p is corrected" in found.stdout


def test_certify_prints_a_curve_and_draws_it(besiege, tmp_path):
    args = ("--defense", "noise:scale=0.2", "--model", "digits-cnn", "--n", "3", "--samples", "60")
    done = besiege("certify", *args, "--radius", "0.1", "--figure", "curve.svg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| +0.1 \| +\d+.\d \[", done.stdout)
    assert "3 of 3 right" in done.stdout
    assert "NOTE 40 too few images" in done.stdout.split("3 of 3 right")[0].split("+\n")[-1]
    assert "160/160" in done.stderr
    assert (tmp_path / "curve.svg").read_text().startswith("<svg")
    assert besiege("certify", *args, "--radius", "0.1", cwd=tmp_path).stdout in done.stdout


def test_predict_answers_or_abstains_and_certifies_nothing(command_line):
    args = ["certify", "--model", "digits-cnn", "--n", "3", "--samples", "60", "--predict"]
    code, out, err = command_line(*args, "--defense", "noise:scale=0.2")
    assert code == 0, err
    answers = out.splitlines()[:-1]
    assert len(answers) == 3
    assert all(re.fullmatch(r"\d+: (\d|abstains)( \(label \d\))?", line) for line in answers)
    assert "radius" not in out
    code, out, _ = command_line(*args[:-2], "3", "--predict", "--defense", "noise:scale=0.2")
    assert out.count("abstains") == 3  # three samples tell nothing
    code, _, err = command_line(*args, "--defense", "noise:scale=0.2", "--radius", "0.1")
    assert (code, "certifies nothing" in err) == (2, True)


def test_run_resumes(besiege, tmp_path):
    (tmp_path / "e.toml").write_text(
        'data = { source = "digits", n = 3 }\nmodel = "digits-cnn"\n[[defense]]\nname = "none"\n'
        '[[threat]]\neps = 0.1\n[[recipe]]\nkind = "bpda"\nsteps = 2\n'
    )
    first = besiege("run", "e.toml", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    second = besiege("run", "e.toml", cwd=tmp_path)
    assert "resumed" in second.stderr
    assert first.stdout == second.stdout


WRONG_ENGINES = [
    (["--engine", "dask"], "engine.kind: expected"),
    (["--engine", "ray", "--address", "127.0.0.1:1"], "127.0.0.1:1|besiege\\[ray\\]"),
    (["--shard", "9/8"], '"9/8" is no part of a run: expected K/N'),
]


@pytest.mark.parametrize(
    ("args", "says"), WRONG_ENGINES, ids=[" ".join(a) for a, _ in WRONG_ENGINES]
)
def test_an_engine_that_cannot_be_is_one_message(besiege, args, says, tmp_path):
    (tmp_path / "e.toml").write_text(
        'data = { source = "digits", n = 3 }\nmodel = "digits-cnn"\n[[defense]]\nname = "none"\n'
        '[[threat]]\neps = 0.1\n[[recipe]]\nkind = "none"\n'
    )
    done = besiege("run", "e.toml", *args, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(says, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.parquet"))


MISTAKES = [
    (["run", "no.toml"], "No experiment at"),
    (["explain", "jpg"], 'Did you mean "jpeg"?'),
    (["list", "transform"], 'Did you mean "transforms"?'),
    (["report", "."], "holds no run"),
    (["attack", "--defense", "fdd"], 'Did you mean "fd"?'),
    (["attack", "--threat", "linf:eps=8"], 'write "8/255"'),
    (["attack", "--threat", "linf:esp=1"], 'Did you mean "eps"?'),
    (["attack", "--data", "digit"], 'Did you mean "digits"?'),
    (["attack", "--model", "file:no.safetensors"], "no.safetensors"),
    (["demo", "--set", "data.m=3"], "data.m is no key"),
    (["attack", "--set", "keep.images=some"], "keep.images"),
    (["evaluate", "--defense", "none", "--model", "digits-cnn"], "--images FOLDER or --data SPEC"),
    (
        ["evaluate", "--defense", "no.py:f", "--model", "digits-cnn", "--data", "digits"],
        'No defense at "',
    ),
    (
        ["evaluate", "--defense", "none", "--model", "no.py:f", "--data", "digits"],
        'No model at "',
    ),
    (["judge"], "give RUN, or all of"),
    (["compare", "."], "holds no run"),
    (["certify", "--defense", "bits", "--model", "digits-cnn"], "no link of it adds gaussian"),
    (
        ["certify", "--defense", "noise", "--model", "digits-cnn", "--samples", "5"],
        "at least 10 are needed",
    ),
    (["judge", "."], "holds no run"),
    (["judge", ".", "--model", "digits-cnn"], "RUN says what to judge"),
    (
        ["judge", "--model", "digits-cnn", "--images", "a", "--clean", "b"],
        "No folder of images at",
    ),
]


@pytest.mark.parametrize(("args", "says"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_message_on_stderr(besiege, args, says, tmp_path):
    done = besiege(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.rglob("*.parquet"))


def test_an_unknown_command_is_bad_input(besiege):
    done = besiege("atack")
    assert done.returncode == 2
    assert "atack" in done.stderr
