"""One attack and its aftermath."""

from __future__ import annotations

from astor_rl.sandbox.api import Outcome, SandboxPool
from benchmarks.attacks import catalogue, traces
from benchmarks.attacks.catalogue import Attack
from benchmarks.attacks.traces import Traces


def baseline(pool: SandboxPool) -> Traces:
    """What a pool holds when it has served every kind of job.

    Raises:
        RuntimeError: it doesn't serve them right.
    """
    if wrong := catalogue.honest(pool):
        raise RuntimeError(f"the sandbox fails at honest jobs: {wrong[0]}")
    return traces.look()


def tried(attack: Attack, pool: SandboxPool, before: Traces) -> tuple[Outcome, list[str]]:
    """Run an attack and the next honest jobs.

    Returns:
        the attack's outcome, and what is not as it must be: its end, the next answers, what is
        left behind.
    """
    outcome = catalogue.run(attack, pool)
    found = catalogue.problems(attack, outcome) + catalogue.honest(pool)
    return outcome, found + traces.look().since(before)
