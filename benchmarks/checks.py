"""How often checks miss what is broken, and cry at what is sound: python -m benchmarks.checks 8

Asks every item of `besiege.laws.broken` and `broken_unions` on other digits for each seed, about
45 s a seed on one core, and every case of `besiege.laws.simulated` 2,000 times, about 25 s; 0 seeds
for these alone.
Prints tables in Markdown.
"""

from __future__ import annotations

import sys
from collections import Counter

import torch

from besiege.checks.catalog import CHECKS
from besiege.laws.broken import BROKEN, CONTROLS
from besiege.laws.broken_unions import SOUND_UNIONS, UNIONS
from besiege.laws.simulated import BLIND, CASES

TIMES = 2000


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    _simulated()
    if seeds:
        _zoo(seeds)


def _simulated() -> None:
    print("| check | simulated | meant | named |\n|---|---|---|---|")
    for case in (*CASES, *BLIND):
        about = f"{case.check} {CHECKS[case.check].name}"
        print(f"| {about} | {case.name} | {'yes' if case.fault else 'no'} | {case.rate(TIMES)} |")
    print()


def _zoo(seeds: int) -> None:
    print("| broken | its checks | named |\n|---|---|---|")
    for item in (*BROKEN, *UNIONS):
        named = sum(item.named(seed) for seed in range(seeds))
        print(f"| {item.name} | {', '.join(map(str, item.checks))} | {named} of {seeds} |")
    cries: dict[str, Counter[str]] = {}
    for item in (*CONTROLS, *SOUND_UNIONS):
        for seed in range(seeds):
            found = {(f.number, f.level) for f in item.ask(seed)}
            for number, level in found:
                told = f"{number} {CHECKS[number].name} | {level}"
                cries.setdefault(told, Counter())[item.name] += 1
    names = [item.name for item in (*CONTROLS, *SOUND_UNIONS)]
    print(f"\n| check | level | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
    for told in sorted(cries, key=lambda t: int(t.split()[0])):
        row = " | ".join(f"{cries[told][name]} of {seeds}" for name in names)
        print(f"| {told} | {row} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
