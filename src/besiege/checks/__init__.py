"""Floor 1: checks of an evaluation, pure functions from recorded evidence to findings."""
