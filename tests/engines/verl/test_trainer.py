"""What the trainer finds out when rewards are lost. Whole steps are in test_cluster.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl", reason="needs verl: make test-verl")

import ray
from verl_actors import Worker

from astor_rl.engines.verl.trainer import AstorTrainer, _place
from astor_rl.errors import RewardError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=2,
        object_store_memory=80_000_000,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
    )
    yield
    ray.shutdown()


def test_a_reward_worker_that_died_is_one_line(cluster: None):
    alive, dead = (ray.remote(Worker).options(num_cpus=0.1).remote() for _ in range(2))
    trainer: Any = AstorTrainer.__new__(AstorTrainer)
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[alive, alive])
    trainer._require_reward_workers()
    ray.get([alive.__ray_ready__.remote(), dead.__ray_ready__.remote()])
    ray.kill(dead)
    trainer.reward_loop_manager.reward_loop_worker_handles = [alive, dead]
    with pytest.raises(RewardError, match="reward worker 2 of 2 is gone .* last checkpoint"):
        trainer._require_reward_workers()


def test_rows_are_put_into_the_plans_order():
    keys = ["10-2_0_0", "9-11_3_0", "9-2_0_0", "9-2_1_0", "9-11_0_0"]
    assert sorted(keys, key=_place) == [
        "9-2_0_0",
        "9-2_1_0",
        "9-11_0_0",
        "9-11_3_0",
        "10-2_0_0",
    ]
