"""Schedulers that others published, for comparison (docs/baselines.md)."""
