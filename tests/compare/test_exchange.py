"""Results that go from one machine to another, or outlive their runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from astor_rl.compare import records
from astor_rl.compare.analysis import analyse
from astor_rl.compare.document import Status, document
from astor_rl.compare.exchange import check_whole, export_results, import_results
from astor_rl.compare.results import codes, read_results
from astor_rl.compare.spec import CompareConfig
from astor_rl.compare.units import Unit
from astor_rl.errors import DataError, StateError

Plan = Callable[..., dict[str, Unit]]
Compare = Callable[..., CompareConfig]
Finish = Callable[..., None]

ARMS = [
    {"name": "astor"},
    {"name": "joint", "set": {"schedule.method": "uniform"}},
    {"name": "alone", "kind": "specialists", "budget": "share"},
    {"name": "merged", "kind": "merge", "of": "alone"},
]


def finish_all(units: dict[str, Unit], finish: Finish) -> None:
    """Every unit scores something else than every other."""
    for number, unit in enumerate(units.values()):
        test = {"io": 0.1 + number / 70, "code": 0.4 + number / 35}
        curve = {0: {"io": 0.1, "code": 0.4}, 10: test}
        finish(unit, test, curve, tokens=100 + number)


def elsewhere(units: dict[str, Unit], tmp_path: Path) -> None:
    """Take the runs away, as on another machine."""
    shutil.rmtree(tmp_path / "out")
    assert not any(records.is_finished(unit) for unit in units.values())


def changed(path: Path, **changes: Any) -> None:
    """Change the last unit's line."""
    lines = path.read_text().splitlines()
    lines[-1] = json.dumps({**json.loads(lines[-1]), **changes})
    path.write_text("\n".join(lines) + "\n")


def test_what_was_exported_is_the_same_comparison_on_another_machine(
    plan: Plan, compare: Compare, finish: Finish, tmp_path: Path
):
    units, comparison = plan(arms=ARMS), compare(arms=ARMS)
    finish_all(units, finish)
    status = Status(0, 0, {})
    there = analyse(comparison, list(units.values()))
    assert export_results(list(units.values()), tmp_path / "r.jsonl") == len(units)
    elsewhere(units, tmp_path)
    found = import_results(tmp_path / "r.jsonl", list(units.values()))
    assert (found.taken, found.here) == (len(units), 0)
    here = analyse(comparison, list(units.values()))
    arms = document(comparison, here, status), document(comparison, there, status)
    for arm in ("joint", "alone", "merged"):  # of single outcomes six decimals are kept
        mine, theirs = (found["arms"][arm].pop("judging_error") for found in arms)
        assert mine == pytest.approx(theirs, abs=1e-6)
    assert arms[0] == arms[1]
    assert all(records.is_imported(unit) for unit in units.values())
    records.check_unchanged(list(units.values()))


def test_an_import_can_be_exported_again_to_the_same_bytes(
    plan: Plan, finish: Finish, tmp_path: Path
):
    units = plan(arms=ARMS)
    finish_all(units, finish)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    export_results(list(units.values()), first)
    elsewhere(units, tmp_path)
    import_results(first, list(units.values()))
    export_results(list(units.values()), second)
    assert first.read_bytes() == second.read_bytes()


def test_two_machines_share_the_seeds(plan: Plan, finish: Finish, tmp_path: Path):
    for seed in (0, 1):
        mine = plan(seeds=[seed])
        finish_all(mine, finish)
        export_results(list(mine.values()), tmp_path / f"{seed}.jsonl")
        elsewhere(mine, tmp_path)
    units = list(plan().values())
    for seed in (0, 1):
        import_results(tmp_path / f"{seed}.jsonl", units)
    assert all(records.is_finished(unit) for unit in units)
    assert len(read_results(units)) == 4


def test_only_finished_units_are_exported(plan: Plan, finish: Finish, tmp_path: Path):
    units = plan()
    finish(units["start/seed-0"], {"io": 0.1, "code": 0.4})
    records.begin(units["astor/seed-0"])
    assert export_results(list(units.values()), tmp_path / "r.jsonl") == 1
    assert export_results([], tmp_path / "none.jsonl") == 0
    assert import_results(tmp_path / "none.jsonl", list(units.values())).taken == 0


def test_a_second_import_changes_nothing(plan: Plan, finish: Finish, tmp_path: Path):
    units = plan()
    finish_all(units, finish)
    export_results(list(units.values()), tmp_path / "r.jsonl")
    found = import_results(tmp_path / "r.jsonl", list(units.values()))
    assert (found.taken, found.here) == (0, len(units))
    assert not any(records.is_imported(unit) for unit in units.values())


def test_other_scores_of_a_unit_that_is_here_are_refused(
    plan: Plan, finish: Finish, tmp_path: Path
):
    units = plan()
    finish_all(units, finish)
    export_results(list(units.values()), tmp_path / "r.jsonl")
    last = list(units.values())[-1]
    finish(last, {"io": 0.9, "code": 0.9})
    with pytest.raises(StateError, match=f"{last.name} is finished here.*has other scores"):
        import_results(tmp_path / "r.jsonl", list(units.values()))


def test_a_unit_that_has_begun_here_is_not_overwritten(plan: Plan, finish: Finish, tmp_path: Path):
    units = plan()
    finish_all(units, finish)
    export_results(list(units.values()), tmp_path / "r.jsonl")
    elsewhere(units, tmp_path)
    records.begin(units["joint/seed-1"])
    with pytest.raises(StateError, match="joint/seed-1 has begun here"):
        import_results(tmp_path / "r.jsonl", list(units.values()))
    assert not records.is_finished(units["start/seed-0"])  # nothing of the file was taken


def test_results_of_another_comparison_are_refused(plan: Plan, finish: Finish, tmp_path: Path):
    units = plan()
    finish_all(units, finish)
    export_results(list(units.values()), tmp_path / "r.jsonl")
    elsewhere(units, tmp_path)
    other = list(plan(set={"beta": 0.25}).values())
    with pytest.raises(StateError, match="was made with another beta: 0.001 -> 0.25"):
        import_results(tmp_path / "r.jsonl", other)
    with pytest.raises(DataError, match="'start/seed-1', and the comparison has no such unit"):
        import_results(tmp_path / "r.jsonl", list(plan(seeds=[0]).values()))


def test_data_that_is_not_here_is_no_difference_and_other_data_is(
    plan: Plan, finish: Finish, tmp_path: Path
):
    units = plan()
    finish_all(units, finish)
    export_results(list(units.values()), tmp_path / "r.jsonl")
    elsewhere(units, tmp_path)
    (tmp_path / "io.jsonl").write_text('{"id": "another"}\n')
    with pytest.raises(StateError, match="was made with another inputs.jsonl:io.jsonl"):
        import_results(tmp_path / "r.jsonl", list(plan().values()))
    (tmp_path / "io.jsonl").unlink()
    without = list(plan().values())
    assert import_results(tmp_path / "r.jsonl", without).taken == len(units)
    # To train more of it the data is needed, and must be that.
    (tmp_path / "io.jsonl").write_text('{"id": "another"}\n')
    with pytest.raises(StateError, match="inputs.jsonl:io.jsonl"):
        records.check_unchanged(list(plan().values()))


@pytest.mark.parametrize("text", ["", '{"format": "else"}\n', "[1]\n{}\n", "\x00"])
def test_another_file_is_refused(plan: Plan, tmp_path: Path, text: str):
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(DataError, match="holds no results of a comparison"):
        import_results(tmp_path / "r.jsonl", list(plan().values()))
    with pytest.raises(DataError, match=r"nowhere.jsonl' can't be read"):
        import_results(tmp_path / "nowhere.jsonl", list(plan().values()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": None}, r"r.jsonl:7: steps: "),
        ({"evaluations": {"../../../x": {"io": 0.5}}}, r"r.jsonl:7: evaluations"),
        ({"evaluations": {"step_1": {"io": 0.5}}}, r"joint/seed-1 has no 'after_rl'"),
        ({"outcomes": {"io": [float("nan")]}}, r"r.jsonl:7: outcomes.io.0"),
        ({"outcomes": {"io": [1.0]}}, r"joint/seed-1.*outcomes"),
        ({"outcomes": {"else": [1.0, 0.0]}}, r"joint/seed-1.*outcomes"),
        ({"more": 1}, r"r.jsonl:7: more"),
    ],
)
def test_a_damaged_line_is_refused_before_anything_is_written(
    plan: Plan, finish: Finish, tmp_path: Path, changes: dict[str, Any], said: str
):
    units = plan()
    finish_all(units, finish)
    path = tmp_path / "r.jsonl"
    export_results(list(units.values()), path)
    elsewhere(units, tmp_path)
    changed(path, **changes)
    with pytest.raises(DataError, match=said):
        import_results(path, list(units.values()))
    assert not (tmp_path / "out").exists()


def test_a_file_that_was_cut_is_refused(plan: Plan, finish: Finish, tmp_path: Path):
    units = plan()
    finish_all(units, finish)
    path = tmp_path / "r.jsonl"
    export_results(list(units.values()), path)
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines()[:-2]))
    with pytest.raises(DataError, match="has 4 of its 6 units"):
        import_results(path, list(units.values()))


def test_a_merge_of_specialists_without_weights_is_refused_before_anything_is_trained(
    plan: Plan, finish: Finish, tmp_path: Path
):
    units = plan(arms=ARMS, seeds=[0])
    finish_all(units, finish)
    few = [unit for unit in units.values() if unit.arm in ("start", "alone")]
    export_results(few, tmp_path / "r.jsonl")
    elsewhere(units, tmp_path)
    import_results(tmp_path / "r.jsonl", list(units.values()))
    every = list(units.values())
    with pytest.raises(StateError, match=r"merged/seed-0 needs the weights of alone/seed-0/io"):
        check_whole(every, every)
    # Runs don't need their start's weights where there was no warm-up.
    check_whole(every, [unit for unit in every if unit.kind != "merge"])


def test_a_run_needs_the_weights_of_its_warm_up(
    plan: Plan, finish: Finish, run_file: Callable[..., Path], tmp_path: Path
):
    run_file(warmup={"steps": 3})
    units = plan(seeds=[0])
    finish(units["start/seed-0"], {"io": 0.1, "code": 0.4})
    export_results(list(units.values()), tmp_path / "r.jsonl")
    elsewhere(units, tmp_path)
    import_results(tmp_path / "r.jsonl", list(units.values()))
    with pytest.raises(StateError, match="astor/seed-0 needs the weights of start/seed-0"):
        check_whole(list(units.values()), list(units.values()))


def test_the_code_they_were_trained_with_goes_along(plan: Plan, finish: Finish, tmp_path: Path):
    units = plan()
    finish_all(units, finish)
    state = units["joint/seed-0"].folder / "versions.json"
    state.write_text('{"code": "abc", "base_dir": "/home/me"}')
    export_results(list(units.values()), tmp_path / "r.jsonl")
    assert "/home/me" not in (tmp_path / "r.jsonl").read_text()
    elsewhere(units, tmp_path)
    import_results(tmp_path / "r.jsonl", list(units.values()))
    assert codes(list(units.values())) == ["abc"]
