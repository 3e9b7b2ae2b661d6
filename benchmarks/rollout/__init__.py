"""Rollouts: our two samplers beside `generate` and vLLM's own offline interface."""
