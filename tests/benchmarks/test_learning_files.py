from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from benchmarks.learning import laboratory, results
from benchmarks.learning.results import page

from astor_rl.compare.exchange import export_results, import_results
from astor_rl.compare.spec import CompareConfig, load_comparison
from astor_rl.compare.units import plan_units
from astor_rl.config import load_config
from astor_rl.schedule.baselines.options import METHODS

ROOT = Path(__file__).parents[2]
HERE = ROOT / "benchmarks" / "learning"


def _comparison(name: str) -> CompareConfig:
    return load_comparison(HERE / name)


def test_the_run_files_ask_what_the_start_was_trained_on() -> None:
    config = load_config(HERE / "lab.toml")
    assert {t.name: (t.task, t.options) for t in config.tasks} == dict(laboratory.KINDS)
    assert not config.warmup.steps


def test_the_laboratories_differ_in_their_folder_only() -> None:
    a, b = (load_config(HERE / name).resolved() for name in ("lab.toml", "lab-b.toml"))
    assert str(a).replace("learning/a/", "learning/b/") == str(b)
    for name in ("compare", "first"):
        one, other = (_comparison(f"{name}{which}.toml") for which in ("", "-b"))
        assert one.max_tokens == other.max_tokens
        assert one.seeds == other.seeds
        arms = {arm.name: arm.set for arm in one.arms}
        assert {arm.name: arm.set for arm in other.arms}.items() <= arms.items()


def test_tuning_sees_no_seed_and_no_example_that_arms_are_judged_on() -> None:
    lab, tune = (load_config(HERE / name).resolved() for name in ("lab.toml", "lab-tune.toml"))
    assert str(tune).replace("-tuning.jsonl", "-test.jsonl") == str(lab)
    assert {t["test_source"] for t in tune["tasks"]}.isdisjoint(
        t["test_source"] for t in lab["tasks"]
    )
    trials = _comparison("tune.toml")
    for name in ("compare.toml", "first.toml", "second-b.toml"):
        assert set(trials.seeds).isdisjoint(_comparison(name).seeds)
        assert trials.max_tokens == _comparison(name).max_tokens


def test_the_mixed_up_tasks_are_the_only_difference() -> None:
    lab, mixed = (load_config(HERE / name).resolved() for name in ("lab.toml", "lab-mixed.toml"))
    assert mixed["tasks"][:-2] == lab["tasks"]
    assert [task["name"] for task in mixed["tasks"][-2:]] == ["io-mixed", "code-mixed"]
    differing = {key for key in lab if lab[key] != mixed[key]}
    assert differing == {"tasks", "baseline"}  # a curriculum's length follows the budget
    assert _looked_at().isdisjoint(_comparison("compare-mixed.toml").seeds)


def test_the_learning_rate_is_the_only_difference() -> None:
    judged, rate = _comparison("first.toml"), _comparison("compare-rate.toml")
    assert (rate.base, rate.max_tokens) == (judged.base, judged.max_tokens)
    assert (judged.set, rate.set) == ({}, {"learning_rate": 2e-3})
    assert rate.arms[:2] == [arm for arm in judged.arms if arm.name in {"astor", "joint"}]
    assert [arm.set for arm in rate.arms[2:]] == [{"potential.scale": "task_rms"}]
    assert _looked_at().isdisjoint(rate.seeds)


def _looked_at() -> set[int]:
    return {seed for name in ("first.toml", "tune.toml") for seed in _comparison(name).seeds}


def test_the_second_round_has_fresh_seeds_and_differs_by_what_trials_chose() -> None:
    trials = {arm.name: arm.set for arm in _comparison("tune.toml").arms}
    second, before = _comparison("second-b.toml"), _comparison("first-b.toml")
    assert _looked_at().isdisjoint(second.seeds)
    assert (second.base, second.max_tokens) == (before.base, before.max_tokens)
    arms = {arm.name: arm for arm in before.arms}
    for arm in second.arms:
        chosen = trials["task-rms-cost-aware"] if arm.name == "astor" else {}
        assert arm == arms[arm.name].model_copy(update={"set": chosen or arm.set})


def test_the_third_round_differs_from_the_first_by_one_option_and_the_seeds() -> None:
    changed = {"astor": {"potential.scale": "task_rms"}, "range": {}}
    for name, earlier in (("compare.toml", "first.toml"), ("compare-b.toml", "first-b.toml")):
        third, first = _comparison(name), _comparison(earlier)
        assert _looked_at().isdisjoint(third.seeds)
        assert (third.base, third.max_tokens) == (first.base, first.max_tokens)
        before = {arm.name: arm.set for arm in first.arms} | changed
        assert {arm.name: arm.set for arm in third.arms}.items() <= before.items()


def test_ten_seeds_for_the_papers_arms_and_the_strongest_schedulers_three_for_the_rest() -> None:
    comparison = _comparison("compare.toml")
    ten = [arm.name for arm in comparison.arms if len(comparison.seeds_of(arm)) == 10]
    papers = ["astor", "joint", "curriculum", "specialists-share", "merging"]
    assert ten[:8] == [*papers, "curriculum-prompts", "greso", "adarft"]
    assert {len(comparison.seeds_of(arm)) for arm in comparison.arms} == {3, 10}


@pytest.mark.parametrize("name", ["compare.toml", "compare-b.toml"])
def test_the_comparisons_can_be_planned(name: str) -> None:
    comparison = _comparison(name)
    units = Counter(unit.arm for unit in plan_units(comparison, base_dir=HERE))
    assert units["astor"] == units["joint"] == 10
    assert units["specialists-share"] == 40


def test_every_scheduler_takes_part() -> None:
    arms = _comparison("compare.toml").arms
    methods = {arm.set.get("schedule.method", "astor") for arm in arms if arm.kind == "run"}
    # Tasks of equal size: proportional is uniform.
    assert methods == set(METHODS) - {"single", "proportional"}


def test_the_small_model_comparison_can_be_planned() -> None:
    path = ROOT / "configs" / "compare-135m.toml"
    comparison = load_comparison(path)
    assert plan_units(comparison, base_dir=path.parent)


def _interval(mean: float, half: float | None) -> dict[str, Any]:
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "seeds": 3}


def _arm(kind: str, score: float) -> dict[str, Any]:
    return {
        "kind": kind,
        "budget_spent": True,
        "seeds": [0, 1, 2],
        "steps": {"0": 90, "1": 100, "2": 110},
        "tokens": {"0": 301_000, "1": 302_000, "2": 300_500},
        "test": {"mean": _interval(score, 0.01), "io": _interval(score, None)},
        "forgotten": {"io": _interval(0.02, 0.01)},
        "tokens_to_joint": {"reached": 1, "of": 3, "median": None},
    }


def test_the_page_says_what_the_record_says() -> None:
    record = {
        "finished": 5,
        "units": 9,
        "failed": {"tac/seed-1": "no memory"},
        "codes": ["a", "b"],
        "comparison": {"max_tokens": 300_000},
        "tasks": ["io"],
        "before_rl": {"io": _interval(0.25, None)},
        "arms": {
            "astor": {**_arm("run", 0.5), "budget_spent": False},
            "merging": _arm("merge", 0.4),
        },
        "gains": {"merging": {**_interval(25.0, 2.0), "against": ["merging"]}},
        "own_specialists": {"specialists": {"io": _interval(-0.05, 0.02)}},
        "astor_vs_merging": {**_interval(25.0, 2.0), "against": ["merging", "ties"]},
        "astor_vs_joint": {**_interval(-3.0, None), "against": ["joint"]},
        "astor_vs_curriculum": {**_interval(-9.0, 2.0), "against": ["curriculum"]},
        "astor_vs_best_specialist": dict.fromkeys(("mean", "low", "high"))
        | {"seeds": 3, "against": ["specialists"]},
        "astor_vs_best_scheduler": {
            **_interval(1.0, 2.0),
            "against": ["joint", "curriculum"],
            "left_out": ["sec", "tac"],
        },
    }
    text = page({"laboratories": {"A": record}}, "From here.")
    assert "5 of 9 units are finished" in text
    assert "**Not complete: 4 of 9 units are missing. All that follows is of those" in text
    assert "**Failed: tac/seed-1.**" in text
    assert "**Not at equal tokens: the steps of astor ended first.**" in text
    assert "Runs were trained with 2 states of the code" in text
    assert "| Merging (merging, ties) | +25.0% | [+23.0, +27.0] | 3 | ahead | +19.2% |" in text
    assert "| Joint | -3.0% | none | 3 | not told apart | +12.8% |" in text
    assert "| Curriculum | -9.0% | [-11.0, -7.0] | 3 | behind | +16.8% |" in text
    assert "| the best specialist (specialists) | undefined | none | 3 | unknown | +9.0% |" in text
    assert "| +1.0% | [-1.0, +3.0] | 3 | not told apart |  |" in text
    assert "arms with fewer seeds (or a score of 0) are left out: sec, tac." in text
    del record["astor_vs_best_scheduler"]
    record |= {"finished": 9, "failed": {}}
    text = page({"laboratories": {"A": record}}, "From here.")
    assert "| the best other scheduler | no result yet |  | 0 |  |  |" in text
    assert "Not complete" not in text
    assert "Failed" not in text
    assert "the best of all other schedulers" not in text
    assert "| before RL |  |  | 0.250 | 0.250 |  |" in text
    assert "| astor | 3 | 301,000 | 0.500 | 0.500 ± 0.010 |  |" in text
    assert "| merging | 3 | 301,000 | 0.400 | 0.400 ± 0.010 | +25.0 [+23.0, +27.0] |" in text
    assert "| specialists | -0.050 [-0.070, -0.030] |" in text
    assert "| astor | 100 | 1 of 3 | never | 0.020 |" in text
    assert "| merging | 100" not in text


def test_every_switch_in_the_docs_is_ablated() -> None:
    page = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    section = page.partition("## ASTOR with parts switched")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)?) = ", section))
    comparison = _comparison("ablations.toml")
    ablations = [arm for arm in comparison.arms if arm.role == "ablation"]
    assert {key for arm in ablations for key in arm.set} == named - {"utility.synergy_weight"}
    assert all(len(arm.set) == 1 for arm in ablations)
    assert plan_units(comparison, base_dir=HERE)


def test_ablations_are_judged_as_the_arms_are() -> None:
    arms, ablations = (_comparison(name) for name in ("compare.toml", "ablations.toml"))
    assert ablations.set == arms.arms[0].set
    assert (ablations.base, ablations.max_tokens) == (arms.base, arms.max_tokens)
    assert set(ablations.seeds) <= set(arms.seeds)
    assert ablations.output_dir != arms.output_dir


def test_the_results_page_is_made_from_what_is_kept() -> None:
    made = page(results.kept(), results.FROM_KEPT)
    assert results.PAGE.read_text(encoding="utf-8") == made, "python -m benchmarks.learning.results"


def test_what_is_kept_grows_by_what_has_finished_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (results.KEPT / "compare.jsonl").read_bytes()
    place = _comparison("compare.toml").model_copy(update={"output_dir": str(tmp_path / "out")})
    units = plan_units(place, base_dir=HERE)
    import_results(results.KEPT / "compare.jsonl", units, inputs=False)
    monkeypatch.setattr(results, "_comparison", lambda _: place)
    monkeypatch.setattr(results, "KEPT", tmp_path / "kept")
    results.keep("A")
    assert (tmp_path / "kept" / "compare.jsonl").read_bytes() == whole
    # Another machine has made other seeds than those that are kept.
    first, *rest = place.seeds
    (tmp_path / "kept" / "compare.jsonl").unlink()
    export_results([u for u in units if u.seed == first], tmp_path / "kept" / "compare.jsonl")
    for unit in units:
        if unit.seed == first:
            unit.record.unlink(missing_ok=True)
    assert rest
    results.keep("A")
    assert (tmp_path / "kept" / "compare.jsonl").read_bytes() == whole
