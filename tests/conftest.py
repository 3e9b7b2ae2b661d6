"""Fixtures and rules every room shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A deadline is a wall-clock limit: on a busy machine it fails what is right.
settings.register_profile("astor", deadline=None)
settings.load_profile("astor")

# As the command line sets it, before anything loads torch.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-shared",
        action="store_true",
        help="fail, instead of skip, tests that need the shared data folder when it is absent",
    )


@pytest.fixture(scope="session")
def shared_data(request: pytest.FixtureRequest) -> Path:
    """The team's shared data folder; the test skips, with the reason, where it is absent."""
    root = Path(os.environ.get("ASTOR_SHARED", Path(__file__).parents[2] / "shared"))
    data = root / "data"
    if not data.is_dir():
        reason = f"no shared data at {data} (set ASTOR_SHARED)"
        if request.config.getoption("--require-shared"):
            pytest.fail(reason)
        pytest.skip(reason)
    return data
