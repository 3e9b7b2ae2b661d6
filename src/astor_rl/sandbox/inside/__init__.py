"""Runs inside the sandbox's own interpreter, which has the standard library and nothing else.

Imported by name from a bare `python -P -s -S -B`; never imports the rest of the package.
"""
