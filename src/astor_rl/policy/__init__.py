"""GRPO on tensors: advantages, losses, packed sequences, gradient sketches."""
