"""Who does the training."""
