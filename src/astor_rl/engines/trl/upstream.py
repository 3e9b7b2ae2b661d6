"""The one place where TRL is imported."""

from __future__ import annotations

from astor_rl.errors import DependencyError

try:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
except ImportError as error:
    raise DependencyError(
        f"{error.name or 'trl'} is not installed: pip install 'astor-rl[trl]'"
    ) from error

__all__ = ["Dataset", "GRPOConfig", "GRPOTrainer"]
