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
from astor_rl.compare.exchange import (
    check_export,
    check_one_making,
    check_whole,
    export_results,
    import_results,
)
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

SCORES = {"io": 0.5, "code": 0.5}


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
    assert (found.new, found.here) == (len(units), 0)
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
    with pytest.raises(DataError, match="no unit is finished: there is nothing to export"):
        export_results([units["astor/seed-0"]], tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_a_second_import_changes_nothing(plan: Plan, finish: Finish, tmp_path: Path):
    units = plan()
    finish_all(units, finish)
    export_results(list(units.values()), tmp_path / "r.jsonl")
    found = import_results(tmp_path / "r.jsonl", list(units.values()))
    assert (found.new, found.here) == (0, len(units))
    assert not any(records.is_imported(unit) for unit in units.values())


@pytest.mark.parametrize(
    ("test", "curve", "tokens"),
    [
        ({"io": 0.9, "code": 0.9}, {0: {"io": 0.1, "code": 0.4}}, 105),
        ({}, {0: {"io": 0.2, "code": 0.4}}, 105),
        ({}, {0: {"io": 0.1, "code": 0.4}}, 999),
    ],
    ids=["scores", "curve", "tokens"],
)
def test_another_result_of_a_unit_that_is_here_is_refused(
    plan: Plan,
    finish: Finish,
    tmp_path: Path,
    test: dict[str, float],
    curve: dict[int, dict[str, float]],
    tokens: int,
):
    units = plan()
    finish_all(units, finish)
    export_results(list(units.values()), tmp_path / "r.jsonl")
    last = list(units.values())[-1]
    same = {"io": 0.1 + 5 / 70, "code": 0.4 + 5 / 35}
    finish(last, test or same, {**curve, 10: test or same}, tokens=tokens)
    with pytest.raises(StateError, match=f"{last.name} is finished here.*has another result"):
        import_results(tmp_path / "r.jsonl", list(units.values()))


def test_what_has_begun_here_is_not_overwritten(plan: Plan, finish: Finish, tmp_path: Path):
    units = plan()
    finish_all(units, finish)
    export_results(list(units.values()), tmp_path / "r.jsonl")
    elsewhere(units, tmp_path)
    begun = units["joint/seed-1"]
    records.begin(begun)
    with pytest.raises(StateError, match="joint/seed-1 has begun here"):
        import_results(tmp_path / "r.jsonl", list(units.values()))
    assert not records.is_finished(units["start/seed-0"])  # nothing of the file was taken
    begun.record.unlink()
    begun.folder.mkdir()
    with pytest.raises(StateError, match="joint/seed-1 has begun here"):
        import_results(tmp_path / "r.jsonl", list(units.values()))


def test_an_import_that_is_killed_midway_can_be_done_again(
    plan: Plan, finish: Finish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    units = plan()
    finish_all(units, finish)
    export_results(list(units.values()), tmp_path / "r.jsonl")
    elsewhere(units, tmp_path)
    whole, left = records.adopt, [None, None, None]

    def killed(unit: Unit, **result: Any) -> None:
        left.pop()
        whole(unit, **result)

    monkeypatch.setattr(records, "adopt", killed)
    with pytest.raises(IndexError):
        import_results(tmp_path / "r.jsonl", list(units.values()))
    monkeypatch.undo()
    assert [records.is_finished(unit) for unit in units.values()] == [True] * 3 + [False] * 3
    found = import_results(tmp_path / "r.jsonl", list(units.values()))
    assert (found.new, found.here) == (3, 3)


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
    units = plan(arms=ARMS)
    finish_all(units, finish)
    path = tmp_path / "r.jsonl"
    export_results(list(units.values()), path)
    elsewhere(units, tmp_path)
    (tmp_path / "io.jsonl").write_text('{"id": "another"}\n')
    other = list(plan(arms=ARMS).values())
    with pytest.raises(StateError, match="was made with another inputs.jsonl:io.jsonl"):
        import_results(path, other)
    assert import_results(path, other, inputs=False).new == len(units)
    elsewhere(units, tmp_path)
    for name in ("io.jsonl", "code.jsonl"):
        (tmp_path / name).unlink()
    without = list(plan(arms=ARMS).values())
    assert import_results(path, without).new == len(units)
    check_one_making(without)
    # To train more of it the data is needed, and must be that.
    with pytest.raises(StateError, match="'jsonl:code.jsonl code.jsonl', which isn't here; bring"):
        records.check_unchanged(without)
    (tmp_path / "code.jsonl").write_text('{"id": "code"}\n')
    (tmp_path / "io.jsonl").write_text('{"id": "another"}\n')
    with pytest.raises(StateError, match="inputs.jsonl:io.jsonl"):
        records.check_unchanged(list(plan(arms=ARMS).values()))


def test_results_of_different_data_are_not_mixed_where_the_data_is_not(
    plan: Plan, finish: Finish, tmp_path: Path
):
    for seed in (0, 1):
        (tmp_path / "io.jsonl").write_text(f'{{"id": "{seed}"}}\n')
        mine = plan(seeds=[seed])
        finish_all(mine, finish)
        export_results(list(mine.values()), tmp_path / f"{seed}.jsonl")
        elsewhere(mine, tmp_path)
    (tmp_path / "io.jsonl").unlink()
    units = list(plan().values())
    for seed in (0, 1):
        import_results(tmp_path / f"{seed}.jsonl", units)
    with pytest.raises(StateError, match="were made from different 'jsonl:io.jsonl io.jsonl'"):
        check_one_making(units)


def test_results_of_different_keys_are_not_mixed(plan: Plan, finish: Finish, tmp_path: Path):
    before, after = plan(seeds=[0]), plan(seeds=[0, 1], set={"beta": 0.25})
    finish_all(before, finish)
    finish(after["start/seed-1"], {"io": 0.1, "code": 0.1})
    finish(after["joint/seed-1"], {"io": 0.1, "code": 0.1})
    with pytest.raises(StateError, match="astor/seed-0 was made with another beta: 0.001 -> 0.25"):
        check_one_making(list(after.values()))


def test_an_export_never_loses_what_another_has(plan: Plan, finish: Finish, tmp_path: Path):
    units = plan()
    finish_all(units, finish)
    path = tmp_path / "r.jsonl"
    export_results(list(units.values()), path)
    kept = path.read_bytes()
    few = [unit for unit in units.values() if unit.seed == 0]
    with pytest.raises(DataError, match="has 'start/seed-1', which isn't finished here; --import"):
        export_results(few, path)
    assert path.read_bytes() == kept
    (tmp_path / "mine.txt").write_text("a letter")
    with pytest.raises(DataError, match="holds no results of a comparison"):
        check_export(tmp_path / "mine.txt")
    with pytest.raises(DataError, match="can't be read"):
        check_export(tmp_path)
    check_export(tmp_path / "a" / "new.jsonl")


@pytest.mark.parametrize("text", ["", '{"format": "else"}\n', "[1]\n{}\n", "\x00"])
def test_another_file_is_refused(plan: Plan, tmp_path: Path, text: str):
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(DataError, match="holds no results of a comparison"):
        import_results(tmp_path / "r.jsonl", list(plan().values()))
    with pytest.raises(DataError, match=r"nowhere.jsonl' can't be read"):
        import_results(tmp_path / "nowhere.jsonl", list(plan().values()))


def test_another_version_is_named(plan: Plan, tmp_path: Path):
    (tmp_path / "r.jsonl").write_text('{"format": "astor compare results", "version": 2}\n')
    with pytest.raises(DataError, match="has version 2 of the format, and this release reads 1"):
        import_results(tmp_path / "r.jsonl", list(plan().values()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": None}, r"r.jsonl:7: steps = None: .* valid array; export it again"),
        ({"steps": [[-3, 5]]}, r"r.jsonl:7: steps\[0\]\[0\] = -3: "),
        ({"steps": [[1, -5]]}, r"r.jsonl:7: steps\[0\]\[1\] = -5: "),
        ({"steps": [[1, 10**400]]}, r"r.jsonl:7: steps\[0\]\[1\] = 10000"),
        ({"steps": [[1, 5], [1, 5]]}, r"r.jsonl:7: .*not in order"),
        ({"steps": [[1, 5]]}, r"r.jsonl:7: .*a look at step 10, and no such step"),
        ({"evaluations": {"../../../x": SCORES}}, r"r.jsonl:7: evaluations\."),
        (
            {"evaluations": {"after_rl": {"io": 1e308, "code": 0.5}}},
            r"evaluations.after_rl.io = 1e\+308: ",
        ),
        (
            {"evaluations": {"after_rl": SCORES, "step_0": {"io": 0.5}}},
            r"not all of the same tasks",
        ),
        ({"evaluations": {"after_rl": {}, "step_10": {}}, "outcomes": {}}, r"r.jsonl:7: .*tasks"),
        ({"evaluations": {"after_rl": SCORES, "step_0": SCORES}}, r"joint/seed-1 has no 'step_10'"),
        ({"evaluations": {"step_10": SCORES}}, r"joint/seed-1 has no 'after_rl'"),
        ({"outcomes": {"io": [float("nan")], "code": []}}, r"r.jsonl:7: outcomes.io\[0\] = nan: "),
        ({"outcomes": {"io": [1.0], "code": [1.0, 1.0]}}, r"r.jsonl:7: outcomes of 'io'"),
        ({"outcomes": {"else": [1.0, 0.0]}}, r"r.jsonl:7: .*not all of the same tasks"),
        ({"unit": "joint/seed-0"}, r"r.jsonl:7: 'joint/seed-0' is there twice"),
        ({"kind": "merge"}, r"joint/seed-1 is a merge there and a run here"),
        ({"of": ["nobody"]}, r"r.jsonl:7: 'nobody' is not above"),
        ({"environment": 7}, r"there is no environment 7"),
        ({"seconds": -1.0}, r"r.jsonl:7: seconds = -1.0: "),
        ({"more": 1}, r"r.jsonl:7: unknown key 'more'; the keys there: unit, kind"),
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
    state.write_text('{"code": "abc", "base_dir": "my folder"}')
    export_results(list(units.values()), tmp_path / "r.jsonl")
    assert "my folder" not in (tmp_path / "r.jsonl").read_text()
    elsewhere(units, tmp_path)
    import_results(tmp_path / "r.jsonl", list(units.values()))
    assert codes(list(units.values())) == ["abc"]


def test_the_environment_goes_along_once(plan: Plan, finish: Finish, tmp_path: Path):
    units = plan()
    finish_all(units, finish)
    for number, unit in enumerate(units.values()):
        state = {"code": "abc", "python": f"3.1{number % 2}"}
        unit.folder.mkdir(exist_ok=True)
        (unit.folder / "versions.json").write_text(json.dumps(state))
    path, again = tmp_path / "r.jsonl", tmp_path / "again.jsonl"
    export_results(list(units.values()), path)
    head, *lines = map(json.loads, path.read_text().splitlines())
    assert head["environments"] == [{"python": "3.10"}, {"python": "3.11"}]
    assert [line["environment"] for line in lines] == [0, 1, 0, 1, 0, 1]
    elsewhere(units, tmp_path)
    import_results(path, list(units.values()))
    export_results(list(units.values()), again)
    assert path.read_bytes() == again.read_bytes()


def test_nothing_takes_an_imported_unit_for_a_run(plan: Plan, finish: Finish, tmp_path: Path):
    units = plan()
    finish_all(units, finish)
    export_results(list(units.values()), tmp_path / "r.jsonl")
    elsewhere(units, tmp_path)
    import_results(tmp_path / "r.jsonl", list(units.values()))
    assert not any(unit.folder.exists() for unit in units.values())
