"""The coordinator on a driver among many engines: its share of a step, and what it sends."""
