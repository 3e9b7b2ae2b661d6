"""What both ends of a zygote's control socket agree on."""

from __future__ import annotations

from typing import Final

KILL: Final = b"kill"
"""From the pool, while a job runs: end it now."""
STARTED: Final = b"started"
"""From the zygote, with a descriptor of the job's process."""
DESCRIPTORS: Final = 4
"""With each job: its source, its results, standard output, standard error."""
WORK: Final = "/box"
"""The job's scratch directory inside its own root."""
END: Final = "end"
"""First item of a harness's last message; without it the process left early."""
STUCK: Final = 86
"""Exit code of a job whose code swallowed every deadline."""
