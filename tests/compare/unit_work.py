"""What a worker may be given to do in tests: importable by name, and cheap."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from astor_rl.compare.records import evaluation_file
from astor_rl.compare.units import AFTER, Unit

FAILING = "broken"
"""Arms of this name fail."""


def finish(unit: Unit) -> int:
    """What a successful unit leaves; one of `FAILING` says why it fails, instead."""
    sys.stdout.write(f"making {unit.name}\n")
    if unit.arm == FAILING:
        sys.stderr.write("error: something is wrong\n\n")
        return 1
    _leave_result(unit)
    return 0


def tell_gpus(unit: Unit) -> int:
    """Leave which GPUs it sees, and from when to when it ran."""
    began = time.monotonic()
    time.sleep(0.05)
    _leave_result(unit, gpus=os.environ["CUDA_VISIBLE_DEVICES"], began=began)
    return 0


def crash(unit: Unit) -> int:
    """Die as the kernel kills a process that takes too much memory."""
    if unit.arm == FAILING:
        sys.stdout.write("step 12 of 85\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    _leave_result(unit)
    return 0


def last(unit: Unit) -> int:
    """Go on until asked to stop; then say so in the unit's folder."""
    unit.folder.mkdir(parents=True, exist_ok=True)
    (unit.folder / "pid").write_text(str(os.getpid()))
    try:
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        (unit.folder / "asked").touch()
        return 130


def stubborn(unit: Unit) -> int:
    """Ends only by force."""
    unit.folder.mkdir(parents=True, exist_ok=True)
    (unit.folder / "pid").write_text(str(os.getpid()))
    while True:
        try:
            time.sleep(0.01)
        except KeyboardInterrupt:
            continue


def _leave_result(unit: Unit, **more: str | float) -> None:
    path: Path = evaluation_file(unit, AFTER)
    path.parent.mkdir(parents=True, exist_ok=True)
    made: dict[str, Any] = {"at": time.monotonic(), "times": 1, **more}
    if path.exists():
        made["times"] = json.loads(path.read_text())["times"] + 1
    path.write_text(json.dumps(made))
