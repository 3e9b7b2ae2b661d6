"""The command line. It only wires: every command is one call into the rooms below.

Rooms are imported when a command needs them, so that `astor --help` answers at once.
"""

import os

# Read once, when torch loads OpenMP. Its threads spin at barriers by default, which on a machine
# whose cores the sandbox also uses cost a factor of ten in sampling (41 against 600 tokens/s).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from astor_rl.cli.app import main

__all__ = ["main"]
