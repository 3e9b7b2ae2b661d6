"""What the tests of tasks share: a real sandbox, and property tests without a stopwatch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from astor_rl.sandbox.pool import ProcessPool

# A busy machine must not fail a property.
settings.register_profile("tasks", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tasks")


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPool]:
    """Two sandboxed workers."""
    with ProcessPool(2) as workers:
        yield workers
