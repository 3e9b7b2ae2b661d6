"""What the console shows of a step: plain records that an engine fills in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from astor_rl.report import text


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task at one step.

    Attributes:
        name: the task.
        prompts: prompts of it in this batch.
        quota: its share of the batch, in [0, 1].
        beta: its KL coefficient.
        reward: mean outcome over this batch's judged rollouts, in [0, 1]; None without any.
        groups, effective_groups: finished groups, and those with outcome variance.
        kl: mean per-token KL to the reference, nats; None when not measured.
        utility, utility_se: task utility and its standard error; None before it is measured.
        synergy, synergy_se: None while unresolved: shown as unknown.
    """

    name: str
    prompts: int
    quota: float
    beta: float
    reward: float | None = None
    groups: int = 0
    effective_groups: int = 0
    kl: float | None = None
    utility: float | None = None
    utility_se: float | None = None
    synergy: float | None = None
    synergy_se: float | None = None


@dataclass(frozen=True, slots=True)
class StepView:
    """One step.

    Attributes:
        step, max_steps: steps done, and how many there will be.
        tasks: in the config's order.
        phase: `warmup` or `scheduled`, as the receipt says.
        tokens_per_s: generated completion tokens per second of the step.
        seconds_left: estimate for the rest of the run; None when unknown.
        shares: share of the step's time by part (`rollout`, `reward`, `update`, ...), in [0, 1].
        tokens: completion tokens sampled so far.
        max_tokens: how many end the run; None where only steps do.
    """

    step: int
    max_steps: int
    tasks: tuple[TaskView, ...]
    phase: str = ""
    tokens_per_s: float | None = None
    seconds_left: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0
    max_tokens: int | None = None

    def heading(self) -> str:
        """The step in one line, without its tasks."""
        parts = [f"step {self.step}/{self.max_steps}"]
        if self.max_tokens is not None:
            parts.append(f"{self.tokens:,}/{self.max_tokens:,} tokens")
        if self.phase:
            parts.append(self.phase)
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:,.0f} tokens/s")
        if self.shares:
            parts.append(" ".join(f"{part} {text.percent(s)}" for part, s in self.shares.items()))
        parts.append(f"{text.duration(self.seconds_left)} left")
        return " | ".join(parts)


COLUMNS = ("task", "reward", "quota", "beta", "groups", "KL", "utility", "synergy")
"""The columns of a step's table; `groups` is effective / finished."""


def cells(task: TaskView) -> tuple[str, ...]:
    """A task's row, in the order of `COLUMNS`."""
    return (
        task.name,
        text.number(task.reward),
        f"{task.prompts} ({text.percent(task.quota)})",
        text.small(task.beta),
        f"{task.effective_groups}/{task.groups}",
        text.small(task.kl),
        text.with_error(task.utility, task.utility_se),
        text.with_error(task.synergy, task.synergy_se),
    )


def step_lines(view: StepView) -> Iterator[str]:
    """A step as plain lines: a heading, then one a task."""
    yield view.heading()
    for task in view.tasks:
        name, *values = cells(task)
        facts = zip(COLUMNS[1:], values, strict=True)
        yield f"  {name}: " + ", ".join(f"{title} {value}" for title, value in facts)
