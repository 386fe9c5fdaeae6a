"""Engines map tasks to shards: in this process, in several, or elsewhere."""
