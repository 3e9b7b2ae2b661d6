"""The sampler inside verl's data loader class, with its state."""

from __future__ import annotations

import io
from typing import Any

import pytest

pytest.importorskip("torchdata", reason="needs verl's data loader: make test-verl")

import torch
from torchdata.stateful_dataloader import StatefulDataLoader

from astor_rl.config import parse_config
from astor_rl.engines.verl.coordination import Coordination, build_coordinator
from astor_rl.engines.verl.sampler import PlanSampler
from astor_rl.plan import GroupOutcome, UpdateStats

KEYS = {"io": [f"i{n}" for n in range(30)], "code": [f"c{n}" for n in range(20)]}
PLACES = [(task, key) for task, keys in KEYS.items() for key in keys]
TASKS = [{"name": n, "task": "io_prediction", "source": "jsonl:x"} for n in KEYS]


class Loop:
    """A trainer's use of the loader: fetch, reward, update."""

    def __init__(self) -> None:
        config = parse_config(
            {
                "model": "m",
                "engine": "verl",
                "prompts_per_step": 6,
                "tasks": TASKS,
                "schedule": {"warmup_steps": 1},
            }
        )
        self.coordination = Coordination(build_coordinator(config, KEYS), PLACES)
        self.loader = StatefulDataLoader(
            dataset=list(range(len(PLACES))),
            batch_size=6,
            num_workers=0,
            drop_last=True,
            collate_fn=list,
            sampler=PlanSampler(self.coordination),
        )
        self.batches: Any = None

    def step(self) -> list[int]:
        self.batches = self.batches or iter(self.loader)
        rows: list[int] = next(self.batches)
        items = self.coordination.current().items
        self.coordination.observe_groups(
            [GroupOutcome(i.slot, (0.0, float(i.task == "io"))) for i in items]
        )
        self.coordination.observe_update(UpdateStats())
        return rows


def test_the_loader_hands_out_one_plan_a_batch_and_never_ends():
    loop = Loop()
    for _ in range(3 * len(PLACES) // 6):
        rows = loop.step()
        planned = [(item.task, item.key) for item in loop.coordination.plan.items]
        assert [PLACES[row] for row in rows] == planned


def test_a_saved_loader_goes_on_exactly():
    straight = Loop()
    for _ in range(4):
        straight.step()
    file = io.BytesIO()  # as verl saves it
    torch.save(straight.loader.state_dict(), file)
    expected = [straight.step() for _ in range(4)]

    resumed = Loop()
    file.seek(0)
    resumed.loader.load_state_dict(torch.load(file, weights_only=False))
    resumed.batches = iter(resumed.loader)
    assert resumed.coordination.revision == 4
    assert [resumed.step() for _ in range(4)] == expected


def test_the_state_is_of_now_not_of_the_last_fetch():
    loop = Loop()
    loop.step()
    before = loop.coordination.revision
    state = loop.loader.state_dict()
    resumed = Loop()
    resumed.loader.load_state_dict(state)
    resumed.batches = iter(resumed.loader)
    assert resumed.coordination.revision == before == 1
