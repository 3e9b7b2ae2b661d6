"""Asking a task for verdicts, whatever it does. Shared by the engines."""

from __future__ import annotations

from collections.abc import Sequence

from astor_rl.errors import AstorError, RewardError
from astor_rl.tasks.base import Pair, Task
from astor_rl.tasks.guard import described
from astor_rl.types import Invalid, Score


async def judge(task: Task, pairs: Sequence[Pair], *, where: str) -> list[Score | Invalid]:
    """One verdict for each pair, in order.

    Args:
        task: whoever wrote it.
        pairs: examples with rollouts.
        where: for errors: which task, and which example if there is one.

    Raises:
        RewardError: the task failed, or returned something else. Errors raised on purpose keep
            their class. Each says where; nothing is skipped silently.
    """
    try:
        verdicts = await task.score(pairs)
    except AstorError as error:
        raise type(error)(f"{where}: {error}") from error
    except (Exception, SystemExit) as error:  # an exit would end the thread that judges, unseen
        raise RewardError(
            f"{where}: score() raised {described(error)}; "
            "return Invalid(reason) for what can't be judged"
        ) from error
    if len(verdicts) != len(pairs):
        raise RewardError(
            f"{where}: score() returned {len(verdicts)} verdicts for {len(pairs)} rollouts"
        )
    for verdict in verdicts:
        if not isinstance(verdict, Score | Invalid):
            raise RewardError(f"{where}: score() returned {verdict!r}, not Score or Invalid")
    return verdicts
