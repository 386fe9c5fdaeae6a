"""Run folders hold whole shards or none, and nothing of anybody else's."""

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import numpy as np
import pytest

from besiege.core.errors import BadRun
from besiege.core.store import RunFolder, _database, _stoppable


def shard(cell="a" * 16, ids=(2, 1)):
    """Columns of rows and traces."""
    n = len(ids)
    sizes = {
        k: np.full(n, 0.1) for k in ("linf", "l2", "rms", "l1", "l0", "size", "claim", "seconds")
    }
    rows = {
        "cell": [cell] * n,
        "id": np.array(ids),
        "label": np.zeros(n, int),
        "target": np.full(n, -1),
        "predicted": [[i, 0, -1] for i in ids],
        "lucky": np.ones(n, bool),
        "point": ["0" * 16] * n,
        "forwards": np.full(n, 3),
        "backwards": np.full(n, 2),
        "flags": [[] if i % 2 else ["a flag"] for i in ids],
        **sizes,
    }
    traces = {
        "cell": rows["cell"],
        "id": rows["id"],
        "loss": [[0.5, float("nan")]] * n,
        "won": [[0.0, 1.0]] * n,
        "judged_step": [[]] * n,
        "judged": [[]] * n,
        "judged_won": [[]] * n,
        "passes": [[3, 8]] * n,
    }
    return rows, traces


@pytest.fixture
def run(tmp_path):
    with RunFolder.open(tmp_path / "run") as folder:
        folder.write_experiment("given", {"cells": [{"cell": "a" * 16}], "ids": [1, 2]}, {})
        yield folder


def finished(folder, cell="a" * 16):
    return dict(folder.finished([cell]))[cell]


def test_rows_come_back_in_order_with_their_lists(run):
    run.write_shard(*shard(), {2: {"clean": np.ones((1, 2, 2)), "label": 3}})
    rows = run.rows()
    assert [r["id"] for r in rows] == [1, 2]
    assert rows[1]["predicted"] == [2, 0, -1]
    assert rows[1]["flags"] == ["a flag"]
    assert run.traces()[0]["won"] == [0.0, 1.0]
    assert finished(run) == {1, 2}
    assert finished(run, "b" * 16) == set()
    ((cell, image_id, parts),) = run.images()
    assert (cell, image_id, int(parts["label"])) == ("a" * 16, 2, 3)


def test_traces_of_before_are_read_beside_new_ones(run):
    """A folder that was begun without the column of passes, and resumed with it."""
    run.write_shard(*shard(ids=(1,)), {})
    old = next((run.path / "traces").glob("*.parquet"))
    lacking = f"COPY (SELECT * EXCLUDE passes FROM '{old}') TO '{old}' (FORMAT parquet)"
    duckdb.sql(lacking)
    assert [t["passes"] for t in run.traces()] == [None]
    run.write_shard(*shard(ids=(2,)), {})
    assert [(t["id"], t["passes"]) for t in run.traces()] == [(1, None), (2, [3, 8])]
    assert run.traces(["b" * 16]) == []
    assert len(run.traces(["a" * 16])) == 2
    assert run.rows()[0]["id"] == 1


def test_equal_rows_are_equal_bytes(tmp_path):
    found = []
    for name in ("one", "two"):
        with RunFolder.open(tmp_path / name) as folder:
            folder.write_experiment("", {"cells": [], "ids": []}, {})
            found.append(folder.write_shard(*shard(), {}).read_bytes())
    assert found[0] == found[1]


def test_a_shard_that_is_being_written_is_not_seen(run, monkeypatch):
    def stop(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(BadRun, match=r"could not be written .disk full.*the same command again"):
        run.write_shard(*shard(), {})
    assert run.rows() == []
    assert not list(run.path.glob("*/*aaa*"))


def test_a_damaged_shard_is_set_aside(run):
    good = run.write_shard(*shard(ids=(7,)), {})
    bad = run.write_shard(*shard(ids=(1, 2)), {})
    bad.write_bytes(bad.read_bytes()[:50])
    assert finished(run) == {7}
    assert [p.name for p in run.path.glob("cells/*")].count(good.name) == 1
    assert len(list(run.path.glob("cells/*.damaged"))) == 1


def test_a_lack_of_memory_sets_no_shard_aside(run, monkeypatch):
    """The shards are whole: what was finished must not be made again."""

    class Starved:
        def execute(self, *_):
            raise duckdb.OutOfMemoryException("Failed to allocate block")

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *_: None  # noqa: E731

    run.write_shard(*shard(), {})
    before = run.rows()
    with monkeypatch.context() as patch:
        patch.setattr("besiege.core.store._database", Starved)
        with pytest.raises(BadRun, match=r"memory ran out .*Failed to allocate block\). They stay"):
            run.rows()
    assert not run.damaged()
    assert run.rows() == before


def test_a_disk_that_cannot_be_read_sets_no_shard_aside(run, monkeypatch):
    place = run.write_shard(*shard(), {})
    whole = place.read_bytes()
    place.write_bytes(whole[:100])  # as DuckDB sees it
    read = Path.read_bytes

    def failing(path):
        if path == place:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(BadRun, match=r"parquet cannot be read \(Input/output error\)"):
            run.rows()
    assert not run.damaged()
    place.write_bytes(whole)
    assert len(run.rows()) == 2


def test_a_row_that_is_there_twice_counts_once(run):
    run.write_shard(*shard(ids=(1, 2)), {})
    run.write_shard(*shard(ids=(2, 3)), {})
    assert [r["id"] for r in run.rows()] == [1, 2, 3]


def test_cells_of_before_stay_listed(run):
    run.write_experiment("", {"cells": [{"cell": "b" * 16}], "ids": [1]}, {})
    assert [c["cell"] for c in run.resolved()["cells"]] == ["b" * 16]
    assert [c["cell"] for c in run.resolved()["earlier"]] == ["a" * 16]
    run.write_experiment("", {"cells": [{"cell": "a" * 16}], "ids": [1]}, {})
    assert [c["cell"] for c in run.resolved()["cells"]] == ["a" * 16]
    assert [c["cell"] for c in run.resolved()["earlier"]] == ["b" * 16]


def test_a_running_process_keeps_others_out(tmp_path):
    path = tmp_path / "run"
    with RunFolder.open(path):
        says = f"process {os.getpid()} on {socket.gethostname()} is running on {path} (whole)"
        with pytest.raises(BadRun, match=re.escape(says)):
            RunFolder.open(path)
    with RunFolder.open(path):
        pass


def test_parts_keep_out_their_like_and_the_whole_alone(tmp_path):
    path = tmp_path / "run"
    with RunFolder.open(path, "1-of-2"):
        with RunFolder.open(path, "2-of-2"), pytest.raises(BadRun, match=r"\(2-of-2\)"):
            RunFolder.open(path, "2-of-2")
        with RunFolder.open(path, "2-of-2"):  # one that was refused has kept nothing
            pass
        with pytest.raises(BadRun, match=r"\(whole\)"):
            RunFolder.open(path)
    with RunFolder.open(path), pytest.raises(BadRun, match=r"\(whole\)"):
        RunFolder.open(path, "1-of-2")


HOLDER = """
import sys, time
from pathlib import Path
from besiege.core.store import RunFolder, _database, _stoppable
with RunFolder.open(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BadRun, match=f"process {holder.pid} on"):
            RunFolder.open(path)
        holder.kill()
    with RunFolder.open(path):
        pass


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with RunFolder.open(tmp_path / "run"), RunFolder.open(tmp_path / "run"):
        pass


def test_all_damaged_shards_are_found_among_many(run):
    places = [run.write_shard(*shard(ids=(i,)), {}) for i in range(12)]
    for place in places[3:5]:
        place.write_bytes(b"no parquet")
    assert len(run.rows()) == 10
    assert run.damaged() == sorted(f"cells/{p.stem}.damaged" for p in places[3:5])


def test_shards_of_another_version_are_named_and_kept(run):
    place = run.write_shard(*shard(), {})
    with duckdb.connect() as db:
        db.execute(f"COPY (SELECT 'x' AS cell, 1 AS id) TO '{place}' (FORMAT parquet)")
    run.write_shard(*shard(ids=(7,)), {})
    with pytest.raises(BadRun, match="was written by another version of besiege"):
        run.rows()
    assert place.exists()
    assert run.damaged() == []


def test_what_is_lacking_is_counted(run):
    assert run.lacking() == 2
    run.write_shard(*shard(ids=(2, 3)), {})  # 3 was not asked for
    assert run.lacking() == 1
    run.write_shard(*shard("b" * 16, ids=(1,)), {})  # nor was that cell
    assert run.lacking() == 1
    run.write_shard(*shard(ids=(1, 2)), {})
    assert run.lacking() == 0


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadRun, match="is not empty and holds no run"):
        RunFolder.open(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_a_place_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(BadRun, match=re.escape(f"{place} cannot be a run folder")):
            RunFolder.open(place)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    import builtins

    real = builtins.open

    def refuse(place, mode="r", *rest, **more):
        if "a" in mode:
            raise PermissionError(13, "Permission denied")
        return real(place, mode, *rest, **more)

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(BadRun, match=r"cannot be written \(Permission denied\): name another"):
        RunFolder.open(tmp_path / "run")


def test_ctrl_c_in_the_database_is_ctrl_c():
    """DuckDB raises another error then, which a damaged shard or a crash could be taken for."""
    # A shell that runs the suite in its background has it ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    stop = threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,))
    endless = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range < b.range"
    stop.start()
    try:
        with _database() as db, pytest.raises(KeyboardInterrupt), _stoppable():
            db.execute(endless).fetchall()
    finally:
        signal.signal(signal.SIGINT, before)
