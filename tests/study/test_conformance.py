"""Runs give the same rows on every engine, whatever is killed, stopped, cut up or full."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from besiege.core.errors import BadRun, BadSetting
from besiege.core.store import RunFolder
from besiege.report.tables import summarise
from besiege.study.experiment.experiment import load_experiment
from besiege.study.part import Part
from besiege.study.run import run_experiment

TOML = """
data = { source = "digits", n = 8 }
model = "digits-cnn"
[[defense]]
name = "bare"
[[defense]]
name = "RDG"
chain = "rdg:cells=4"
[[threat]]
eps = 0.15
[[recipe]]
kind = "none"
[[recipe]]
kind = "bpda+eot"
steps = 2
draws = 2
confirm = 2
[judge]
draws = 3
[engine]
batch = 3
micro_batch = 8
"""
ENGINES = ("local-1", "local-2", "local-4", "ray-1", "ray-2", "ray-4")
ELSEWHERE = ("local-2", "ray-2")


def rows(out):
    """All rows and traces of a run, without the times."""
    folder = RunFolder(out)
    return [
        repr({k: v for k, v in row.items() if k != "seconds"})
        for row in (*folder.rows(), *folder.traces())
    ]


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "small.toml"
    path.write_text(TOML)
    return path


@pytest.fixture(scope="module")
def expected(settings):
    """The rows of one plain run, in batches of another size."""
    experiment = load_experiment(settings, ["engine.batch=64"])
    found = rows(run_experiment(experiment, settings.with_name("plain")))
    assert len(found) == 2 * 32
    return found


@pytest.mark.parametrize("name", ENGINES)
def test_rows_are_the_same_on_every_engine(name, engine_at, settings, tmp_path, expected):
    out = run_experiment(load_experiment(settings), tmp_path / "run", engine=engine_at(name))
    assert rows(out) == expected


class Stopped:
    """An engine that is interrupted after some outcomes."""

    def __init__(self, engine, after: int) -> None:
        self.engine, self.after = engine, after

    def run(self, build, tasks):
        outcomes = self.engine.run(build, tasks)
        for _ in range(self.after):
            yield next(outcomes)
        outcomes.close()
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("first", "then"), [("local-1", "local-2"), ("local-2", "ray-2"), ("ray-2", "local-1")]
)
def test_what_one_engine_began_another_ends(first, then, engine_at, settings, tmp_path, expected):
    out, experiment = tmp_path / "run", load_experiment(settings)
    engines = engine_at(first), engine_at(then)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment, out, engine=Stopped(engines[0], 5))
    assert len(list(out.glob("cells/*.parquet"))) == 5
    assert rows(run_experiment(experiment, out, engine=engines[1])) == expected


# Parts


@given(
    n=st.integers(0, 40), size=st.integers(1, 9), cells=st.integers(1, 7), parts=st.integers(1, 9)
)
def test_parts_make_up_the_whole_and_differ_by_a_batch(n, size, cells, parts):
    ids = list(range(100, 100 + n))
    dealt = [
        [(rank, i) for rank in range(cells) for i in Part(k, parts).share(ids, size, rank)]
        for k in range(1, parts + 1)
    ]
    assert sorted(x for part in dealt for x in part) == [(r, i) for r in range(cells) for i in ids]
    batches = [len({(rank, (i - 100) // size) for rank, i in part}) for part in dealt]
    assert max(batches) - min(batches) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "-1/2", "1/0", ""])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(BadSetting, match=r"expected K/N with K from 1 to N, as in 2/8"):
        Part.parse(text)


def test_parts_make_the_rows_of_the_whole_whatever_is_there(settings, tmp_path, expected):
    out, experiment = tmp_path / "run", load_experiment(settings)
    sizes = []
    for number in (2, 3, 1):
        run_experiment(experiment, out, part=Part(number, 3))
        run_experiment(experiment, out, part=Part(number, 3))  # adds nothing
        sizes.append(len(RunFolder(out).rows()))
        assert RunFolder(out).lacking() == 32 - sizes[-1]
    assert 0 < sizes[0] < sizes[1] < sizes[2] == 32
    assert rows(out) == expected


def test_two_of_the_same_part_are_refused_and_the_others_are_not(settings, tmp_path):
    out, experiment = tmp_path / "run", load_experiment(settings, ["data.n=2"])
    with RunFolder.open(out, Part(1, 2).name):
        with pytest.raises(BadRun, match=r"is running on .* \(1-of-2\): wait for it"):
            run_experiment(experiment, out, part=Part(1, 2))
        with pytest.raises(BadRun, match=r"is running on .* \(whole\)"):
            run_experiment(experiment, out)
        run_experiment(experiment, out, part=Part(2, 2))


def besiege(*args, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "besiege", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the suite in its background has it ignore SIGINT, and children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **more,
    )


def test_parts_side_by_side_and_the_last_reports(settings, tmp_path, expected):
    out = tmp_path / "run"
    command = ["run", str(settings), "--out", str(out), "--shard"]
    both = [besiege(*command, part) for part in ("1/2", "2/2")]
    said = [process.communicate(timeout=300) for process in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert any("robust accuracy at most" in stdout for stdout, _ in said)
    assert (out / "report.html").exists()
    assert rows(out) == expected


def test_a_part_alone_reports_what_is_missing(settings, tmp_path):
    process = besiege("run", str(settings), "--out", str(tmp_path / "run"), "--shard", "1/2")
    stdout, _ = process.communicate(timeout=300)
    missing = RunFolder(tmp_path / "run").lacking()
    assert 0 < missing < 32
    assert stdout == f"part 1 of 2 is done; {missing} rows of others are missing\n"
    assert not (tmp_path / "run" / "report.html").exists()
    assert len(summarise(tmp_path / "run").unfinished) == 4


# Faults

PLUGIN = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from besiege.core.entry import Entry
from besiege.defenses.identity import Identity

@dataclass(frozen=True)
class Deadly(Identity):
    '''Kills the process of a worker, at most so many times.'''
    times: int = 0
    name: str = "deadly"
    def forward(self, x, draw):
        scars = Path(__file__).with_name("scars")
        died = scars.stat().st_size if scars.exists() else 0
        if os.getpid() != {driver} and died < self.times:
            with open(scars, "a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return x

TRANSFORMS = (Entry("deadly", Deadly, "test"),)
"""


def deadly(home: Path, times: int):
    (home / "plugin.py").write_text(PLUGIN.replace("{driver}", str(os.getpid())))
    text = TOML.replace("rdg:cells=4", f"deadly:times={times}")
    (home / "e.toml").write_text('plugins = ["plugin.py"]\n' + text)
    few = ["data.n=3", "recipe[1].defenses=['bare']"]  # so that one batch of three is deadly
    return load_experiment(home / "e.toml", few)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_worker_that_is_killed_costs_no_row(name, engine_at, tmp_path):
    experiment = deadly(tmp_path, times=1)
    out = run_experiment(experiment, tmp_path / "run", engine=engine_at(name))
    assert (tmp_path / "scars").read_text() == "x"
    plain = run_experiment(experiment, tmp_path / "plain")
    assert rows(out) == rows(plain)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_batch_that_kills_every_worker_is_named_and_no_other_is_lost(name, engine_at, tmp_path):
    out = tmp_path / "run"
    says = (
        r"1 of 3 batches failed; all others are written and stay. First: RDG · none · linf 0.15 "
        r"untargeted, ids 0 to 2: its worker died 3 times \(.*\); if memory ran out, lower"
    )
    with pytest.raises(BadRun, match=says):
        run_experiment(deadly(tmp_path, times=1000), out, engine=engine_at(name))
    assert len(RunFolder(out).rows()) == 6
    assert (tmp_path / "scars").stat().st_size == 3


def wait_for(process, out, shards):
    """Until so many shards are there; the process must still be at work."""
    while process.poll() is None and len(list(out.glob("cells/*.parquet"))) < shards:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()


def by_name(name):
    kind, _, workers = name.partition("-")
    return ["--engine", kind, "--set", f"engine.workers={workers}", "--set", "engine.batch=1"]


STOPS = [  # in this process, killed: test_run.py
    ("local-1", signal.SIGINT),
    ("local-2", signal.SIGINT),
    ("local-2", signal.SIGKILL),
    ("ray-2", signal.SIGINT),
    ("ray-2", signal.SIGKILL),
]


@pytest.mark.parametrize(("name", "how"), STOPS, ids=[f"{n}-{h.name}" for n, h in STOPS])
def test_a_run_that_is_stopped_resumes(name, how, engine_at, settings, tmp_path, expected):
    engine_at(name)  # skips where Ray is absent
    out = tmp_path / "run"
    more = ["--set", "data.n=60"]  # long enough to be stopped in the middle
    command = ["run", str(settings), "--out", str(out), *by_name(name), *more]
    process = besiege(*command, start_new_session=True)
    wait_for(process, out, 3)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # a terminal sends it to workers too
    else:
        process.kill()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}[how], stderr
    assert "Traceback" not in stderr
    if how == signal.SIGINT:
        assert "What is finished is kept; the same command resumes." in stderr
    before = {p: p.stat().st_mtime_ns for p in out.glob("cells/*.parquet")}
    assert len(before) >= 3
    run_experiment(load_experiment(settings), out)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    mine = [r for r in rows(out) if int(r.partition("'id': ")[2].partition(",")[0]) < 8]
    assert mine == expected


@pytest.mark.parametrize("name", ["local-1", "local-2"])
def test_a_full_disk_ends_the_run_and_keeps_what_is_there(
    name, engine_at, settings, tmp_path, expected, monkeypatch
):
    real, written = os.fsync, []

    def fill(descriptor):
        written.append(descriptor)
        if len(written) > 15:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    out, experiment = tmp_path / "run", load_experiment(settings)
    monkeypatch.setattr(os, "fsync", fill)
    says = r"could not be written \(No space left on device\).*the same command again: it resumes"
    with pytest.raises(BadRun, match=says):
        run_experiment(experiment, out, engine=engine_at(name))
    monkeypatch.setattr(os, "fsync", real)
    assert 0 < len(RunFolder(out).rows()) < 32
    assert not [p for p in out.rglob(".*") if p.is_file()]
    assert rows(run_experiment(experiment, out)) == expected


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
sys.argv = ["besiege", *sys.argv[1:]]
from besiege.cli.main import main
main()
"""


def test_a_disk_that_is_really_full_is_one_message(settings, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, "run", str(settings), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "could not be written (" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_clock_that_goes_backwards_changes_nothing(settings, tmp_path, expected, monkeypatch):
    now = [2e9]

    def earlier():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier)
    seen = []
    out = run_experiment(load_experiment(settings), tmp_path / "run", seen.append)
    assert rows(out) == expected
    assert all(0 <= row["seconds"] < 60 for row in RunFolder(out).rows())
    seconds = [event.seconds for event in seen]
    assert seconds == sorted(seconds)
    assert seconds[-1] < 60


def test_a_worker_that_reads_other_files_is_refused(tmp_path, engine_at):
    experiment = deadly(tmp_path, times=0)

    class Late:
        """Changes a plugin between the run's look at it and the workers'."""

        def run(self, build, tasks):
            plugin = tmp_path / "plugin.py"
            plugin.write_text(plugin.read_text() + "# changed\n")
            return engine_at("local-2").run(build, tasks)

    with pytest.raises(BadRun, match="a worker could not start: BadRun: it reads other weights"):
        run_experiment(experiment, tmp_path / "run", engine=Late())
