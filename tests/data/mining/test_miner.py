from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from astor_rl.data.mining import Mined, MiningOptions, mine, mine_package
from astor_rl.data.rows import TASK_KINDS
from astor_rl.data.sources import load_source
from astor_rl.data.splits import split_all
from astor_rl.errors import ConfigError, DataError
from astor_rl.sandbox.pool import ProcessPool

OPTIONS = MiningOptions(tries=20)
SOURCE = '''
def scale(value: int, limit: int = 3):
    """Multiply and cut.

    >>> scale(5)
    9
    """
    doubled = value * 2
    if doubled > limit * limit:
        return limit * limit
    return doubled

def initials(text):
    """Return the first letters of the words."""
    parts = text.split()
    return "".join(part[0] for part in parts)
'''


def test_four_tasks_come_out(
    make_package: Callable[..., Path], tmp_path: Path, sandbox: ProcessPool
) -> None:
    make_package(m=SOURCE)
    seen: list[tuple[str, int, int]] = []
    mined = mine(
        "./own", base_dir=tmp_path, sandbox=sandbox, options=OPTIONS,
        progress=lambda what, done, total: seen.append((what, done, total)),
    )  # fmt: skip
    assert set(mined.rows) == set(TASK_KINDS)
    assert all(mined.rows.values())
    assert {row.unit for rows in mined.rows.values() for row in rows} == {"m.scale", "m.initials"}
    assert all(0 <= row.difficulty <= 1 for rows in mined.rows.values() for row in rows)
    assert mined.counts()["io_prediction"] == {"own": len(mined.rows["io_prediction"])}
    assert seen[0][0] == "finding packages"
    assert all(done <= total for _, done, total in seen)
    assert {"reading", "trying functions", "checking problems", "running mutants"} <= {
        what for what, _, _ in seen
    }


def test_the_cache_gives_the_same_rows_without_a_sandbox(
    make_package: Callable[..., Path], tmp_path: Path, sandbox: ProcessPool
) -> None:
    make_package(m=SOURCE)
    first = mine("./own", base_dir=tmp_path, sandbox=sandbox, options=OPTIONS)
    again = mine("./own", base_dir=tmp_path, sandbox=None, options=OPTIONS)
    assert (first.from_cache, again.from_cache) == (False, True)
    assert again.rows == first.rows
    fresh = mine("./own", base_dir=tmp_path, sandbox=sandbox, options=OPTIONS, use_cache=False)
    assert fresh.rows == first.rows
    # Whatever decides the rows is part of the key.
    for options in (replace(OPTIONS, seed=1), replace(OPTIONS, tries=21)):
        with pytest.raises(ConfigError, match="needs a sandbox"):
            mine("./own", base_dir=tmp_path, sandbox=None, options=options)
    make_package(m=SOURCE + "\nX = 1\n")
    with pytest.raises(ConfigError, match="needs a sandbox"):
        mine("./own", base_dir=tmp_path, sandbox=None, options=OPTIONS)


def test_a_history_is_used_where_there_is_one(
    make_package: Callable[..., Path], tmp_path: Path, sandbox: ProcessPool
) -> None:
    folder = make_package(m=SOURCE)
    run = ["git", "-C", str(folder), "-c", "user.name=Ada", "-c", "user.email=a@example.org"]
    subprocess.run([*run, "init", "-q"], check=True)
    for number in range(4, 6):
        make_package(m=SOURCE.replace("= 3", f"= {number}"))
        subprocess.run([*run, "add", "-A"], check=True)
        message = f"Set the default limit to {number}"
        subprocess.run([*run, "commit", "-q", "-m", message], check=True)
    mined = mine("./own", base_dir=tmp_path, sandbox=sandbox, options=OPTIONS)
    ops = [row.fields["op"] for row in mined.rows["commit_message"]]
    assert ops.count("history") == 1
    assert len(set(ops)) > 2  # one commit is not enough to learn from


def test_mine_package_writes_what_jsonl_reads(
    make_package: Callable[..., Path], tmp_path: Path, sandbox: ProcessPool
) -> None:
    make_package(m=SOURCE)
    out = tmp_path / "out"
    mined = mine_package("./own", sandbox=sandbox, out=out, base_dir=tmp_path, options=OPTIONS)
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{k}.jsonl" for k in TASK_KINDS)
    for kind, rows in mined.rows.items():
        read = load_source(f"jsonl:{kind}.jsonl", base_dir=out, task_kind=kind)
        assert [(r.fields, r.unit) for r in read] == [(r.fields, r.unit) for r in rows]
    assert "unit" in json.loads((out / "io_prediction.jsonl").read_text().splitlines()[0])
    with pytest.raises(DataError, match="can't write"):
        mine_package(
            "./own", sandbox=sandbox, out=out / "io_prediction.jsonl", base_dir=tmp_path,
            options=OPTIONS,
        )  # fmt: skip


@pytest.mark.parametrize("spec", ["", " , "])
def test_nothing_to_mine_is_said(tmp_path: Path, sandbox: ProcessPool, spec: str) -> None:
    with pytest.raises(DataError, match="names nothing"):
        mine(spec, base_dir=tmp_path, sandbox=sandbox)


def test_nothing_found_is_said(
    make_package: Callable[..., Path], tmp_path: Path, sandbox: ProcessPool
) -> None:
    make_package(m="import os\n\ndef f(p):\n    return os.stat(p)\n")
    with pytest.raises(DataError, match="gave no examples") as caught:
        mine("./own", base_dir=tmp_path, sandbox=sandbox)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tries", "io_per_function", "max_commits"])
def test_bad_options_name_themselves(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        MiningOptions(**{name: -1})


def test_toolz_gives_enough(sandbox: ProcessPool, tmp_path: Path) -> None:
    mined = mine("toolz", base_dir=tmp_path, sandbox=sandbox)
    counts = {kind: sum(found.values()) for kind, found in mined.counts().items()}
    assert counts["io_prediction"] >= 150
    assert counts["code_generation"] >= 50
    assert counts["unit_test_generation"] >= 70
    assert counts["commit_message"] >= 120
    check_splits(mined)


@pytest.mark.slow
def test_the_quickstart_has_enough_of_everything(sandbox: ProcessPool, tmp_path: Path) -> None:
    """What `configs/quickstart.toml` mines: enough rows of enough functions in every split."""
    mined = mine("toolz,boltons,more_itertools,stdlib", base_dir=tmp_path, sandbox=sandbox)
    splits = check_splits(mined)
    for kind, found in splits.items():
        assert len(found.train) >= 600, kind
        assert len({row.unit for row in found.train}) >= 100, kind
        assert len(found.validation) >= 60, kind
        assert len(found.test) >= 60, kind


def check_splits(mined: Mined) -> dict:
    splits = split_all(mined.rows)
    units = {
        name: {row.unit for found in splits.values() for row in getattr(found, name)}
        for name in ("train", "validation", "test")
    }
    assert not units["train"] & units["validation"]
    assert not units["train"] & units["test"]
    assert not units["validation"] & units["test"]
    return splits
