"""Where the time of a run goes: python -m benchmarks.profile.

bpda+eot on FD+RDG before ResNet-20 (without the reference data: the digits), in this process. Each
line is the time inside one function and all that it calls, so that lines that contain one another
do not add up.
"""

import cProfile
import pstats
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.pgd import DATA
from besiege.report.page import write_report
from besiege.study.experiment.experiment import Experiment, experiment_from
from besiege.study.run import run_experiment

# (part of the file's path, function) -> what it is
PLACES = {
    ("models/classifier.py", "forward"): "the network, forward",
    ("", "<method 'run_backward' of 'torch._C._EngineBase' objects>"): "all backward passes",
    ("feature_distillation.py", "forward"): "FD, exact",
    ("feature_distillation.py", "_soft"): "FD, surrogate",
    ("random_distortion.py", "forward"): "RDG",
    ("defenses/transform.py", "draw"): "draws of the defense",
    ("study/judge.py", "judge"): "the judge",
    ("core/store.py", "write_shard"): "writing rows, traces and images",
    ("study/prepared.py", "prepare"): "loading model and images",
    ("report/page.py", "write_report"): "the report",
}


def experiment() -> Experiment:
    """Small enough for a minute."""
    real = DATA.is_dir()
    packed = f"packed:path={DATA / 'cifar10_test_subset.npz'}"
    return experiment_from(
        {
            "data": {"source": packed if real else "digits", "n": 32},
            "model": f"file:{DATA / 'cifar10_resnet20.safetensors'}" if real else "digits-cnn",
            "defense": [{"name": "FD+RDG", "chain": "fd + rdg:cells=4"}],
            "threat": [{"ball": "linf", "eps": "8/255"}],
            "recipe": [{"kind": "none"}, {"kind": "bpda+eot", "steps": 20}],
            "engine": {"micro_batch": 64, "batch": 32},
        }
    )


def bench() -> bool:
    """Print the table; there is no target."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    profiler = cProfile.Profile()
    with TemporaryDirectory() as folder:
        profiler.enable()
        write_report(run_experiment(experiment(), Path(folder) / "run"))
        profiler.disable()
    torch.set_num_threads(before)
    stats = pstats.Stats(profiler)
    total: float = stats.total_tt  # type: ignore[attr-defined]
    table = Table(title=f"{total:.1f} s in all")
    for column in ("part", "s", "%"):
        table.add_column(column, justify="left" if column == "part" else "right")
    inside = {}
    for (file, _, name), (*_, cumulative, _) in stats.stats.items():  # type: ignore[attr-defined]
        for (path, function), title in PLACES.items():
            if name == function and path in file.replace("\\", "/"):
                inside[title] = inside.get(title, 0.0) + cumulative
    for title, seconds in sorted(inside.items(), key=lambda item: -item[1]):
        table.add_row(title, f"{seconds:.2f}", f"{100 * seconds / total:.1f}")
    Console().print(table)
    return True


if __name__ == "__main__":
    bench()
