"""Findings from folders whose answers are known by hand."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable, Mapping

import pytest

from astor_rl.compare.analysis import Analysis, analyse, judging_error
from astor_rl.compare.document import Status, document
from astor_rl.compare.intervals import gain_interval, mean_interval
from astor_rl.compare.results import codes, read_results
from astor_rl.compare.spec import CompareConfig
from astor_rl.compare.tables import markdown, render, sentences, tables
from astor_rl.compare.units import Unit
from astor_rl.errors import DataError

Plan = Callable[..., dict[str, Unit]]
Compare = Callable[..., CompareConfig]
Finish = Callable[..., None]

ASTOR = {"name": "astor"}
JOINT = {"name": "joint", "set": {"schedule.method": "uniform"}}
CURRICULUM = {"name": "easy-first", "set": {"schedule.method": "curriculum"}}
SEC = {"name": "sec", "set": {"schedule.method": "sec"}}
ABLATION = {"name": "no-kl", "set": {"calibrate.enabled": False}}
FULL = {"name": "full", "kind": "specialists"}
SHARE = {"name": "share", "kind": "specialists", "budget": "share"}
MERGE = {"name": "linear", "kind": "merge", "of": "share"}
TIES = {"name": "ties", "kind": "merge", "of": "share", "method": "ties"}
ALL = [ASTOR, JOINT, CURRICULUM, SEC, ABLATION, FULL, SHARE, MERGE, TIES]


def level(unit: Unit) -> float:
    """Scores that differ by arm and seed, and not by the same amount everywhere."""
    base = {"start": 0.1, "astor": 0.6, "joint": 0.5, "easy-first": 0.45, "sec": 0.55}
    base |= {"no-kl": 0.58, "full": 0.4, "share": 0.3, "linear": 0.42, "ties": 0.44}
    return base[unit.arm] + random.Random(f"{unit.arm} {unit.seed}").uniform(-0.015, 0.015)


def scores(unit: Unit) -> dict[str, float]:
    """A specialist is 0.2 better on its own task and 0.2 worse on the other."""
    value = level(unit)
    shift = {None: 0.0, "io": 0.2, "code": -0.2}[unit.task]
    return {"io": value + shift, "code": value - shift + (0.02 if unit.task == "code" else 0)}


@pytest.fixture
def done(plan: Plan, finish: Finish) -> dict[str, Unit]:
    """Everything is finished, with `scores`."""
    units = plan(arms=ALL, seeds=[0, 1, 2])
    for unit in units.values():
        finish(unit, scores(unit))
    return units


@pytest.fixture
def found(done: dict[str, Unit], compare: Compare) -> Analysis:
    return analyse(compare(arms=ALL, seeds=[0, 1, 2]), list(done.values()))


def means(done: Mapping[str, Unit], arm: str, task: str = "") -> list[float]:
    """An arm's mean test score by seed."""
    names = [f"{arm}/seed-{seed}{f'/{task}' if task else ''}" for seed in (0, 1, 2)]
    return [sum(scores(done[name]).values()) / 2 for name in names]


def test_gains_are_paired_by_seed(found: Analysis, done: dict[str, Unit]):
    astor = means(done, "astor")
    for arm in ("joint", "sec", "linear"):
        expected = gain_interval(astor, means(done, arm))
        assert found.gains[arm].gain == pytest.approx(expected)
    assert "astor" not in found.gains


def test_roles_follow_from_kind_and_method(found: Analysis):
    roles = {entrant.arm.name: entrant.role for entrant in found.entrants}
    assert roles == {
        "astor": "ablation",
        "joint": "joint",
        "easy-first": "curriculum",
        "sec": "scheduler",
        "no-kl": "ablation",
        "full": "specialist",
        "share": "specialist",
        "linear": "merging",
        "ties": "merging",
    }
    assert found.headline["joint"].arms == ("joint",)
    assert found.headline["curriculum"].arms == ("easy-first",)
    assert found.headline["merging"].arms == ("linear", "ties")
    assert found.headline["best_specialist"].arms == ("full", "share")
    assert found.headline["best_scheduler"].arms == ("joint", "easy-first", "sec")


def test_the_best_specialist_is_chosen_on_validation_not_on_test(
    plan: Plan, finish: Finish, compare: Compare
):
    arms = [ASTOR, FULL]
    units = plan(arms=arms, seeds=[0, 1])
    for unit in units.values():
        finish(unit, scores(unit))
    looked = {0: {"io": 0.1, "code": 0.1}, 10: {"io": 0.9, "code": 0.9}}
    # On test, code's specialist is better by 0.01. On validation io's is, with seed 1.
    finish(units["full/seed-1/io"], scores(units["full/seed-1/io"]), looked)
    found = analyse(compare(arms=arms, seeds=[0, 1]), list(units.values()))
    (best,) = [entrant for entrant in found.entrants if entrant.kind == "best"]
    assert best.chosen == {0: "code", 1: "io"}
    assert best.test(1) == pytest.approx(level(units["full/seed-1/io"]))
    assert found.headline["best_specialist"].arms == ("full",)


def test_each_task_against_its_own_specialist(found: Analysis, done: dict[str, Unit]):
    gaps = [
        scores(done[f"astor/seed-{s}"])["io"] - scores(done[f"share/seed-{s}/io"])["io"]
        for s in (0, 1, 2)
    ]
    assert found.own["share"]["io"] == mean_interval(gaps)
    assert found.own.keys() == {"full", "share"}


def test_ranks(found: Analysis):
    ranking = found.ranking
    assert ranking is not None
    assert ranking.seeds == (0, 1, 2)
    names = {"astor", "joint", "easy-first", "sec", "no-kl", "full", "share", "linear", "ties"}
    assert ranking.counts.keys() == names
    assert all(sum(counts) == 3 for counts in ranking.counts.values())
    assert ranking.counts["share"] == (0,) * 8 + (3,)
    assert ranking.average["share"] == 9
    assert ranking.w is not None
    assert 0.8 < ranking.w <= 1


def test_one_seed_or_one_arm_is_not_ranked(plan: Plan, finish: Finish, compare: Compare):
    for seeds, arms in (([0], "start astor joint"), ([0, 1], "start astor")):
        units = plan(arms=[ASTOR, JOINT], seeds=seeds)
        for unit in units.values():
            if unit.arm in arms.split():
                finish(unit, scores(unit))
        found = analyse(compare(arms=[ASTOR, JOINT], seeds=seeds), list(units.values()))
        assert found.ranking is None


def test_the_error_of_judging(plan: Plan, finish: Finish, compare: Compare):
    """Seeds answer the same examples: what differs by example is no less with more seeds."""
    for seeds in ([0], [0, 1, 2, 3]):
        units = plan(seeds=seeds)
        for unit in units.values():
            finish(unit, {"io": 0.5, "code": 0.5})
            path = unit.folder / "eval" / "after_rl.json"
            if unit.arm == "joint":
                raw = json.loads(path.read_text())
                raw["tasks"]["io"]["per_example"] = {"a": 0.0, "b": 1.0}  # gaps 0.495, -0.495
                path.write_text(json.dumps(raw))
        astor, joint = analyse(compare(seeds=seeds), list(units.values())).entrants
        # sd of the gaps is 0.495 sqrt(2), of their mean 0.495, one task of two
        assert judging_error(astor, joint) == pytest.approx(0.495 / 2)
        assert judging_error(astor, astor) == 0


def test_unfinished_units_are_no_results(plan: Plan, finish: Finish, compare: Compare):
    units = plan(arms=[ASTOR, FULL, SHARE, MERGE], seeds=[0])
    comparison = compare(arms=[ASTOR, FULL, SHARE, MERGE], seeds=[0])
    empty = analyse(comparison, list(units.values()))
    assert empty.entrants == ()
    assert empty.headline == {}
    status = Status(0, len(units), {})
    assert list(tables(comparison, empty)) == []
    assert list(sentences(comparison, empty, status)) == ["0 of 7 units are finished"]
    assert document(comparison, empty, status)["arms"] == {}
    for name in ("start/seed-0", "full/seed-0/io", "merging"):
        if name in units:
            finish(units[name], scores(units[name]))
    some = analyse(comparison, list(units.values()))
    assert [entrant.name for entrant in some.entrants] == ["full:io"]
    assert some.reference is None
    assert "full:io" in markdown(comparison, some, status)


def test_a_task_nobody_could_judge_is_named(plan: Plan, finish: Finish):
    units = plan(seeds=[0])
    for unit in units.values():
        finish(unit, {"io": 0.5, "code": 0.5})
    path = units["astor/seed-0"].folder / "eval" / "after_rl.json"
    raw = json.loads(path.read_text())
    raw["tasks"]["io"]["outcome"] = None
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match="no sample of task 'io' could be judged"):
        read_results(list(units.values()))


def test_the_document_has_the_headline_and_is_json(
    found: Analysis, compare: Compare, done: dict[str, Unit]
):
    comparison = compare(arms=ALL, seeds=[0, 1, 2])
    made = document(comparison, found, Status(len(done), len(done), {}))
    read = json.loads(json.dumps(made, allow_nan=False))
    for name in ("joint", "curriculum", "merging", "best_specialist", "best_scheduler"):
        versus = read[f"astor_vs_{name}"]
        assert versus["low"] < versus["mean"] < versus["high"]
        assert versus["seeds"] == 3
    joint = read["arms"]["joint"]
    assert joint["test_by_seed"]["1"] == scores(done["joint/seed-1"])
    assert joint["tokens"] == {"0": 1000, "1": 1000, "2": 1000}
    assert joint["budget_spent"]
    assert joint["change"]["io"]["mean"] == pytest.approx(
        sum(
            scores(done[f"joint/seed-{s}"])["io"] - scores(done[f"start/seed-{s}"])["io"]
            for s in (0, 1, 2)
        )
        / 3
    )
    assert read["arms"]["linear"]["tokens"]["0"] == 2000  # what its specialists took


def test_negative_results_are_said_as_plainly(plan: Plan, finish: Finish, compare: Compare):
    def verdict(ours: float, theirs: float, *, seeds: int = 3) -> str:
        comparison = compare(seeds=list(range(seeds)))
        units = plan(seeds=list(range(seeds)))
        for unit in units.values():
            value = {"astor": ours, "joint": theirs, "start": 0.1}[unit.arm]
            value *= 1 + 0.01 * (unit.seed if unit.arm == "joint" else -unit.seed)
            finish(unit, {"io": value, "code": value})
        found = analyse(comparison, list(units.values()))
        status = Status(len(units), len(units), {})
        (line,) = [s for s in sentences(comparison, found, status) if "Joint" in s]
        return line

    assert "against Joint: ahead, +" in verdict(0.6, 0.5)
    assert "against Joint: behind, -" in verdict(0.5, 0.6)
    assert "against Joint: not told apart, " in verdict(0.51, 0.5)
    assert "with one seed: no interval, nothing is shown" in verdict(0.6, 0.5, seeds=1)


def test_a_budget_that_was_not_spent_is_said(plan: Plan, finish: Finish, compare: Compare):
    units = plan(seeds=[0])
    for unit in units.values():
        finish(unit, {"io": 0.5, "code": 0.5}, tokens=10 if unit.arm == "joint" else 100)
    found = analyse(compare(seeds=[0]), list(units.values()))
    said = list(sentences(compare(seeds=[0]), found, Status(3, 3, {})))
    assert "not at equal tokens: joint ran into max_steps before the budget was spent" in said
    assert "100 (budget not spent)" in markdown(compare(seeds=[0]), found, Status(3, 3, {}))


def test_several_states_of_the_code_are_said(plan: Plan, finish: Finish, compare: Compare):
    units = plan(seeds=[0])
    git = {"commit": "1abcdef0123456789", "dirty": False}
    # The second is of a version that kept no hash of its code.
    made_with = iter([{"code": "2abcdef0123456789", "git": git}, {"git": git}])
    for unit in units.values():
        finish(unit, {"io": 0.5, "code": 0.5})
        if unit.kind == "run":
            (unit.folder / "versions.json").write_text(json.dumps(next(made_with)))
    found = codes(list(units.values()))
    assert found == ["1abcdef0123456789", "2abcdef0123456789"]
    analysis = analyse(compare(seeds=[0]), list(units.values()))
    said = list(sentences(compare(seeds=[0]), analysis, Status(3, 3, {}, found)))
    assert any("with 2 states of astor-rl's code (1abcdef012, 2abcdef012)" in s for s in said)


def test_joint_is_who_has_that_role_the_reference_too(plan: Plan, finish: Finish, compare: Compare):
    units = plan(seeds=[0])
    for unit in units.values():
        top = {"joint": 0.5, "astor": 0.3, "start": 0.1}[unit.arm]
        looks = {0: {"io": 0.1, "code": 0.1}, 10: {"io": top, "code": top}}
        finish(unit, looks[10], looks)
    comparison = compare(seeds=[0], reference="joint")
    made = document(comparison, analyse(comparison, list(units.values())), Status(3, 3, {}))
    assert made["arms"]["joint"]["tokens_to_joint"]["reached"] == 1
    assert made["arms"]["astor"]["tokens_to_joint"]["reached"] == 0


def test_a_name_makes_no_role(plan: Plan, finish: Finish, compare: Compare):
    arms = [{"name": "astor"}, {"name": "joint", "set": {"schedule.method": "sec"}}]
    units = plan(arms=arms, seeds=[0])
    for unit in units.values():
        finish(unit, {"io": 0.5, "code": 0.5}, {0: {"io": 0.1, "code": 0.1}})
    comparison = compare(arms=arms, seeds=[0])
    analysis = analyse(comparison, list(units.values()))
    assert {e.name: e.role for e in analysis.entrants}["joint"] == "scheduler"
    assert "joint" not in analysis.headline


def test_screen_and_markdown_show_every_arm_and_task(
    found: Analysis, compare: Compare, done: dict[str, Unit]
):
    comparison = compare(arms=ALL, seeds=[0, 1, 2])
    status = Status(len(done), len(done), {"x/seed-9": "error: it broke"})
    page = markdown(comparison, found, status)
    for encoding in ("utf-8", "ascii"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        render(comparison, found, status, stream)
        stream.seek(0)
        shown = stream.read()
        for arm in ALL:
            assert str(arm["name"]) in shown
            assert str(arm["name"]) in page
    assert "- x/seed-9: error: it broke" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    blocks: list[set[int]] = []
    for row in rows:
        if "---" in row:
            blocks.append(set())
        if blocks:
            blocks[-1].add(row.count("|"))
    assert len(blocks) == 5
    assert math.isfinite(sum(len(block) for block in blocks))
