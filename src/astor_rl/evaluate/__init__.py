"""Held-out evaluation and the comparison of runs."""
