"""Random programs: the pool never hangs, never raises, always has a status, and stays well.

`python -m benchmarks.fuzz_sandbox --jobs N --seed S` runs any number of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


def _fuzz(jobs: int, seed: int) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.fuzz_sandbox"]
    done = subprocess.run(
        [*command, "--jobs", str(jobs), "--seed", str(seed)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["wrong"] == 0
    statuses: dict[str, int] = result["statuses"]
    assert sum(statuses.values()) == jobs
    return statuses


def test_random_programs() -> None:
    statuses = _fuzz(150, seed=1)
    # Of many kinds, or the generator makes only nonsense.
    assert {"ok", "error", "malformed"} <= set(statuses)


@pytest.mark.slow
def test_more_random_programs() -> None:
    _fuzz(400, seed=2)
