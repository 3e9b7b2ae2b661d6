"""docs/verl.md and trl.md: what is recorded and refused, as far as it can be told without verl."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from astor_rl.config import load_config, parse_config
from astor_rl.engines import verl
from astor_rl.engines.trl import capabilities as of_trl
from astor_rl.engines.verl import capabilities, records
from astor_rl.engines.verl.figures import ledger_before
from astor_rl.engines.verl.groups import Groups, Verdict
from astor_rl.schedule.boundary import UPDATE_FIGURES

TASK = re.compile(r"^task/[^/]+/")


@pytest.fixture(scope="module")
def produced(manual) -> set[str]:
    """Names of a step's metrics, tasks' without their task: computed, or read off the source."""
    plan = manual.loop["plan"]
    names = sorted(manual.loop["chance"])
    config = parse_config(
        {
            "model": "m",
            "engine": "verl",
            "tasks": [
                {"name": name, "task": "io_prediction", "source": "jsonl:x.jsonl"} for name in names
            ],
        }
    )
    slots = [item.slot for item in plan.items]
    verdicts = [Verdict(1.0, 1.0, invalid=False)] * len(slots)
    groups = Groups(plan.items, slots, verdicts, [1] * len(slots), config)
    ones = torch.ones(len(slots), 1)
    ledger = ledger_before(
        groups, config, mask=ones, old_logprobs=-ones, ref_logprobs=-ones, sampler_logprobs=-ones
    )
    found = {"step", *groups.metrics(), *ledger.metrics(names)}
    found |= {f"task/any/{name}" for name in UPDATE_FIGURES} | manual.loop[
        "coordinator"
    ].metrics().keys()
    found |= {f"time/{name}" for name in records._TIMES.values()}
    (folder,) = verl.__path__
    source = {name: (Path(folder) / f"{name}.py").read_text() for name in ("trainer", "loss")}
    found |= set(re.findall(r'metrics\["([^"]+)"\] = ', source["trainer"]))
    losses = re.findall(r'metrics\[f?"([^"]+)"\] = ', source["loss"])
    assert losses == ["astor/kl_loss", "task/{name}/kl_loss"]
    others = "|".join(names)
    return {
        *(re.sub(rf"^cosine/({others})$", "cosine/<other>", TASK.sub("", name)) for name in found),
        *(f"actor/{name.replace('{', '<').replace('}', '>')}" for name in losses),
    }


def names_in(manual: Any, column: str) -> set[str]:
    rows = manual.table("verl", "What is recorded")
    return {name for row in rows if column in row for name in re.findall(r"`([^`]+)`", row[column])}


def test_what_is_missing_and_what_is_only_here(manual, produced):
    rows = manual.table("metrics", "metrics.jsonl")
    everywhere = {manual.code(row["name"]) for row in rows}
    missing = {TASK.sub("", name) for name in names_in(manual, "missing here")}
    assert missing == everywhere - produced
    assert names_in(manual, "only here") == produced - everywhere


def test_shipped_run_files_keep_to_a_clone_or_say_that_they_do_not(manual):
    for path in (manual.root / "configs").rglob("*.toml"):
        text = path.read_text(encoding="utf-8")
        assert ("shared/data" in text) == ("/../" in text) == (path.stem == "shared-data"), path
    assert "won't run from a clone" in (manual.root / "configs" / "shared-data.toml").read_text()
    papers = sorted((manual.root / "configs" / "paper").glob("*.toml"))
    assert len(papers) == 2
    for path in papers:
        assert "The data is not in this repository" in path.read_text(encoding="utf-8")
        for task in load_config(path).tasks:
            assert task.source == f"jsonl:data/{task.task}.train.jsonl.gz"
            assert task.test_source == f"jsonl:data/{task.task}.test.jsonl.gz"


def test_everything_of_the_run_file_that_verl_refuses_is_told(manual):
    source = inspect.getsource(capabilities._complaints)
    source += inspect.getsource(capabilities._about_lengths)
    keys = set(re.findall(r"config\.([a-z_]+(?:\.[a-z]+)?)", source)) - {"tasks"}
    assert len(keys) >= 11
    told = manual.section("verl", "What is refused")
    assert {key for key in keys if not re.search(rf"`{re.escape(key)}[` ]", told)} == set()


def test_every_option_that_trl_is_refused_for_is_told(manual):
    keys = set(
        re.findall(r'^\s+\(?"([a-z_.]+)",', inspect.getsource(of_trl.check_args), re.MULTILINE)
    )
    assert len(keys) >= 12
    in_words = {
        "world_size": "several processes",
        "loss_type": "`cispo`",
        "multi_objective_aggregation": "`normalize_then_sum`",
        "entropy_coef": "an entropy bonus",
        "use_adaptive_entropy": "an entropy bonus",
        "gradient_checkpointing_kwargs.use_reentrant": "use_reentrant",
    }
    asked = " ".join(row["asked for"] for row in manual.table("trl", "Limits"))
    assert {key for key in keys if in_words.get(key, key) not in asked} == set()
