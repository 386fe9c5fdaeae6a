"""Run folders: rows in Parquet shards that appear whole or not at all.

DIR/experiment.toml   as given                 DIR/cells/CELL-*.parquet    a row per example
DIR/resolved.json     settings, cells, ids     DIR/traces/CELL-*.parquet   figures per step
DIR/environment.json  versions                 DIR/images/CELL-ID.npz      a few examples
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from besiege.core.errors import BadRun

ROW_COLUMNS: Mapping[str, str] = {
    "cell": "VARCHAR",
    "id": "BIGINT",
    "label": "INTEGER",
    "target": "INTEGER",
    "predicted": "INTEGER[]",
    "linf": "DOUBLE",
    "l2": "DOUBLE",
    "rms": "DOUBLE",
    "l1": "DOUBLE",
    "l0": "DOUBLE",
    "claim": "DOUBLE",
    "lucky": "BOOLEAN",
    "point": "VARCHAR",
    "forwards": "BIGINT",
    "backwards": "BIGINT",
    "seconds": "DOUBLE",
    "flags": "VARCHAR[]",
}
TRACE_COLUMNS: Mapping[str, str] = {
    "cell": "VARCHAR",
    "id": "BIGINT",
    "loss": "FLOAT[]",
    "won": "FLOAT[]",
    "judged_step": "INTEGER[]",
    "judged": "FLOAT[]",
    "judged_won": "FLOAT[]",
}
LOCK = "lock"


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. Reading needs no more than the path; `open` is for writing.

    Every file is written beside its place, forced to disk and renamed, so that a kill at any time
    leaves whole files only.
    """

    path: Path

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder at `path`, made if need be and locked until the `with` block ends.

        Raises BadRun if it cannot be written, holds something else, or another run works on it.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            foreign = any(path.iterdir()) and not (path / "resolved.json").exists()
        except OSError as error:
            raise BadRun(
                f"{path} cannot be a run folder ({error.strerror}): name another with --out."
            ) from error
        if foreign and [p.name for p in path.iterdir()] != [LOCK]:
            raise BadRun(
                f"{path} is not empty and holds no run (no resolved.json in it): name a new "
                "folder, or that of a run to resume."
            )
        folder = cls(path)
        folder._lock()
        for part in ("cells", "traces", "images"):
            (path / part).mkdir(exist_ok=True)
        return folder

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        (self.path / LOCK).unlink(missing_ok=True)

    def _lock(self) -> None:
        """Hold the folder for this process; a lock whose process is gone is taken over."""
        lock = self.path / LOCK
        try:
            with open(lock, "x") as file:
                file.write(str(os.getpid()))
            return
        except FileExistsError:
            text = lock.read_text()
        except OSError as error:
            raise BadRun(
                f"{self.path} cannot be written ({error.strerror}): name another folder with --out."
            ) from error
        if text.isdigit() and int(text) != os.getpid() and _alive(int(text)):
            raise BadRun(
                f"process {text} is running on {self.path}: wait for it, or name another folder. "
                f"If that process is no run of besiege, remove {lock}."
            )
        lock.write_text(str(os.getpid()))

    # Writing

    def write_experiment(
        self, given: str, resolved: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> None:
        """The settings as given and as resolved, and the versions.

        Cells of other settings that the folder was run with before are listed under "earlier".
        """
        before = self.resolved()
        earlier = {c["cell"]: c for c in (*before.get("earlier", ()), *before.get("cells", ()))}
        for cell in resolved["cells"]:
            earlier.pop(cell["cell"], None)
        whole = {**resolved, "earlier": list(earlier.values())}
        self._put("resolved.json", json.dumps(whole, indent=1).encode())
        self._put("environment.json", json.dumps(environment, indent=1).encode())
        self._put("experiment.toml", given.encode())

    def write_shard(
        self,
        rows: Mapping[str, Any],
        traces: Mapping[str, Any] | None,
        images: Mapping[int, Mapping[str, Any]],
    ) -> Path:
        """One batch of a cell; the rows come last, since they say that it is finished."""
        name = _shard_name(rows)
        cell = rows["cell"][0]
        for image_id, parts in images.items():
            buffer = io.BytesIO()
            arrays: dict[str, Any] = {k: np.asarray(v) for k, v in parts.items()}
            np.savez_compressed(buffer, **arrays)
            self._put(f"images/{cell}-{image_id}.npz", buffer.getvalue())
        if traces is not None:
            self._put_table(f"traces/{name}", traces, TRACE_COLUMNS)
        return self._put_table(f"cells/{name}", rows, ROW_COLUMNS)

    def write_report(self, page: str) -> Path:
        """The page of the run."""
        self._put("report.html", page.encode())
        return self.path / "report.html"

    def _put(self, name: str, content: bytes) -> None:
        place = self.path / name
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(place)

    def _put_table(self, name: str, columns: Mapping[str, Any], types: Mapping[str, str]) -> Path:
        place = self.path / name
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        select = ", ".join(f"CAST({c} AS {t}) AS {c}" for c, t in types.items())
        with duckdb.connect(config={"threads": 1}) as db:
            db.register("given", {c: _column(columns[c]) for c in types})
            db.execute(
                f"COPY (SELECT {select} FROM given ORDER BY id) TO '{_quoted(beside)}' "
                "(FORMAT parquet, COMPRESSION zstd)"
            )
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        beside.replace(place)
        return place

    # Reading

    def damaged(self) -> list[str]:
        """Shards that could not be read and were set aside."""
        return sorted(str(p.relative_to(self.path)) for p in self.path.glob("*/*.damaged"))

    def resolved(self) -> dict[str, Any]:
        """What resolved.json says; empty where there is none."""
        place = self.path / "resolved.json"
        return json.loads(place.read_text()) if place.exists() else {}

    def environment(self) -> dict[str, Any]:
        """What environment.json says; empty where there is none."""
        place = self.path / "environment.json"
        return json.loads(place.read_text()) if place.exists() else {}

    def finished(self, cell: str) -> set[int]:
        """The ids of a cell that have a row. Damaged shards are set aside, so they are redone."""
        return {row["id"] for row in self._read("cells", ["cell", "id"], f"{cell}-*.parquet")}

    def rows(self) -> list[dict[str, Any]]:
        """All rows by cell and id, one per (cell, id)."""
        return self._read("cells", list(ROW_COLUMNS), "*.parquet")

    def traces(self) -> list[dict[str, Any]]:
        """All traces by cell and id, one per (cell, id)."""
        return self._read("traces", list(TRACE_COLUMNS), "*.parquet")

    def kept(self) -> list[tuple[str, int]]:
        """(cell, id) of the examples whose images were kept."""
        names = (p.stem.partition("-") for p in sorted((self.path / "images").glob("*.npz")))
        return [(cell, int(image_id)) for cell, _, image_id in names]

    def image_file(self, cell: str, image_id: int) -> Path:
        """Where the images of one example of a cell are kept."""
        return self.path / "images" / f"{cell}-{image_id}.npz"

    def image(self, cell: str, image_id: int) -> dict[str, Any]:
        """The kept arrays of one example of a cell. Raises BadRun for a damaged or missing file."""
        place = self.image_file(cell, image_id)
        try:
            with open(place, "rb") as file, np.load(file) as arrays:
                return {k: arrays[k] for k in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BadRun(f"{place} cannot be read ({error}).") from error

    def images(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """(cell, id, arrays) of the examples whose images were kept."""
        for cell, image_id in self.kept():
            yield cell, image_id, self.image(cell, image_id)

    def _read(self, part: str, columns: Sequence[str], pattern: str) -> list[dict[str, Any]]:
        shards = [p for p in sorted((self.path / part).glob(pattern)) if _whole(p)]
        if not shards:
            return []
        with duckdb.connect(config={"threads": 1}) as db:
            found = db.execute(
                f"SELECT DISTINCT ON (cell, id) {', '.join(columns)} FROM read_parquet($1, "
                "filename = true) ORDER BY cell, id, filename",
                [[str(p) for p in shards]],
            )
            return [dict(zip(columns, row, strict=True)) for row in found.fetchall()]


def _shard_name(rows: Mapping[str, Any]) -> str:
    """Named after its cell and ids, so that the same shard made twice is one file."""
    ids = [int(i) for i in rows["id"]]
    digest = hashlib.sha256(",".join(map(str, sorted(ids))).encode()).hexdigest()[:8]
    return f"{rows['cell'][0]}-{min(ids):08d}-{digest}.parquet"


def _column(values: Any) -> Any:
    """A NumPy column; lists of lists become an object column, whatever their lengths."""
    if isinstance(values, np.ndarray):
        return values
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _whole(shard: Path) -> bool:
    """Whether a shard can be read; one that cannot is renamed to *.damaged and is made again."""
    try:
        with duckdb.connect(config={"threads": 1}) as db:
            db.execute("SELECT count(id) FROM read_parquet($1)", [str(shard)]).fetchall()
    except duckdb.Error:
        shard.replace(shard.with_suffix(".damaged"))
        return False
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
