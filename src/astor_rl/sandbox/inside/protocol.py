"""What both ends of a zygote's control socket agree on."""

from __future__ import annotations

import struct
from typing import Final

KILL: Final = b"kill"
"""From the pool, while a job runs: end it now."""
STARTED: Final = b"started"
"""From the zygote, with a descriptor of the job's process, of a job that runs longer."""
UNWATCHED_S: Final = 0.25
"""How long a job runs before that is said, seconds: most have ended by then."""
LIMITS: Final = struct.Struct("=dqqqqqq?")
"""To the zygote with each job: `LIMIT_NAMES` in order. No JSON: each page that the zygote writes
to after a fork has to be copied."""
LIMIT_NAMES: Final = (
    "wall_s", "cpu_s", "memory", "file", "open_files", "processes", "output", "seccomp",
)  # fmt: skip
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
