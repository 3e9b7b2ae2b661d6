"""The command line. It only wires: every command is one call into the rooms below.

Rooms are imported when a command needs them, so that `astor --help` answers at once.
"""

from astor_rl.cli.app import main

__all__ = ["main"]
