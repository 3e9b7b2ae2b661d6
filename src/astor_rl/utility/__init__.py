"""What is each task worth now? Learning potential, cross-task synergy, and their sum."""
