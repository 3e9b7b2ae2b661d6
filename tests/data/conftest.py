"""What the tests of data share: a real sandbox, small packages to mine, rows to split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import HealthCheck, settings

from astor_rl.data.rows import Row
from astor_rl.sandbox.pool import ProcessPool

# A busy machine must not fail a property.
settings.register_profile("data", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("data")


@pytest.fixture(scope="session")
def sandbox() -> Iterator[ProcessPool]:
    with ProcessPool(2) as pool:
        yield pool


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ASTOR_CACHE", str(folder))
    return folder


@pytest.fixture
def make_package(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of modules: `make_package(shapes="...")`."""

    def make(**modules: str) -> Path:
        folder = tmp_path / "own"
        for name, source in modules.items():
            path = folder / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(source))
        return folder

    return make


@pytest.fixture
def make_row() -> Callable[..., Row]:
    def make(unit: str, number: int = 0, **fields: object) -> Row:
        return Row({"id": f"{unit}#{number}", **fields}, f"here:{unit}#{number}", unit)

    return make
