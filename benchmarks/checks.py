"""How often checks miss what is broken, and cry at what is sound: python -m benchmarks.checks 8

Asks every item of `besiege.laws.broken` on other digits for each seed, and prints two tables in
Markdown. About 30 s a seed on one core.
"""

from __future__ import annotations

import sys
from collections import Counter

import torch

from besiege.checks.catalog import CHECKS
from besiege.laws.broken import BROKEN, CONTROLS


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    print("| broken | its checks | named |\n|---|---|---|")
    for item in BROKEN:
        named = sum(item.named(seed) for seed in range(seeds))
        print(f"| {item.name} | {', '.join(map(str, item.checks))} | {named} of {seeds} |")
    cries: dict[str, Counter[str]] = {}
    for item in CONTROLS:
        for seed in range(seeds):
            found = {(f.number, f.level) for f in item.ask(seed)}
            for number, level in found:
                told = f"{number} {CHECKS[number].name} | {level}"
                cries.setdefault(told, Counter())[item.name] += 1
    names = [item.name for item in CONTROLS]
    print(f"\n| check | level | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
    for told in sorted(cries, key=lambda t: int(t.split()[0])):
        row = " | ".join(f"{cries[told][name]} of {seeds}" for name in names)
        print(f"| {told} | {row} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
