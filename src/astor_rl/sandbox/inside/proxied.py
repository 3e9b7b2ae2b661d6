"""Harness of jobs in two processes: `SuiteJob`, and `TestsJob` with the roles swapped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from astor_rl.sandbox.inside import emptying, proxied_suite, proxied_tests
from astor_rl.sandbox.inside.child import Walls
from astor_rl.sandbox.inside.proxy.process import Helper

PROCESSES: Final = 3
"""At most so many run beside the first one."""
_helpers: Final[list[tuple[Helper, Walls]]] = []


def prepare(walls: Walls, hidden: tuple[int, ...]) -> None:
    """Fork the process of the untrusted side; called before anything of the job is read."""
    clean = partial(emptying.emptied, os.getcwd())
    helper = Helper(walls, proxied_suite.solution, proxied_tests.tests, clean, hidden)
    _helpers.append((helper, walls))


def run(job: Mapping[str, Any], output_limit: int) -> Iterator[list[Any]]:
    """The messages of `proxied_suite.run` or `proxied_tests.run`, by the job's `kind`."""
    helper, walls = _helpers.pop()
    if job["kind"] == "suite":
        walls.filter(trusted=True)
        return proxied_suite.run(job, helper)
    return proxied_tests.run(job, helper, walls)
