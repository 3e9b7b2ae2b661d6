"""Held-out evaluation: scores of models on examples and on published benchmarks."""
