"""Errors of remote processes, told in one line by the process that started them. Real Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="needs verl: make test-verl")

import ray
from ray.exceptions import RayError
from verl_actors import Driver

from astor_rl.engines.verl.runner import explain
from astor_rl.errors import AstorError, PlanError, RankError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    ray.init(
        num_cpus=1,
        object_store_memory=80_000_000,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
    )
    yield ray.remote(Driver).options(num_cpus=0).remote()
    ray.shutdown()


def explained(driver: Any, what: str) -> AstorError:
    with pytest.raises(RayError) as caught:
        ray.get(driver.run.remote(what))
    found = explain(caught.value)
    assert "\n" not in str(found)
    return found


def test_our_errors_come_through_rays_wrappers(driver: Any):
    found = explained(driver, "plan")
    assert type(found) is PlanError
    assert str(found) == "plan 3: the batch holds another step's"


def test_a_dead_process_is_named_with_what_to_do(driver: Any):
    found = explained(driver, "die")
    assert type(found) is RankError
    assert str(found).startswith("a process of the run died (Worker, pid ")
    assert str(found).endswith("resume with astor train --resume")


def test_anything_else_is_still_one_line(driver: Any):
    found = explained(driver, "fail")
    assert type(found) is RankError
    assert "ValueError: line one" in str(found)
