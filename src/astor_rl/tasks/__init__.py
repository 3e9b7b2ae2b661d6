"""The four coding tasks, and yours."""
