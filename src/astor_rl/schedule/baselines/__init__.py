"""Schedulers that others published, for comparison."""
