"""Units: which there are, in which order, with which config, and what would be unfair."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from astor_rl.compare.units import Unit, needed_for
from astor_rl.errors import ConfigError

Plan = Callable[..., dict[str, Unit]]
RunFile = Callable[..., Path]

ASTOR = {"name": "astor"}
FULL = {"name": "full", "kind": "specialists"}
SHARE = {"name": "share", "kind": "specialists", "budget": "share"}
MERGE = {"name": "merging", "kind": "merge", "of": "share", "method": "ties", "density": 0.5}


def test_seed_by_seed_what_is_needed_first(plan: Plan):
    units = plan(arms=[MERGE, ASTOR, SHARE])  # the merge is listed first and made last
    assert list(units) == [
        f"{name.format(seed=seed)}"
        for seed in (0, 1)
        for name in (
            "start/seed-{seed}",
            "astor/seed-{seed}",
            "share/seed-{seed}/io",
            "share/seed-{seed}/code",
            "merging/seed-{seed}",
        )
    ]
    assert units["start/seed-1"].needs == ()
    assert units["astor/seed-1"].needs == ("start/seed-1",)
    assert units["merging/seed-0"].needs == ("share/seed-0/io", "share/seed-0/code")
    assert units["merging/seed-0"].sources == tuple(
        units[name].folder for name in units["merging/seed-0"].needs
    )


def test_each_config_is_the_base_with_its_arms_changes(plan: Plan, tmp_path: Path):
    joint = {"name": "joint", "set": {"schedule": {"method": "uniform"}, "tasks.io.ratio": 2.0}}
    units = plan(arms=[ASTOR, joint, FULL, SHARE], set={"learning_rate": 0.5}, seeds=[3])
    for unit in units.values():
        assert unit.config.seed == 3
        assert unit.config.learning_rate == 0.5
        assert unit.config.output_dir == str(unit.folder) == str(tmp_path / "out/runs" / unit.name)
    assert units["start/seed-3"].config.max_steps == 0
    assert units["astor/seed-3"].config.schedule.method == "astor"
    assert units["astor/seed-3"].config.max_generated_tokens == 1000
    assert units["joint/seed-3"].config.schedule.method == "uniform"
    assert [task.ratio for task in units["joint/seed-3"].config.tasks] == [2.0, 1.0]
    special = units["full/seed-3/code"].config
    assert (special.schedule.method, special.baseline.task) == ("single", "code")
    assert special.max_generated_tokens == units["full/seed-3/code"].tokens == 1000
    assert units["share/seed-3/io"].config.max_generated_tokens == 500


def test_arms_may_have_seeds_of_their_own(plan: Plan):
    units = plan(arms=[ASTOR, {"name": "sec", "set": {"schedule.method": "sec"}, "seeds": [7]}])
    assert [name for name in units if name.startswith("sec")] == ["sec/seed-7"]
    assert "start/seed-7" in units
    assert "astor/seed-7" not in units


def test_arms_start_from_the_shared_warmup(plan: Plan, run_file: RunFile):
    run_file(warmup={"steps": 9})
    units = plan()
    assert units["start/seed-0"].config.warmup.steps == 9
    for seed in (0, 1):
        config = units[f"joint/seed-{seed}"].config
        assert config.warmup.steps == 0
        assert config.model == str(units[f"start/seed-{seed}"].folder / "base")


def test_without_a_warmup_arms_start_from_the_model(plan: Plan, tmp_path: Path):
    assert plan()["joint/seed-0"].config.model == str(tmp_path / "model")


def test_cores_are_divided_unless_the_base_says_how(plan: Plan, run_file: RunFile):
    cores = len(os.sched_getaffinity(0))
    config = plan(jobs=2)["astor/seed-0"].config
    assert config.torch_threads == config.sandbox.workers == max(1, cores // 2)
    run_file(torch_threads=3, sandbox={"workers": 5})
    config = plan(jobs=2)["astor/seed-0"].config
    assert (config.torch_threads, config.sandbox.workers) == (3, 5)


def test_what_it_depends_on(plan: Plan, run_file: RunFile, tmp_path: Path):
    before = plan(arms=[ASTOR, SHARE, MERGE])
    # Where and how fast it runs is no part of it.
    elsewhere = plan(
        arms=[ASTOR, SHARE, MERGE],
        jobs=2,
        output_dir=str(tmp_path / "other"),
        set={"save_steps": 3, "report_to": ["tensorboard"]},
    )
    assert all(elsewhere[name].made_from == unit.made_from for name, unit in before.items())

    def changed(**changes: Any) -> set[str]:
        after = plan(**{"arms": [ASTOR, SHARE, MERGE], **changes})
        return {
            n.split("/")[0] for n, unit in before.items() if after[n].made_from != unit.made_from
        }

    assert changed(set={"learning_rate": 0.25}) == {"astor", "share", "merging"}
    assert changed(arms=[ASTOR, {**SHARE, "set": {"beta": 0.5}}, MERGE]) == {"share", "merging"}
    assert changed(arms=[ASTOR, SHARE, {**MERGE, "density": 0.1}]) == {"merging"}
    assert changed(max_tokens=2000) == {"astor", "share", "merging"}
    assert changed(set={"eval.examples": 5}) == {"start", "astor", "share", "merging"}
    (tmp_path / "io.jsonl").write_text('{"id": "new"}\n')
    assert changed() == {"start", "astor", "share", "merging"}


def test_a_changed_model_folder_is_noticed(plan: Plan, tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"one")
    before = plan()["start/seed-0"].made_from
    assert plan()["start/seed-0"].made_from == before
    (tmp_path / "model" / "weights").write_bytes(b"two")
    assert plan()["start/seed-0"].made_from != before


def test_the_warmups_own_keys_count_only_with_one(plan: Plan, run_file: RunFile):
    plain = plan()["start/seed-0"].made_from
    assert plan(set={"lora.r": 3})["start/seed-0"].made_from == plain
    run_file(warmup={"steps": 2, "lora": True})
    warm = plan()["start/seed-0"].made_from
    assert plan(set={"lora.r": 3})["start/seed-0"].made_from != warm


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ({"set": {"model": "other"}}, "'model', which must be the same for all arms"),
        ({"set": {"seed": 3}}, "'seed'"),
        ({"set": {"output_dir": "x"}}, "'output_dir'"),
        ({"set": {"max_generated_tokens": 5}}, "'max_generated_tokens'"),
        ({"set": {"warmup": {"steps": 5}}}, r"'warmup\.steps'"),
        ({"set": {"eval": {"examples": 9}}}, r"eval\.examples = 9"),
        ({"set": {"max_completion_length": 9}}, "max_completion_length = 9"),
        ({"set": {"tasks.io.source": "jsonl:x"}}, r"tasks\.io\.source = 'jsonl:x'"),
        ({"set": {"tasks.io.options": {"direction": "both"}}}, r"tasks\.io\.options"),
        ({"set": {"learning_rat": 0.1}}, "did you mean 'learning_rate'"),
        ({"kind": "specialists", "set": {"schedule.method": "sec"}}, "'single'"),
    ],
)
def test_what_would_be_unfair_is_refused(plan: Plan, arm: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        plan(arms=[ASTOR, {"name": "odd", **arm}])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"eval": {"examples": 4}}, "eval.every is 0"),
        ({"eval": {"examples": 0, "every": 5}}, "eval.examples is 0"),
        ({"engine": "verl"}, "compare trains with the local engine"),
    ],
)
def test_a_base_that_cannot_be_compared(
    plan: Plan, run_file: RunFile, changes: dict[str, Any], says: str
):
    run_file(**changes)
    with pytest.raises(ConfigError, match=says):
        plan()


def test_all_seeds_answer_the_same_examples(plan: Plan, run_file: RunFile):
    assert {unit.config.data_seed for unit in plan().values()} == {0}
    run_file(seed=5)
    units = plan()
    assert {unit.config.data_seed for unit in units.values()} == {5}
    assert {unit.config.seed for unit in units.values()} == {0, 1}
    run_file(seed=5, data={"seed": 9})
    assert {unit.config.data_seed for unit in plan().values()} == {9}
    assert {unit.config.data_seed for unit in plan(set={"data.seed": 7}).values()} == {7}
    with pytest.raises(ConfigError, match=r"data\.seed = 3, which must be the same for all"):
        plan(arms=[ASTOR, {"name": "odd", "set": {"data.seed": 3}}])


def test_seeds_may_have_splits_of_their_own(plan: Plan, run_file: RunFile):
    run_file(seed=5)
    for unit in plan(same_examples=False).values():
        assert unit.config.data_seed == unit.config.seed == unit.seed
        assert unit.config.data.seed is None
    run_file(data={"seed": 9})
    with pytest.raises(ConfigError, match=r"all seeds would have data\.seed = 9; take one"):
        plan(same_examples=False)


def test_some_arms_and_what_they_need(plan: Plan):
    units = list(plan(arms=[ASTOR, FULL, SHARE, MERGE], seeds=[0]).values())
    found = [unit.name for unit in needed_for(units, ["merging"])]
    assert found == [
        "start/seed-0",
        "share/seed-0/io",
        "share/seed-0/code",
        "merging/seed-0",
    ]
    assert [unit.name for unit in needed_for(units, ["astor"])] == ["start/seed-0", "astor/seed-0"]
    with pytest.raises(
        ConfigError, match=r"--only astr: .*\(there are: astor, full, share, merging"
    ):
        needed_for(units, ["astr"])


def test_keys_of_the_comparison_are_its_own(plan: Plan):
    with pytest.raises(ConfigError, match="set: output_dir is the comparison's own"):
        plan(set={"output_dir": "x"})
