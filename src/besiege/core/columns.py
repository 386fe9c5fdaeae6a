"""Columns of a run folder's tables, with their DuckDB types."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

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
    "size": "DOUBLE",
    "claim": "DOUBLE",
    "lucky": "BOOLEAN",
    "point": "VARCHAR",
    "forwards": "BIGINT",
    "backwards": "BIGINT",
    "seconds": "DOUBLE",
    "flags": "VARCHAR[]",
    "again": "DOUBLE",
    "idle": "DOUBLE",
    "bare": "DOUBLE",
}
TRACE_COLUMNS: Mapping[str, str] = {
    "cell": "VARCHAR",
    "id": "BIGINT",
    "loss": "FLOAT[]",
    "won": "FLOAT[]",
    "judged_step": "INTEGER[]",
    "judged": "FLOAT[]",
    "judged_won": "FLOAT[]",
    "passes": "BIGINT[]",
}
# Those that older folders lack, where they are read as None.
LATER: Mapping[str, str] = {
    "passes": TRACE_COLUMNS["passes"],
    **{name: ROW_COLUMNS[name] for name in ("again", "idle", "bare")},
}


def as_column(values: Any) -> Any:
    """A NumPy column; lists of lists become an object column, whatever their lengths."""
    if isinstance(values, np.ndarray):
        return values
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def shard_name(rows: Mapping[str, Any]) -> str:
    """Named after its cell and ids, so that the same shard made twice is one file."""
    ids = [int(i) for i in rows["id"]]
    digest = hashlib.sha256(",".join(map(str, sorted(ids))).encode()).hexdigest()[:8]
    return f"{rows['cell'][0]}-{min(ids):08d}-{digest}.parquet"
