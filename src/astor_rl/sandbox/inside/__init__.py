"""Runs inside the sandbox's own interpreter: the standard library, where tests are run pytest, and
coverage.py.

Imported by name from a bare `python -P -s -S -B`; of the rest of the package it imports how values
are written (`sandbox.codec`) and nothing else.
"""
