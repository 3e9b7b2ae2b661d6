"""Which of the machine's GPUs each of several runs at once sees."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from astor_rl.errors import DependencyError

_CUDA, _HIP = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_ASK = "import torch; print(); print(torch.cuda.device_count(), bool(torch.version.hip))"
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs that a process may use.

    Attributes:
        names: as `variable` has them, in its order.
        variable: the environment variable that shows a process some of them only.
    """

    names: tuple[str, ...] = ()
    variable: str = _CUDA


@dataclass(frozen=True, slots=True)
class Place:
    """What a run at one of several places sees: `variable` set to `value`; empty, all as it is."""

    variable: str = ""
    value: str = ""


def visible() -> Gpus:
    """The GPUs that torch finds here, none on a machine without a driver for any.

    It is asked in a process of its own: one that has asked the driver can't be given others.

    Raises:
        DependencyError: it couldn't tell.
    """
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return Gpus()
    # -P: no module of the working folder's stands in torch's place.
    command = [sys.executable, "-P", "-c", _ASK]
    try:
        asked = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise _uncounted(f"nothing in {_PATIENCE_S:.0f} s") from None
    if asked.returncode:
        raise _uncounted(asked.stderr)
    try:
        count, is_amd = asked.stdout.splitlines()[-1].split()
        found = int(count)
    except (ValueError, IndexError):
        raise _uncounted(asked.stdout) from None
    variable = _HIP if is_amd == "True" else _CUDA
    given = os.environ.get(variable, os.environ.get(_CUDA))
    if given is None:
        return Gpus(tuple(str(index) for index in range(found)), variable)
    # Torch stops at the first name that is none: as many as it found are those.
    return Gpus(tuple(name.strip() for name in given.split(",")[:found]), variable)


def _uncounted(said: str) -> DependencyError:
    last = (said.strip().splitlines() or ["nothing"])[-1]
    return DependencyError(
        f"torch can't count this machine's GPUs; it said: {last}. Set jobs = 1, so that there is "
        f'nothing to divide, or {_CUDA}="" to use none'
    )


def divide(gpus: Gpus, jobs: int) -> list[Place]:
    """What each of `jobs` runs at once sees: equally many, disjoint while there are enough.

    What doesn't divide is left idle, so that every run trains alike. With more jobs than GPUs each
    has one, and some share it. Without GPUs, or alone, runs see what there is.
    """
    names = gpus.names
    if not names or jobs == 1:
        return [Place()] * jobs
    each = max(1, len(names) // jobs)
    starts = [job * each % len(names) for job in range(jobs)]
    return [Place(gpus.variable, ",".join(names[start : start + each])) for start in starts]


def remark(gpus: Gpus, jobs: int) -> str:
    """What to say of the division, in a line; empty when there is nothing to divide."""
    count = len(gpus.names)
    if not count or jobs == 1:
        return ""
    if jobs > count:
        return f"{jobs} runs at once share {count} GPU{'s' if count > 1 else ''}"
    idle = count % jobs
    rest = f", {idle} idle: jobs doesn't divide {count}" if idle else ""
    return f"{count // jobs} of {count} GPUs each{rest}"


def see(place: Place) -> None:
    """Show this process, and those it starts, its place's GPUs only."""
    if place.variable:
        os.environ[place.variable] = place.value
