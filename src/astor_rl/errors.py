"""Every error a user can meet, under one base class.

A message is one line that names the thing, the value it had, and what would be right.
The command line prints the message alone; a traceback is kept for errors that are ours.
"""

from __future__ import annotations


class AstorError(Exception):
    """Base of every error raised on purpose. Its text is one line, made for a person."""


class ConfigError(AstorError, ValueError):
    """A key or value of the run's configuration is wrong."""


class DataError(AstorError, ValueError):
    """A source, row or field is wrong. The message names the origin (file and line) and field."""


class ModelError(AstorError):
    """A model or tokenizer can't be found, loaded or used for what was asked."""


class RewardError(AstorError, ValueError):
    """A reward is NaN, infinite or outside its range. The message names the task and example."""


class SandboxError(AstorError):
    """The sandbox can't be started, or a protection it needs is missing on this machine."""


class StateError(AstorError, ValueError):
    """A saved state doesn't fit what it is loaded into. The message says what differs."""


class PlanError(AstorError, ValueError):
    """A batch can't be planned or an observation doesn't belong to a known plan."""


class CheckpointError(AstorError):
    """A checkpoint can't be written or read."""


class CapabilityError(AstorError):
    """Something was asked of an engine, sampler or model that it can't honour."""


class RankError(AstorError):
    """One of a run's processes ended without saying why, or can't reach the others any more."""


class DependencyError(AstorError):
    """An optional package is missing. The message says which extra installs it."""
