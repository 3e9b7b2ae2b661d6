"""docs/your-own.md, tasks.md and getting-started.md: rows, tasks and the receipt are right."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from astor_rl.config import parse_config
from astor_rl.data.sources import load_source
from astor_rl.engines.preparation import prepare_tasks
from astor_rl.errors import DataError
from astor_rl.tasks.from_reward import RewardTask
from astor_rl.tasks.registry import KINDS, make_task
from astor_rl.tasks.validation import rollout_of


def kinds_of_rows(manual: Any) -> Iterator[tuple[str, dict[str, Any], str, dict[str, Any]]]:
    """Task kind, options, section and example of every kind of row that is documented."""
    for heading in re.findall(r"^### Rows of (.+)$", manual.text("your-own"), re.MULTILINE):
        kind, _, tier = heading.partition(", tier ")
        text = manual.section("your-own", f"Rows of {heading}")
        (line,) = manual.blocks(text, "json")
        yield kind, {"tier": tier} if tier else {}, text, json.loads(line)


def test_every_task_has_its_rows(manual):
    assert {kind for kind, *_ in kinds_of_rows(manual)} == set(KINDS)


def test_rows_hold_the_fields_that_tasks_read(manual):
    for kind, options, text, row in kinds_of_rows(manual):
        task = make_task(kind, options, None)
        fields = {manual.code(entry["field"]): entry[""] for entry in manual.rows(text)}
        # `reference_tests` is kept as `tests`.
        assert set(task.example(row, origin="here").fields) <= fields.keys() | {"tests"}, kind
        for name, need in fields.items():
            without = {field: value for field, value in row.items() if field != name}
            if need == "required":
                with pytest.raises(DataError, match=name):
                    task.example(without, origin="here")
            elif need.startswith("required, or"):
                without.pop(manual.code(need), None)
                with pytest.raises(DataError):
                    task.example(without, origin="here")
                assert task.example({**without, name: "Say something"}, origin="here")
            else:
                assert need == "optional"
                assert task.example(without, origin="here")


def test_example_rows_are_judged_right(manual, pool):
    for kind, options, _, row in kinds_of_rows(manual):
        task = make_task(kind, options, pool)
        report = asyncio.run(task.validate([task.example(row, origin=kind)]))
        assert report.ok, report


def test_tasks_report_the_metrics_that_are_listed(manual, pool):
    listed: dict[str, set[str]] = {}
    for kind in KINDS:
        table = {row["part"]: row[""] for row in manual.table("tasks", kind)}
        listed[kind] = set(re.findall(r"`(\w+)`", table["metrics"]))
    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for kind, options, _, row in kinds_of_rows(manual):
        variants = [options]
        if kind == "io_prediction":
            variants = [{"direction": "input"}, {"direction": "output"}]
        if kind == "unit_test_generation":
            row = {**row, "buggy": row["mutants"][0]["code"]}
        for variant in variants:
            task = make_task(kind, variant, pool)
            example = task.example(row, origin="here")
            (score,) = asyncio.run(task.score([(example, rollout_of(task.answer(example)))]))
            assert score.outcome >= task.ceiling(example)
            found[kind] |= score.metrics.keys()
    assert found == listed


def test_own_tasks_load_and_tell_right_from_wrong(manual, pool, tmp_path: Path, monkeypatch):
    text = manual.section("your-own", "Your own task")
    configs = [tomllib.loads(block)["tasks"][0] for block in manual.blocks(text, "toml")]
    modules, lines = manual.blocks(text, "python"), manual.blocks(text, "json")
    assert len(configs) == 2
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module, config, line in zip(modules, configs, lines, strict=True):
        name = module.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(module, encoding="utf-8")
        (tmp_path / config["source"].removeprefix("jsonl:")).write_text(line, encoding="utf-8")
    run = parse_config(
        {"model": "m", "tasks": configs, "data": {"validation_share": 0, "test_share": 0}}
    )
    for one in prepare_tasks(run, sandbox=pool, render=lambda _: (), base_dir=tmp_path):
        assert len(one.train) == 1
        report = asyncio.run(one.task.validate(one.train))
        assert report.ok, report


def test_columns_name_the_sources_own(manual, tmp_path: Path):
    block = next(b for b in manual.blocks(manual.text("your-own"), "toml") if "columns" in b)
    columns = tomllib.loads(block)["tasks"][0]["columns"]
    text = manual.section("your-own", "Rows of code_generation, tier function")
    (line,) = manual.blocks(text, "json")
    row = {columns.get(field, field): value for field, value in json.loads(line).items()}
    (tmp_path / "x.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (found,) = load_source(
        "jsonl:x.jsonl", base_dir=tmp_path, task_kind="code_generation", columns=columns
    )
    assert make_task("code_generation", {}, None).example(found.fields, origin=found.origin)


def test_the_receipt_is_the_loops_and_adds_up(manual):
    (shown,) = map(json.loads, manual.blocks(manual.text("getting-started"), "json"))
    plan = manual.loop["plan"]
    made = {"step": plan.revision + 1, "plan": plan.id, **plan.receipt.as_dict()}
    assert shown.keys() == made.keys()
    assert {k: shown[k] for k in shown if k not in ("tasks", "notes")} == {
        k: made[k] for k in made if k not in ("tasks", "notes")
    }
    assert shown["notes"] == list(made["notes"])
    parts = ("base", "method", "potential", "synergy", "cost")
    parts += ("floor", "rounding", "availability")
    for name, task in made["tasks"].items():
        figures = {part: value for part, value in task.items() if part != "terms"}
        assert shown["tasks"][name].pop("terms") == task["terms"] == {}
        assert shown["tasks"][name] == pytest.approx(figures, abs=6e-6), name
        assert sum(task[part] for part in parts) == pytest.approx(task["share"], abs=1e-12)


def test_the_receipts_table_follows_one_task(manual):
    (shown,) = map(json.loads, manual.blocks(manual.text("getting-started"), "json"))
    total = 0.0
    for row in manual.table("getting-started", "A receipt, line by line"):
        part = manual.code(row["part"])
        assert float(row[""]) == shown["tasks"]["code"][part]
        if part == "share":
            assert float(row[""]) == pytest.approx(total, abs=1e-9)
        else:
            total += float(row[""])
            assert float(row["so far"]) == pytest.approx(total, abs=1e-9)


def test_verdicts_are_the_tasks_own(manual):
    for row in manual.table("sandbox", "Verdicts"):
        name, *tier = re.findall(r"`(\w+)`", row["task"])
        options = {"tier": tier[0]} if tier else {}
        task = RewardTask if name == "from_reward" else make_task(name, options, None)
        assert manual.code(row["verdict"]) == task.verdict, row["task"]
    for kind in KINDS:
        verdicts = re.findall(r"`(unforgeable|detected-only)`", manual.section("tasks", kind))
        assert verdicts[0] == make_task(kind, {}, None).verdict
