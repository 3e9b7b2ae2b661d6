"""Start a composed configuration on a Ray cluster and say in one line why it ended."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.utils.device import auto_set_device

from astor_rl.engines.verl.export import read_run
from astor_rl.engines.verl.trainer import AstorTrainer
from astor_rl.errors import AstorError, RankError

_Base: Any = TaskRunnerV1.__ray_metadata__.modified_class


class AstorRunner(_Base):  # type: ignore[misc]  # verl has no types
    """verl's driver actor with our trainer."""

    trainer_class: type[AstorTrainer] = AstorTrainer

    def run(self, config: Any) -> None:
        """Train: verl's own `run`, in which the name of a mode stands for a trainer."""
        run, _ = read_run(config.astor.run)
        # This actor's process trains this one run. A mode of another name would be asynchronous.
        TRAINER_REGISTRY["sync"] = partial(
            self.trainer_class, run=run, folder=Path(config.astor.folder)
        )
        super().run(config)


def launch(config: Any, runner: type[AstorRunner] = AstorRunner) -> None:
    """Train until the end, on the cluster that Ray finds, or on this machine.

    Args:
        config: composed and checked.
        runner: the driver.

    Raises:
        AstorError: what ended the run, in one line; it can be resumed.
    """
    auto_set_device(config)
    mine = not ray.is_initialized()
    try:
        with _one_line():
            run_ppo(config, ray.remote(runner))
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except RayError as error:
        raise explain(error) from error


def explain(error: BaseException) -> AstorError:
    """What an error of Ray's comes from, as one of ours."""
    chain = list(_causes(error))
    # Ray's wrapper of an error is of its type as well, with a traceback for a text.
    plain = [cause for cause in chain if not isinstance(cause, RayTaskError)]
    for cause in plain:
        if isinstance(cause, AstorError):
            return cause
    dead = [cause for cause in chain if isinstance(cause, RayActorError)]
    if dead:
        return RankError(
            f"a process of the run died ({_who(dead)}); resume with astor train --resume"
        )
    last = [*chain, *plain][-1]
    return RankError(f"the run ended: {type(last).__name__}: {_line(last)}; see Ray's logs above")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised for, Ray's wrappers opened."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = getattr(error, "cause", None) if isinstance(error, RayTaskError) else None
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__


_FIELD = re.compile(r"^\s*(class_name|pid|ip): (\S+)$", re.MULTILINE)


def _who(errors: Sequence[BaseException]) -> str:
    """Class, process and machine of a dead actor, as far as Ray's texts name them."""
    found = dict(_FIELD.findall("\n".join(map(str, errors))))
    name = found.pop("class_name", "an actor").rpartition(".")[2]
    return ", ".join([name, *(f"{field} {value}" for field, value in found.items())])


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
