"""What is Ray's alone; what all engines share is in test_engines.py and test_conformance.py."""

import sys

import pytest

from besiege.core.errors import BadRun, BadSetting
from besiege.study.engines.engine import Task
from besiege.study.engines.local import InProcess, Processes
from besiege.study.engines.ray import Ray
from besiege.study.experiment.tables import EngineTable
from besiege.study.run import engine_of


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadSetting, match=r'pip install "besiege\[ray\]"'):
        next(Ray().run(list, [Task("cell", (1,))]))


def test_importing_the_engine_does_not_import_ray():
    assert "ray" not in vars(sys.modules["besiege.study.engines.ray"])


SETTINGS = [
    ({}, InProcess()),
    ({"workers": 3, "threads": 2}, Processes(3, 2)),
    ({"kind": "ray", "workers": 3}, Ray(3)),
    ({"kind": "ray", "address": "auto", "device": "cuda"}, Ray(1, 1, "auto", 1.0)),
]


@pytest.mark.parametrize(("settings", "engine"), SETTINGS, ids=[str(s) for s, _ in SETTINGS])
def test_the_settings_choose_the_engine(settings, engine):
    assert engine_of(EngineTable(**settings)) == engine


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto", "nowhere"])
def test_a_cluster_that_does_not_answer_is_named(address, engine_at):
    engine_at("ray-1")  # skips where Ray is absent
    with pytest.raises(BadRun, match=f'no Ray cluster answers at "{address}"'):
        next(Ray(address=address).run(list, [Task("cell", (1,))]))


def test_a_ray_that_was_there_before_stays(engine_at):
    engine = engine_at("ray-1")
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        (outcome,) = engine.run(_Built, [Task("cell", (1,))])
        assert outcome.error == "KeyError: (1,)"
        assert ray.is_initialized()
    finally:
        ray.shutdown()


class _Built:
    def __call__(self, task):
        raise KeyError(task.ids)
