"""Columns of a run folder's tables, with their DuckDB types."""

from __future__ import annotations

from collections.abc import Mapping

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
