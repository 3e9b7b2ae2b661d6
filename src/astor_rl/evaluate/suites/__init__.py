"""Public benchmarks: their data, their rules, and figures with standard errors."""
