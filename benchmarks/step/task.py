"""The task that our runs name: the common reward, wrapped."""

from __future__ import annotations

from typing import Final

from astor_rl.tasks.from_reward import RewardTask
from benchmarks.step.reward import checksum

TASK: Final = RewardTask(checksum)
