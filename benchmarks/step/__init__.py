"""A whole RL step: ours beside TRL's GRPOTrainer, on the same prompts, lengths and rewards."""
