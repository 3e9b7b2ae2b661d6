"""Runs untrusted code: one pool with a narrow API."""
