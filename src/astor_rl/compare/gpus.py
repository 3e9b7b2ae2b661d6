"""Which of the machine's GPUs each of several runs at once sees."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from astor_rl.errors import DependencyError

VARIABLE = "CUDA_VISIBLE_DEVICES"
"""What names the GPUs that a process sees; torch heeds it for AMD's, too."""

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_COUNT = "import torch; print(torch.cuda.device_count())"


def visible(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the GPUs this process may use, as `VARIABLE` has them; empty without any.

    Counted in a process of its own: one that has asked the driver can't be given others any more.

    Raises:
        DependencyError: torch couldn't count them.
    """
    if VARIABLE in environment:
        names = [name.strip() for name in environment[VARIABLE].split(",")]
        # The driver's rule: nothing after the first name that is none counts.
        end = next((i for i, name in enumerate(names) if name in {"", "-1"}), len(names))
        return names[:end]
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return []
    counted = subprocess.run(
        [sys.executable, "-c", _COUNT], capture_output=True, text=True, check=False
    )
    if counted.returncode:
        said = (counted.stderr.strip().splitlines() or ["nothing"])[-1]
        raise DependencyError(
            f"torch can't count this machine's GPUs; it said: {said}. Name them in {VARIABLE}, or "
            "set it to nothing to use none"
        )
    return [str(index) for index in range(int(counted.stdout))]


def divide(gpus: Sequence[str], jobs: int) -> list[tuple[str, ...]]:
    """Which GPUs each of `jobs` runs at once sees: equally many, disjoint while there are enough.

    What doesn't divide is left idle, so that every run trains alike. With more jobs than GPUs each
    has one, and some share it. Without GPUs all are empty.
    """
    each = max(1, len(gpus) // jobs)
    starts = [job * each % len(gpus) if gpus else 0 for job in range(jobs)]
    return [tuple(gpus[start : start + each]) for start in starts]


def remark(gpus: Sequence[str], jobs: int) -> str:
    """What to say of the division, in a line; empty when there is nothing to divide."""
    if not gpus or jobs == 1:
        return ""
    if jobs > len(gpus):
        return f"{jobs} runs at once share {len(gpus)} GPUs"
    idle = len(gpus) % jobs
    rest = f", {idle} idle: jobs doesn't divide {len(gpus)}" if idle else ""
    return f"{len(gpus) // jobs} of {len(gpus)} GPUs each{rest}"
