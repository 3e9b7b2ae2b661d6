"""Fixtures every room shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The team's shared data folder; the test skips, with the reason, where it is absent."""
    root = Path(os.environ.get("ASTOR_SHARED", Path(__file__).parents[2] / "shared"))
    data = root / "data"
    if not data.is_dir():
        pytest.skip(f"no shared data at {data} (set ASTOR_SHARED)")
    return data
