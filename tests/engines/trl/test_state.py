"""The coordinator's state on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from astor_rl.coordinator import Coordinator
from astor_rl.engines.trl.state import FILE, load_state, save_state
from astor_rl.errors import CheckpointError, StateError
from astor_rl.plan import GroupOutcome, TaskSpec


def running() -> Coordinator:
    tasks = [TaskSpec(name, [f"{name}/{i}" for i in range(40)]) for name in ("one", "two")]
    coordinator = Coordinator(tasks, prompts_per_step=4)
    for revision in range(3):
        plan = coordinator.plan(revision=revision)
        groups = [GroupOutcome(item.slot, (0.0, 0.5, 1.0), tokens=9) for item in plan.items]
        coordinator.observe_groups(plan.id, groups[revision:])
    return coordinator


def test_what_is_read_continues_what_was_written(tmp_path: Path):
    first = running()
    save_state(tmp_path / "new" / "folder", first.state_dict())
    second = running()
    second.plan(revision=7)
    second.load_state_dict(load_state(tmp_path / "new" / "folder"))
    assert second.in_flight == first.in_flight
    assert second.plan(revision=9) == first.plan(revision=9)
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == [FILE]


def test_arrays_keep_their_type(tmp_path: Path):
    state = {"a": [{"b": np.array([b"x", b"yz"])}, np.float64(0.5)], "c": np.arange(3)}
    save_state(tmp_path, state)
    found = load_state(tmp_path)
    assert found["a"][0]["b"].dtype == np.dtype("S2")
    assert found["a"][1] == 0.5
    assert found["c"].tolist() == [0, 1, 2]


def test_a_missing_or_torn_file_is_one_line(tmp_path: Path):
    with pytest.raises(StateError, match=f"has no {FILE}"):
        load_state(tmp_path)
    save_state(tmp_path, running().state_dict())
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="can't be read") as found:
        load_state(tmp_path)
    assert "\n" not in str(found.value)


def test_nothing_is_unpickled(tmp_path: Path):
    np.savez(tmp_path / FILE, tree=np.array([object()], dtype=object))
    with pytest.raises(CheckpointError, match="can't be read"):
        load_state(tmp_path)
