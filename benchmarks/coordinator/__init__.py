"""The coordinator at scale: a step's plan and observations, by prompts, tasks and prompts seen."""
