"""Functions that were observed, for the tests of what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from astor_rl.data.mining.functions import Subject, candidates, observe
from astor_rl.data.mining.packages import find_package
from astor_rl.sandbox.pool import ProcessPool


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress nobody looks at."""


@pytest.fixture(scope="session")
def subjects(sandbox: ProcessPool) -> list[Subject]:
    """What toolz and textwrap have to offer."""
    packages = [find_package(name, base_dir=Path()) for name in ("toolz", "textwrap", "colorsys")]
    return observe(candidates(packages, silent), sandbox, seed=0, tries=40, progress=silent)
