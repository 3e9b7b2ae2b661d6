from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from astor_rl.config import parse_config
from astor_rl.engines.shared import HalfRows, loss_config, now
from astor_rl.utility.synergy import SynergyOptions

TASK = {"name": "io", "task": "io_prediction", "source": "jsonl:x"}


@pytest.mark.parametrize(("cap", "expected"), [("off", float("inf")), (3.0, 3.0)])
def test_the_loss_of_a_run(cap, expected):
    config = parse_config({"model": "m", "tasks": [TASK], "importance_cap": cap, "epsilon": 0.1})
    loss = loss_config(config)
    assert (loss.importance_cap, loss.epsilon) == (expected, 0.1)
    assert loss.max_completion_length == config.max_completion_length


@pytest.mark.parametrize(("device", "waits"), [("cpu", []), ("cuda:1", ["cuda:1"])])
def test_a_clock_is_read_after_the_gpu_is_done(monkeypatch, device, waits):
    calls = []
    monkeypatch.setattr("torch.cuda.synchronize", lambda where: calls.append(str(where)))
    monkeypatch.setattr("time.perf_counter", lambda: calls.append("read") or 7.0)
    assert now(torch.device(device)) == 7.0
    assert calls == [*waits, "read"]


def test_rows_are_of_tasks_with_both_halves():
    parameters = list(nn.Linear(2, 1).parameters())
    groups = {(2, 1): 4, (1, 0): 9, (2, 0): 3, (0, 1): 1, (0, 0): 2}
    rows = HalfRows(groups, parameters, SynergyOptions(), seed=0)
    assert rows.halves == [(0, 0), (0, 1), (2, 0), (2, 1)]
    for number, half in enumerate(rows.halves):
        rows.add(half, [torch.full((1, 2), float(number)), torch.ones(1)])
    probe = rows.gram(["a", "b", "c"])
    assert (probe.tasks, probe.groups, probe.sketched) == (("a", "c"), (2, 1, 3, 4), False)
    numbers = np.arange(4.0)
    expected = 2 * np.outer(numbers, numbers) + 1
    np.testing.assert_allclose(probe.gram_KK, expected)
    scaled = rows.gram(["a", "b", "c"], np.array([1.0, 2.0, 3.0, 4.0])).gram_KK
    np.testing.assert_allclose(scaled, expected * np.outer([1, 2, 3, 4], [1, 2, 3, 4]))


def test_a_task_with_one_half_has_no_row():
    parameters = list(nn.Linear(2, 1).parameters())
    assert HalfRows({(0, 1): 3}, parameters, SynergyOptions(), seed=0).halves == []
