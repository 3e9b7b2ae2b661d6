"""What both ends of a zygote's control socket agree on."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

KILL: Final = b"kill"
"""From the pool, while a job runs: end it now."""
STARTED: Final = b"started"
"""From the zygote, with a descriptor of the job's process, of a job that runs longer."""
UNWATCHED_S: Final = 0.25
"""How long a job runs before that is said, seconds: most have ended by then."""
LIMITS: Final = struct.Struct("=dqqqqqq??")
"""To the zygote with each job: the fields of `Granted`. No JSON: each page that the zygote writes
to after a fork has to be copied."""


class Granted(NamedTuple):
    """What a job may use, and what it has.

    Attributes:
        wall_s: wall-clock seconds until it is killed.
        cpu_s: CPU seconds.
        memory, file, output: bytes of address space, of a file, and of results.
        open_files, processes: how many; the latter beyond the first.
        seccomp: whether it loads a filter of its own.
        stdin: whether there is text on its standard input.
    """

    wall_s: float
    cpu_s: int
    memory: int
    file: int
    open_files: int
    processes: int
    output: int
    seccomp: bool
    stdin: bool


REPORT: Final = struct.Struct("=i?dqd?")
"""From the zygote: wait status, whether the deadline killed it, CPU seconds, peak resident KiB,
wall seconds, whether the scratch directory is empty."""
DESCRIPTORS: Final = 4
"""With each job: its source, its results, standard output, standard error."""
WORK: Final = "/box"
"""The job's scratch directory inside its own root."""
END: Final = "end"
"""First item of a harness's last message; without it the process left early."""
STUCK: Final = 86
"""Exit code of a job whose code swallowed every deadline."""
