from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.coordinator import measure, seen

ROOT = Path(__file__).parents[2]


def test_keys_are_made_when_asked_for() -> None:
    keys = seen.Keys(10_000_000)
    assert len(keys) == 10_000_000
    assert keys[-0] != keys[9_999_999]
    assert keys[3:5] == [keys[3], keys[4]]
    with pytest.raises(IndexError):
        keys[10_000_000]


@pytest.mark.parametrize(("prompts", "tasks", "visited"), [(1_000, 7, 500), (300, 256, 300)])
def test_a_coordinator_has_the_prompts_and_visits_asked_for(
    prompts: int, tasks: int, visited: int
) -> None:
    coordinator = seen.fresh(prompts, tasks)
    coordinator.load_state_dict(seen.state_after(coordinator, visited, np.random.default_rng(0)))
    books = coordinator.state_dict()["scheduler"]["books"]
    assert len(books) == tasks
    assert sum(book["size"] for book in books.values()) == prompts
    assert sum(len(book["keys"]) for book in books.values()) == visited
    assert {len(set(book["keys"].tolist())) - len(book["keys"]) for book in books.values()} == {0}
    plan = coordinator.plan(revision=seen.REVISION)
    assert len(plan.items) == seen.PROMPTS_PER_STEP
    assert plan.receipt.phase == "scheduled"


def test_a_case_is_steps_with_probes_and_a_weight() -> None:
    result = measure.run(measure.Case(prompts=2_000, tasks=4, seen=1_000, steps=3))
    assert result["step_ms"]["n"] == 3
    parts = sum(part["median"] for part in result["parts_ms"].values())
    assert parts > 0
    # Eleven columns of eight bytes at least; a thousand would be a copy of the data.
    assert 80 < result["bytes_per_seen_prompt"] < 1_000


@pytest.mark.slow
def test_the_benchmark_runs_from_end_to_end(tmp_path: Path) -> None:
    output = tmp_path / "coordinator.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.coordinator", "--quick", "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == json.loads(output.read_text())
    assert [case["tasks"] for case in result["cases"]] == [4, 256]
    assert result["plan_ms_10m_prompts_256_tasks"] is None
    assert result["settings"]["quick"]
