"""The engines that tests run on: those of this machine, and Ray where it is installed."""

import os
import sys
from collections.abc import Callable

import pytest

from besiege.study.engines.engine import Engine
from besiege.study.engines.local import InProcess, Processes
from besiege.study.engines.ray import Ray

NO_RAY = "Ray is not installed: `make test-ray` installs it and runs these"


@pytest.fixture
def engine_at(monkeypatch) -> Callable[[str], Engine]:
    """The engine of a name such as "local-2" or "ray-2"; "local-1" stays in this process."""

    def engine(name: str) -> Engine:
        kind, _, workers = name.partition("-")
        if kind == "ray":
            pytest.importorskip("ray", reason=NO_RAY)
            # Workers must find the test's own classes, as pytest found them.
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
            return Ray(int(workers))
        return InProcess() if workers == "1" else Processes(int(workers))

    return engine
