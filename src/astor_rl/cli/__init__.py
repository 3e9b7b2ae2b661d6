"""The command line. It only wires: every command is one call into the rooms below.

Rooms are imported when a command needs them, so that `astor --help` answers at once.
"""

import os

# Read once, when torch loads OpenMP. By default its threads spin for long at barriers, which on
# cores that others use too cost a factor of ten in sampling (41 against 600 tokens/s); sleeping at
# once (OMP_WAIT_POLICY=PASSIVE) made an update on idle cores slower by half (4.6 s against 3.0).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Large tensors on huge pages where the kernel leaves the choice: half the time in page faults.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from astor_rl.cli.app import main

__all__ = ["main"]
