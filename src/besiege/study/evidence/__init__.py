"""What the checks are shown of a run."""
