"""A short soak, as `make soak-sandbox` runs a long one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_GROWTH_KIB = 16 << 10


@pytest.mark.slow
def test_500_jobs_leave_nothing_and_are_judged_right(tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    command = [sys.executable, "-m", "benchmarks.soak_sandbox", "--jobs", "500"]
    # A share that keeps the deadlines of hostile jobs from being most of the time.
    options = ["--hostile", "0.1", "--workers", "2", "--seed", "1", "--output", str(output)]
    done = subprocess.run(
        [*command, *options], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == json.loads(output.read_text())
    assert result["jobs"] == sum(result["statuses"].values()) == 500
    assert result["wrong_verdicts"] == result["orphans"] == 0
    assert result["descriptors_after"] == result["descriptors_before"]
    for name in ("parent_resident_kib", "zygote_resident_kib"):
        first, *later = result[name]
        assert len(later) == 4
        assert 0 < max(later) <= first + _GROWTH_KIB
