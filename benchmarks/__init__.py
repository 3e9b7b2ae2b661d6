"""Benchmarks: each a package with a `__main__`, run by a `make bench-...` target."""
