"""Where examples come from: JSON lines, Hugging Face datasets, mined repositories."""
