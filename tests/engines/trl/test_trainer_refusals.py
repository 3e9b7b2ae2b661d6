"""What a trainer inside TRL refuses, and what it leaves behind."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from astor_rl.engines.trl.state import FILE
from astor_rl.errors import RewardError, StateError
from astor_rl.tasks.from_reward import from_reward


@pytest.mark.slow
def test_a_resume_without_our_state_or_of_other_tasks_is_refused(guest, trainer, tmp_path: Path):
    trainer(max_steps=2, save_strategy="steps", save_steps=2).train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    bare = tmp_path / "checkpoint-2"
    shutil.copytree(checkpoint, bare)
    (bare / FILE).unlink()
    with pytest.raises(StateError, match=f"has no {FILE}"):
        trainer().train(resume_from_checkpoint=str(bare))
    renamed = [replace(guest.data("first"), name="third"), guest.data("second")]
    with pytest.raises(StateError, match="new \\['third'\\], gone \\['first'\\]"):
        trainer(renamed).train(resume_from_checkpoint=str(checkpoint))
    adapted = trainer(renamed, {"on_task_change": "adapt"})
    adapted.train(resume_from_checkpoint=str(checkpoint))
    assert adapted.state.global_step == 4


def test_a_failing_task_is_named_and_its_prompts_are_free_again(guest, trainer):
    def broken(prompts: Any, completions: Any, **_: Any) -> list[float]:
        raise OSError("no compiler")

    one = trainer([guest.data("first", from_reward(broken)), guest.data("second")])
    with pytest.raises(RewardError, match="task 'first': broken raised OSError: no compiler"):
        one.train()
    assert not one.coordinator.in_flight
