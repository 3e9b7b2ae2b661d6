"""Training on one machine: CPU, or one process per GPU."""
