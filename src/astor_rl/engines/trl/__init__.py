"""ASTOR as a guest of TRL: `AstorGRPOTrainer` in the place of `trl.GRPOTrainer` (docs/trl.md)."""

from __future__ import annotations

from astor_rl.engines.trl.data import TaskData
from astor_rl.engines.trl.trainer import AstorGRPOTrainer

__all__ = ["AstorGRPOTrainer", "TaskData"]
