"""`besiege gate`: exit codes, the table, JUnit and JSON."""

import json
from functools import partial
from xml.etree import ElementTree

import pytest

from besiege.cli.junit import junit
from besiege.core.store import RunFolder
from besiege.study.gate.gate import Defended, Gate, Judged
from besiege.study.gate.requirements import Measured, On, Verdict, parse_requirement

TOML = """
data = { source = "digits", n = 12 }
model = "digits-cnn"
judge = { draws = 3 }
defense = [{ name = "bits & <all>", chain = "bits" }, { name = "noise", chain = "noise:scale=0.3" }]
threat = [{ eps = 0.1 }]
recipe = [{ kind = "none" }, { kind = "bpda", steps = 3 }]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with an experiment that the first gate runs."""
    folder = tmp_path_factory.mktemp("gate")
    (folder / "ci.toml").write_text(TOML)
    return folder


@pytest.fixture
def command(home, monkeypatch, command_line):
    """Run `besiege gate` there: its exit code, stdout and stderr."""
    monkeypatch.chdir(home)
    return partial(command_line, "gate", "--no-product")


@pytest.fixture
def run(home, command):
    """The run folder of the experiment."""
    folder = home / "runs" / "ci"
    if not folder.exists():
        code, out, err = command("ci.toml", "--require", "clean>=0%")
        assert code == 0, err
        assert "robust accuracy at most" in out  # the table of the run comes first
        assert "gate: passed: 2 PASS" in out
    return folder


def test_an_experiment_is_run_and_then_resumed(run, command):
    before = RunFolder(run).rows()
    code, _, err = command("ci.toml", "--require", "robust>=0%")
    assert (code, "resumed" in err) == (0, True)
    assert RunFolder(run).rows() == before


@pytest.mark.parametrize(
    ("requirement", "code", "word"),
    [
        ("clean>=1%", 0, "PASS"),
        ("clean<=1%", 1, "FAIL"),
        ("clean>=90%", 3, "UNDECIDED"),
        ("robust@targeted>=1%", 1, "REFUSED"),
    ],
)
def test_exit_codes(run, command, requirement, code, word):
    found, out, _ = command(run, "--require", requirement, "--defense", "bits & <all>")
    assert found == code
    assert f"| {word}" in out
    assert f"{'passed' if code == 0 else 'not passed'}: 1 {word}, decided on the interval" in out


def test_a_defense_is_shown_as_a_product(run, command_line, tmp_path):
    file = tmp_path / "gate.xml"
    asked = ("gate", run, "--require", "robust>=0%", "--junit", file)
    code, out, err = command_line(*asked, "--calls", "6")
    assert code == 0, err
    for name in ("clean", "latency", "overhead", "corrupted"):
        assert len([x for x in out.splitlines() if x.startswith(f"| {name} ")]) == 2
        assert f"{name} (" in file.read_text()
    assert "latency at batch 1" in err  # progress
    assert "gate: passed: 2 PASS, decided" in out
    code, out, _ = command_line(*asked, "--no-product")
    assert "| clean" in out
    assert "| corrupted" not in out


def test_what_is_open_may_be_let_pass(run, command):
    open_one = (run, "--require", "clean>=90%", "--defense", "bits & <all>")
    assert command(*open_one)[0] == 3
    assert command(*open_one, "--allow-undecided")[0] == 0
    assert command(*open_one, "--on", "estimate")[0] in (0, 1)


WRONG = [
    (["--require", "robust>30"], 'write "30%" or "0.3"'),
    (["--require", "robust"], "in quotes, since a shell"),
    (["--require", "robst>=3%"], 'Did you mean "robust"?'),
    (["--require", "clean>=3%", "--defense", "nose"], 'Did you mean "noise"?'),
    (["--require", "robust@linf:0.2>=3%"], 'Did you mean "linf 0.1"?'),
    (["--require", "clean>=3%", "--on", "luck"], "Valid: estimate, interval"),
    (["--require", "corrupted>=3%", "--severity", "9"], "1, 2, 3, 4 or 5, got 9"),
    ([], "lets all pass"),
]


@pytest.mark.parametrize(("args", "says"), WRONG, ids=[" ".join(args) for args, _ in WRONG])
def test_a_mistake_is_one_message(run, command, args, says):
    code, out, err = command(run, *args)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_a_mistake_is_found_before_an_experiment_is_run(home, command):
    assert command("ci.toml", "--out", "never", "--require", "robst>=3%")[0] == 2
    assert command("ci.toml", "--out", "never")[0] == 2
    assert not (home / "never").exists()


def test_junit_and_json_say_what_the_table_says(run, command, tmp_path):
    asked = [
        "clean>=1%",
        "clean<=1%",
        "robust@targeted>=1%",
        "latency<=1000s",
        "corrupted@jpeg>=1%",
    ]
    files = (tmp_path / "deep" / "gate.xml", tmp_path / "gate.json")
    args = [part for text in asked for part in ("--require", text)]
    code, out, err = command(
        run, *args, "--junit", files[0], "--json", files[1], "--calls", "6", "--latency", "2"
    )
    assert code == 1, err
    whole = ElementTree.parse(files[0]).getroot()
    assert (whole.tag, whole.get("tests"), whole.get("failures")) == ("testsuites", "10", "4")
    assert [suite.get("name") for suite in whole] == ["bits & <all>", "noise"]
    for suite in whole:
        cases = suite.findall("testcase")
        counts = [suite.get(k) for k in ("tests", "failures", "errors", "skipped")]
        assert counts == ["5", "2", "0", "0"] == [str(len(cases)), *counts[1:]]
        assert [case.get("classname") for case in cases] == [suite.get("name")] * 5
        assert [case.get("name").partition(" (")[0] for case in cases] == asked
        failed = [case.find("failure") is not None for case in cases]
        assert failed == [False, True, True, False, False]
        assert [case.find("failure").get("type") for case in cases[1:3]] == ["FAIL", "REFUSED"]
        assert "clean<=1% (no attack): " in cases[1].find("failure").text
        assert float(suite.get("time")) >= 0
        assert sum(float(c.get("time")) for c in cases) == pytest.approx(
            float(suite.get("time")), abs=0.01
        )
        assert "latency at batch 2" in suite.find("system-out").text
    told = json.loads(files[1].read_text())
    assert (told["exit"], told["passed"], told["on"]) == (1, False, "interval")
    rows = [row for defense in told["defenses"] for row in defense["requirements"]]
    assert [row["verdict"] for row in rows] == [*("PASS", "FAIL", "REFUSED", "PASS", "PASS")] * 2
    assert all(out.count(row["requirement"]) >= 2 for row in rows)
    assert not list(tmp_path.rglob("*.part"))


def test_a_file_that_cannot_be_written_is_bad_input(run, command, tmp_path):
    (tmp_path / "file").write_text("")
    code, out, err = command(
        run, "--require", "clean>=1%", "--junit", tmp_path / "file" / "gate.xml"
    )
    assert (code, "cannot be written" in err) == (2, True)
    assert "gate: passed" in out


def verdict(text, kind, sentence=""):
    measured = Measured(0.5, 0.4, 0.6, 100)
    return Judged(parse_requirement(text), "linf 0.1", measured, Verdict(kind), sentence, 0.25)


def test_what_is_allowed_to_be_open_is_skipped_in_junit():
    judged = (verdict("robust>=30%", "PASS"), verdict("robust>=50%", "UNDECIDED", "Look at more."))
    gate = Gate("run", On.INTERVAL, (Defended("d", judged, ()),), allow_undecided=True)
    suite = ElementTree.fromstring(junit(gate))[0]
    assert [suite.get(k) for k in ("tests", "failures", "skipped", "time")] == [
        "2",
        "0",
        "1",
        "0.500",
    ]
    assert suite[1].find("skipped").get("message") == "UNDECIDED: Look at more."


def test_junit_holds_any_name():
    names = ("a\x00b\x1b[1m", 'x"<>&', "déjà · 防御 \U0001f6e1", "\ud800")
    defenses = tuple(Defended(name, (verdict("clean>=3%", "PASS"),), (name,)) for name in names)
    text = junit(Gate("\x07run", On.INTERVAL, defenses))
    found = [suite.get("name") for suite in ElementTree.fromstring(text)]
    assert found == ["a?b?[1m", 'x"<>&', "déjà · 防御 \U0001f6e1", "?"]
