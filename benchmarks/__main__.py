"""All benchmarks in turn; exits 1 if one misses its target."""

from benchmarks import draws, engines, keys, pgd, profile, total_variation, transforms

if __name__ == "__main__":
    parts = (keys, transforms, total_variation, pgd, draws, profile, engines)
    met = [part.bench() for part in parts]
    raise SystemExit(not all(met))
