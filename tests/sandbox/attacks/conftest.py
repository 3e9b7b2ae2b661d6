"""A pool for the attacks alone, and what it held before the first."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from benchmarks.attacks import trial
from benchmarks.attacks.traces import Traces

from astor_rl.sandbox.pool import ProcessPool


@pytest.fixture(scope="session")
def attacked() -> Iterator[ProcessPool]:
    # One worker: it is the attack's own zygote that must serve the next job.
    with ProcessPool(1) as pool:
        yield pool


@pytest.fixture(scope="session")
def seen(attacked: ProcessPool) -> list[Traces]:
    """What the pool held before the attacks: the last entry counts."""
    return [trial.baseline(attacked)]
