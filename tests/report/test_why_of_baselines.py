"""`astor why` of a published scheduler: its own part, its own figures, and none of ASTOR's."""

from __future__ import annotations

from pathlib import Path

from astor_rl.coordinator import Coordinator
from astor_rl.coordinator_options import CoordinatorOptions
from astor_rl.plan import GroupOutcome, TaskSpec
from astor_rl.report.run_folder import RunFolder
from astor_rl.report.why import why
from astor_rl.schedule.quota import ScheduleOptions


def test_a_scheduler_speaks_for_itself(tmp_path: Path) -> None:
    coordinator = Coordinator(
        [TaskSpec(name, [f"{name}{i}" for i in range(30)]) for name in ("easy", "mixed")],
        prompts_per_step=4,
        options=CoordinatorOptions(schedule=ScheduleOptions(method="sec")),
    )
    with RunFolder.create(
        tmp_path / "run", {"schedule": {"method": "sec"}, "max_steps": 2}, resume=False
    ) as folder:
        for revision in range(2):
            plan = coordinator.plan(revision=revision)
            outcomes = {"easy": (1.0, 1.0), "mixed": (1.0, 0.0)}
            groups = [GroupOutcome(item.slot, outcomes[item.task]) for item in plan.items]
            coordinator.observe_groups(plan.id, groups)
            folder.append_metrics(revision + 1, {})
            folder.append_receipt(revision + 1, {"plan": plan.id, **plan.receipt.as_dict()})
    lines = why(tmp_path / "run")
    assert lines[0] == "step 2 of 2: 4 prompts; shares follow schedule.method = 'sec'"
    # Q = 0.5 and 0: exp(2.5) to 1, so 0.924 and 0.076 of 4 prompts.
    mixed = lines[lines.index("mixed") :]
    assert mixed[1].startswith("  + method") or mixed[2].startswith("  + method")
    assert "  its figures: q 0.500" in mixed
    assert any("42.4 %" in line for line in mixed)
    assert not any("potential" in line or "synergy" in line for line in lines)
    assert lines[-1] == "note: sec: shares by exp(q / 0.2), q of mean |advantage|"
