"""All benchmarks in turn; exits 1 if one misses its target."""

from benchmarks import engines, keys, pgd, transforms

if __name__ == "__main__":
    met = [bench() for bench in (keys.bench, transforms.bench, pgd.bench, engines.bench)]
    raise SystemExit(not all(met))
