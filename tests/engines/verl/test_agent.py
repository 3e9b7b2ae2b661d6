from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl", reason="needs verl: make test-verl")

from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from astor_rl.engines.verl.agent import TaskAgentLoop, rollout_seed


def asked(monkeypatch: pytest.MonkeyPatch, *, exact: bool, **row: Any) -> dict[str, Any]:
    """The sampling parameters, and the request's priority, that verl's own loop is given."""
    loop = TaskAgentLoop.__new__(TaskAgentLoop)
    loop.response_length = 64
    loop.rollout_config = SimpleNamespace(full_determinism=exact, seed=5)
    seen: dict[str, Any] = {}

    async def run(self: Any, sampling_params: dict[str, Any], priority: int = 0, **_: Any) -> None:
        seen.update(sampling_params, priority=priority)

    monkeypatch.setattr(SingleTurnAgentLoop, "run", run)
    given = {"temperature": 0.5}
    asyncio.run(loop.run(given, **row))
    assert given == {"temperature": 0.5}  # shared by the prompts of a batch
    return seen


def test_each_task_has_its_own_limit(monkeypatch: pytest.MonkeyPatch):
    seen = asked(monkeypatch, exact=False, max_tokens=20, uid="0-1", session_id=0)
    assert seen == {"temperature": 0.5, "max_new_tokens": 20, "priority": 0}
    assert asked(monkeypatch, exact=False, max_tokens=99)["max_new_tokens"] == 64


def test_an_exact_run_has_a_seed_for_each_rollout(monkeypatch: pytest.MonkeyPatch):
    rows = [("0-1", 0), ("0-1", 1), ("0-2", 0), ("1-1", 0)]
    seeds = [
        asked(monkeypatch, exact=True, max_tokens=20, uid=uid, session_id=place)["seed"]
        for uid, place in rows
    ]
    assert seeds == [rollout_seed(5, uid, place) for uid, place in rows]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)
