"""The coordinator in words and figures: why each task got its share, and how it is doing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from astor_rl.calibrate.kl import TaskCalibration
from astor_rl.plan import Receipt, TaskReceipt, TaskSpec
from astor_rl.schedule.scheduler import Phase, Quotas, Scheduler
from astor_rl.utility.potential import Potential
from astor_rl.utility.synergy import Synergy
from astor_rl.utility.task_utility import UtilitySnapshot

GIVEN_NOTE = "prompts a task were given by the caller, not by quotas"
ANEW_NOTE = (
    "synergy is measured anew: its estimator or gradient is another since the state was saved"
)

_PAIRS_SHOWN = 4


def adaptation_notes(
    new: Sequence[str], gone: Sequence[str], rows: Mapping[str, NDArray[np.int64]]
) -> list[str]:
    """What became of a state that was loaded for other tasks or prompts.

    Args:
        new, gone: tasks.
        rows: by task, where each prompt that had been drawn is now; -1: nowhere. [seen]
    """
    lost = {name: int((places < 0).sum()) for name, places in rows.items()}
    return [
        *(f"task {name} is new" for name in new),
        *(f"task {name} is gone" for name in gone),
        *(
            f"task {name}: {count} of {len(rows[name])} drawn prompts are gone"
            for name, count in lost.items()
            if count
        ),
    ]


def explain(
    tasks: Sequence[TaskSpec],
    phase: Phase,
    snapshot: UtilitySnapshot,
    quotas: Quotas,
    calibration: Mapping[str, TaskCalibration],
    *,
    unresolved: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Receipt:
    """Take a plan apart into what each part of the method did to it.

    Args:
        tasks: in the order of the arrays in `quotas`.
        phase: the schedule's phase.
        snapshot: the utilities that both modules read.
        quotas: Module 1's result.
        calibration: Module 2's, by task.
        unresolved: pairs of tasks whose cosine is unknown.
        notes: put before the receipt's own.

    Returns:
        A receipt whose parts add up to each task's share.
    """
    stages, found = quotas.stages, [*notes, *([quotas.note] if quotas.note else [])]
    shares = (
        stages.base,
        stages.method,
        stages.potential,
        stages.synergy,
        stages.cost,
        stages.floor,
        quotas.rounded,
        quotas.share,
    )
    # Whole columns at once: one element of an array costs as much as a column of 256 tasks.
    parts = np.diff(shares, axis=0).T.tolist()
    share, base, rounded = quotas.share.tolist(), stages.base.tolist(), quotas.rounded.tolist()
    prompts, wanted = quotas.prompts.tolist(), quotas.wanted.tolist()
    receipts = {}
    for k, spec in enumerate(tasks):
        kl, utility = calibration[spec.name], snapshot.tasks[spec.name]
        method, potential, synergy, cost, floor, rounding, availability = parts[k]
        receipts[spec.name] = TaskReceipt(
            base=base[k],
            method=method,
            potential=potential,
            synergy=synergy,
            cost=cost,
            floor=floor,
            rounding=rounding,
            availability=availability,
            share=share[k],
            prompts=prompts[k],
            beta=kl.beta,
            beta_base=spec.beta,
            beta_multiplier=kl.factor,
            z=kl.z,
            utility=utility.utility,
            utility_se=utility.utility_se,
            terms=dict(quotas.terms.get(spec.name, {})),
        )
        if share[k] < rounded[k]:
            found.append(f"task {spec.name} is short of prompts: {prompts[k]} of {wanted[k]:.1f}")
        if phase == "scheduled" and not utility.groups and not quotas.terms:
            found.append(f"task {spec.name} was never measured; it counts as the others' mean")
    if unresolved:
        shown = ", ".join(f"{first}~{second}" for first, second in unresolved[:_PAIRS_SHOWN])
        more = ", ..." if len(unresolved) > _PAIRS_SHOWN else ""
        found.append(f"synergy unknown for {len(unresolved)} pairs: {shown}{more}")
    return Receipt(phase, snapshot.revision, receipts, tuple(found))


def task_figures(
    name: str,
    snapshot: UtilitySnapshot,
    potential: Potential,
    synergy: Synergy,
    scheduler: Scheduler,
) -> dict[str, float]:
    """One task's metrics by short name; what is unknown is absent.

    `potential` and `outcome` are measured on the prompts that were scheduled; ages are in
    revisions; `tokens_per_prompt` counts a whole group's completion tokens.
    """
    utility, book = snapshot.tasks[name], scheduler.book(name)
    figures: dict[str, float | None] = {
        "utility": utility.utility,
        "utility_se": utility.utility_se,
        "potential": utility.potential,
        "potential_se": utility.potential_se,
        "synergy": utility.synergy,
        "synergy_se": utility.synergy_se,
        "synergy_used": utility.synergy_used,
        "groups": float(potential.groups(name)),
        "outcome": potential.estimate(name).mean_outcome,
        "prompts_seen": float(book.seen),
        "prompts_free": float(book.free),
        "prompt_variance_prior": book.expected_variance(snapshot.revision),
        "tokens_per_prompt": scheduler.tokens_per_prompt(name),
        "rounding_carry": scheduler.carry(name),
    }
    for age, revision in (
        ("potential_age", utility.revision),
        ("synergy_age", utility.synergy_revision),
    ):
        if revision is not None:
            figures[age] = float(snapshot.revision - revision)
    for other, cosine in synergy.cosines(name).items():  # of a thousand tasks few pairs are known
        figures[f"cosine/{other}"] = cosine
    return {figure: value for figure, value in figures.items() if value is not None}
