"""Floor 0: keyed draws, entries, errors, statistics and run folders. Imports nothing above."""
