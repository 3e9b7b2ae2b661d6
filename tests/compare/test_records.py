"""What is remembered of units, and what may not change under them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from astor_rl.compare import records
from astor_rl.compare.units import AFTER, Unit
from astor_rl.errors import DataError, StateError

Plan = Callable[..., dict[str, Unit]]


def begin_all(units: dict[str, Unit]) -> None:
    for unit in units.values():
        records.begin(unit)
        (unit.folder / "eval").mkdir(parents=True)


def test_a_changed_arm_is_refused_by_name(plan: Plan):
    begin_all(plan())
    arms = [{"name": "astor"}, {"name": "joint", "set": {"schedule.method": "sec", "beta": 0.5}}]
    with pytest.raises(StateError) as caught:
        records.check_unchanged(list(plan(arms=arms).values()))
    said = str(caught.value)
    assert said.startswith("joint/seed-0 was made with another beta: 0.001 -> 0.5 (and 1 more)")
    assert "give the changed arm another name" in said
    assert "\n" not in said


def test_a_unit_that_has_not_begun_may_change(plan: Plan):
    units = plan()
    records.begin(units["astor/seed-0"])
    arms = [{"name": "astor"}, {"name": "joint", "set": {"schedule.method": "sec"}}]
    records.check_unchanged(list(plan(arms=arms).values()))


def test_a_unit_that_was_refused_before_it_did_any_work_may_change(plan: Plan):
    units = plan()
    start = units["start/seed-0"]
    records.begin(start)
    start.folder.mkdir(parents=True)
    for name in ("config.json", "events.jsonl", "run.lock"):
        (start.folder / name).touch()
    changed = list(plan(set={"data.test_share": 0.3}).values())
    records.check_unchanged(changed)
    (start.folder / "eval").mkdir()
    with pytest.raises(StateError, match=r"another data\.test_share: 0\.1 -> 0\.3"):
        records.check_unchanged(changed)


def test_examples_of_each_seed_are_those_of_before_there_was_a_seed_of_data(plan: Plan):
    units = plan(same_examples=False)
    begin_all(units)
    for unit in units.values():
        record = json.loads(unit.record.read_text())
        del record["made_from"]["data"]["seed"]
        unit.record.write_text(json.dumps(record))
    records.check_unchanged(list(units.values()))
    # The base's seed is 0: its own examples are what all seeds have now.
    same = plan()
    records.check_unchanged([unit for unit in same.values() if unit.seed == 0])
    with pytest.raises(StateError, match=r"data\.seed: 1 -> 0; .*set same_examples = false"):
        records.check_unchanged(list(same.values()))


def test_changed_data_are_refused(plan: Plan, tmp_path: Path):
    begin_all(plan())
    (tmp_path / "code.jsonl").write_text('{"id": "other"}\n')
    with pytest.raises(StateError, match=r"start/seed-0 was made with another inputs\.jsonl:code"):
        records.check_unchanged(list(plan().values()))


def test_options_of_a_later_version_at_their_defaults_change_nothing(plan: Plan):
    begin_all(plan())
    units = plan()
    for unit in units.values():
        record = json.loads(unit.record.read_text())
        del record["made_from"]["tasks"][0]["ratio" if unit.kind == "run" else "order"]
        record["made_from"]["eval"].pop("before_warmup")
        unit.record.write_text(json.dumps(record))
    records.check_unchanged(list(units.values()))
    with pytest.raises(StateError, match=r"eval\.before_warmup: 'absent' -> False"):
        records.check_unchanged(list(plan(set={"eval.before_warmup": False}).values()))


PLAIN = {"name": "plain", "set": {"schedule.prompt_scheduling": False}}
JOINT = {"name": "joint", "set": {"schedule.method": "uniform"}}
GRESO = {"name": "greso", "set": {"schedule.method": "greso"}}


@pytest.mark.parametrize("arm", [JOINT, PLAIN])
def test_records_from_before_epochs_were_of_even_chances(plan: Plan, arm: dict[str, Any]):
    """The default isn't what was done before, so the default is another run."""
    chances = {"schedule.epochs": False}
    arms = [{"name": "astor"}, arm]
    begin_all(plan(arms=arms, set=chances))
    for unit in plan(arms=arms).values():
        record = json.loads(unit.record.read_text())
        record["made_from"].get("schedule", {}).pop("epochs", None)
        unit.record.write_text(json.dumps(record))
    records.check_unchanged(list(plan(arms=arms, set=chances).values()))
    with pytest.raises(StateError, match=rf"{arm['name']}/.*schedule\.epochs: 'absent' -> True"):
        records.check_unchanged(list(plan(arms=arms).values()))


def test_epochs_are_nothing_to_arms_that_choose_prompts(plan: Plan):
    arms = [{"name": "astor"}, GRESO]
    begin_all(plan(arms=arms, set={"schedule.epochs": False}))
    records.check_unchanged(list(plan(arms=arms).values()))


def test_so_it_is_with_what_was_merged(plan: Plan):
    arms = [
        {"name": "astor"},
        {"name": "own", "kind": "specialists"},
        {"name": "merged", "kind": "merge", "of": "own"},
    ]
    begin_all(plan(arms=arms))
    unit = plan(arms=arms)["merged/seed-0"]
    record = json.loads(unit.record.read_text())
    for source in record["made_from"]["of"].values():
        del source["baseline"]["competence"]
        del source["tasks"][0]["ratio"]
        source["baseline"]["mopps_candidates"] = 99
    unit.record.write_text(json.dumps(record))
    records.check_unchanged([unit])
    next(iter(record["made_from"]["of"].values()))["beta"] = 7.0
    unit.record.write_text(json.dumps(record))
    with pytest.raises(StateError, match=r"merged/seed-0 .* of\.own/seed-0/\w+\.beta: 7\.0 -> "):
        records.check_unchanged([unit])


def test_options_of_schedulers_that_an_arm_is_not_trained_with_change_nothing(plan: Plan):
    arms = [{"name": "astor"}, {"name": "bandit", "set": {"schedule.method": "sec"}}]
    begin_all(plan(arms=arms))
    others = {"baseline.mopps_candidates": 3, "baseline.dump_window": 20}
    records.check_unchanged(list(plan(arms=arms, set=others).values()))
    own = {"baseline.sec_rate": 0.25}
    with pytest.raises(StateError, match=r"bandit/seed-0 .*baseline\.sec_rate: 0\.5 -> 0\.25;"):
        records.check_unchanged(list(plan(arms=arms, set=own).values()))
    shared = {"baseline.calibrate": True}
    with pytest.raises(StateError, match=r"astor/seed-0 .*baseline\.calibrate"):
        records.check_unchanged(list(plan(arms=arms, set=shared).values()))


def test_finished_means_that_the_result_is_there(plan: Plan):
    unit = plan()["astor/seed-0"]
    assert not records.is_finished(unit)
    records.begin(unit)
    records.end(unit, finished=True, seconds=2.0)
    assert not records.is_finished(unit)
    path = records.evaluation_file(unit, AFTER)
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert records.is_finished(unit)
    records.begin(unit)
    assert not records.is_finished(unit)


def test_seconds_of_all_sessions_add_up(plan: Plan):
    unit = plan()["astor/seed-0"]
    for seconds in (1.5, 2.0):
        records.begin(unit)
        records.end(unit, finished=False, seconds=seconds)
    assert records.seconds_spent(unit) == 3.5


@pytest.mark.parametrize("text", ["{", "[]", '{"unit": "x"}'])
def test_a_damaged_record_is_named(plan: Plan, text: str):
    unit = plan()["start/seed-0"]
    unit.record.parent.mkdir(parents=True)
    unit.record.write_text(text)
    with pytest.raises(DataError, match=r"seed-0\.json"):
        records.check_unchanged([unit])


def test_the_last_line_of_a_log(tmp_path: Path):
    log = tmp_path / "x.log"
    assert records.last_line(log) == ""
    log.write_text("one\n  error: two \n\n  \n")
    assert records.last_line(log) == "error: two"
