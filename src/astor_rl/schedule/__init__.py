"""Module 1: what to train on next. Task quotas, then prompts inside a task."""
