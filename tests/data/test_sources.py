from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from astor_rl.data.mining import MiningOptions
from astor_rl.data.sources import load_source
from astor_rl.data.splits import SPLITS, split_all
from astor_rl.errors import ConfigError, DataError
from astor_rl.sandbox.pool import ProcessPool

ROWS = [{"id": f"a/f{n}#{m}", "input": f"{m}", "output": "1"} for n in range(3) for m in range(2)]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def load(spec: str, base: Path, **options: object) -> list:
    return load_source(spec, base_dir=base, task_kind="io_prediction", **options)  # type: ignore[arg-type]


def refused(spec: str, base: Path, **options: object) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        load(spec, base, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_lines_become_rows(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, ROWS)
    rows = load(f"jsonl:{name}", tmp_path)
    assert [row.fields["input"] for row in rows] == ["0", "1"] * 3
    assert [row.origin for row in rows][:2] == [f"{name}:1", f"{name}:2"]
    assert [row.unit for row in rows] == ["a/f0", "a/f0", "a/f1", "a/f1", "a/f2", "a/f2"]
    assert all(0 <= row.difficulty <= 1 for row in rows)


def test_patterns_read_every_file_in_order(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", ROWS[2:])
    write(tmp_path / "a.jsonl", ROWS[:2])
    assert [row.origin for row in load("jsonl:*.jsonl", tmp_path)][:3] == [
        "a.jsonl:1", "a.jsonl:2", "b.jsonl:1",
    ]  # fmt: skip
    assert "no file matches 'x*.jsonl'" in refused("jsonl:x*.jsonl", tmp_path)


def test_a_name_with_brackets_is_a_file_first(tmp_path: Path) -> None:
    write(tmp_path / "a[1].jsonl", ROWS)
    assert len(load("jsonl:a[1].jsonl", tmp_path)) == len(ROWS)


def test_empty_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\ufeff{"id": 1}\n\n{"id": 2}\n', encoding="utf-8")
    assert [row.origin for row in load("jsonl:a.jsonl", tmp_path)] == ["a.jsonl:1", "a.jsonl:3"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": 1', "not JSON: Expecting ',' delimiter at column 9"),
        ('{"id": "a\\ud800b"}', r"\ud800 is half of a surrogate pair"),
        ("[1]", "must be a JSON object, not list"),
        ('{"id": NaN}', "NaN isn't a JSON number"),
        ('{"id": 1, "difficulty": 3}', "'difficulty' is 3"),
        ('{"id": 1, "unit": 7}', "'unit' is 7"),
    ],
)
def test_a_bad_row_names_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 0}\n' + line + "\n")
    message = refused("jsonl:a.jsonl", tmp_path)
    assert "a.jsonl:2" in message
    assert says in message


def test_escapes_of_whole_characters_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(r'{"id": "\ud83d\ude00 \\ud800"}')
    (row,) = load("jsonl:a.jsonl", tmp_path)
    assert row.fields["id"] == "\U0001f600 \\ud800"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    whole = gzip.compress(b'{"id": 1}\n' * 500)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    (tmp_path / "folder.jsonl").mkdir()
    assert "empty.jsonl is empty" in refused("jsonl:empty.jsonl", tmp_path)
    assert "no file" in refused("jsonl:absent.jsonl", tmp_path)
    assert "damaged gzip" in refused("jsonl:cut.jsonl.gz", tmp_path)
    assert "latin.jsonl:1: not UTF-8" in refused("jsonl:latin.jsonl", tmp_path)
    assert "can't read" in refused("jsonl:folder.jsonl", tmp_path)


def test_columns_are_renamed(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"question": "q", "x": 1, "y": 2}])
    (row,) = load("jsonl:a.jsonl", tmp_path, columns={"prompt": "question", "x": "y", "y": "x"})
    assert {name: row.fields[name] for name in ("prompt", "x", "y")} == {
        "prompt": "q",
        "x": 2,
        "y": 1,
    }
    assert "question" not in row.fields
    message = refused("jsonl:a.jsonl", tmp_path, columns={"prompt": "task"})
    assert (
        "a.jsonl:1: no column 'task' for field 'prompt'; the columns are: question, x, y" in message
    )


def test_rows_without_identity_get_one_from_their_content(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"input": "1"}, {"input": "2"}, {"input": "1"}])
    units = [row.unit for row in load("jsonl:a.jsonl", tmp_path)]
    assert units[0] == units[2] != units[1]


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("a.jsonl", {}),
        ("jsonl:", {}),
        ("csv:a", {}),
        ("mine:toolz", {"columns": {"a": "b"}}),
    ],
)
def test_a_spec_that_is_not_understood(tmp_path: Path, spec: str, options: dict) -> None:
    assert refused(spec, tmp_path, **options)


def test_mined_rows_of_another_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task 'poetry' needs another source"):
        load_source("mine:toolz", base_dir=tmp_path, task_kind="poetry")


def test_mined_splits_agree_across_tasks(
    make_package: Callable[..., Path], sandbox: ProcessPool, tmp_path: Path
) -> None:
    make_package(
        **{
            f"m{n}": f"def add_{n}(a: int, b: int):\n    c = a * {n} + b\n    return c - {n}\n"
            for n in range(12)
        }
    )
    rows = {
        kind: load_source(
            "mine:./own", base_dir=tmp_path, task_kind=kind, sandbox=sandbox,
            mining=MiningOptions(tries=10),
        )
        for kind in ("io_prediction", "code_generation", "unit_test_generation")
    }  # fmt: skip
    found = split_all(rows).values()
    units = {name: {row.unit for part in found for row in getattr(part, name)} for name in SPLITS}
    assert units["train"]
    assert not units["train"] & (units["validation"] | units["test"])
    assert not units["validation"] & units["test"]


@pytest.mark.shared
def test_the_shared_files_load(shared_data: Path) -> None:
    for name in ("io_prediction.train.mbpp", "commit_message.heldout.python_repos"):
        kind = name.split(".")[0]
        rows = load_source(f"jsonl:{name}.jsonl.gz", base_dir=shared_data, task_kind=kind)
        assert len(rows) > 300
        assert len({row.unit for row in rows}) > 100
