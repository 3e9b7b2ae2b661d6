"""Tasks by name, imported only when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from astor_rl.errors import ConfigError, DependencyError
from astor_rl.sandbox.api import SandboxPool
from astor_rl.tasks.base import Task

KINDS: dict[str, str] = {
    "io_prediction": "astor_rl.tasks.io_prediction:IOPredictionTask",
    "code_generation": "astor_rl.tasks.code_generation:CodeGenerationTask",
    "unit_test_generation": "astor_rl.tasks.unit_test_generation:UnitTestGenerationTask",
    "commit_message": "astor_rl.tasks.commit_message:CommitMessageTask",
}
"""Kind -> `module:class` of the tasks that come with the project."""


def make_task(kind: str, options: Mapping[str, Any], sandbox: SandboxPool | None) -> Task:
    """The task that a config's `task = "..."` names.

    Args:
        kind: one of `KINDS`, or `module:attribute` of your own: a class with `from_config`, or a
            task that is ready (a `from_reward` wrapper), which takes no options.
        options: `[tasks.options]`.
        sandbox: where the task runs untrusted code; None where only prompts are needed.

    Raises:
        ConfigError: an unknown kind, an unknown option, or a bad value.
        DependencyError: the task needs a package that isn't installed.
    """
    target = KINDS.get(kind, kind)
    if ":" not in target:
        raise ConfigError(
            f"task is {kind!r}; it must be one of {', '.join(KINDS)}, or 'module:attribute'"
        )
    found = _load(kind, target)
    if isinstance(found, type) and hasattr(found, "from_config"):
        found = found.from_config(options, sandbox)
    elif options:
        raise ConfigError(f"{kind!r} is ready-made and takes no options; it was given some")
    if not isinstance(found, Task):
        raise ConfigError(f"{kind!r} is {type(found).__name__}, which isn't a Task")
    return found


def _load(kind: str, target: str) -> Any:
    module, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(
            f"task is {kind!r}; before the colon goes the name of a module (sums for sums.py "
            "beside the run file, package.sums), not a path"
        )
    try:
        found: Any = import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except ModuleNotFoundError as error:
        if error.name is not None and module.startswith(error.name):
            raise ConfigError(f"{kind!r}: there is no module {error.name!r}") from None
        hint = "install astor-rl[tasks]" if kind in KINDS else "it isn't installed"
        raise DependencyError(f"{kind!r} needs {error.name!r}: {hint}") from None
    except AttributeError:
        raise ConfigError(f"{kind!r}: {module!r} has no {attribute!r}") from None
    return found
