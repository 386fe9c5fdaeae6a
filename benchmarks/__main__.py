"""All benchmarks in turn; exits 1 if one misses its target."""

from benchmarks import (
    draws,
    engines,
    inner_networks,
    keys,
    memory,
    pgd,
    profile,
    total_variation,
    transforms,
)

if __name__ == "__main__":
    links = (transforms, total_variation, inner_networks, memory)
    parts = (keys, *links, pgd, draws, profile, engines)
    met = [part.bench() for part in parts]
    raise SystemExit(not all(met))
