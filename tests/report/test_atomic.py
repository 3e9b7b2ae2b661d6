from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.errors import CheckpointError
from astor_rl.report import atomic

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(plain)
def test_any_value_becomes_one_line_of_valid_json(value: object) -> None:
    line = atomic.dumps(value)
    assert "\n" not in line
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_what_is_not_finite_becomes_null_and_nothing_else_does() -> None:
    ready = atomic.json_ready(
        {"a": math.nan, "b": [math.inf, 0.0, -math.inf], "c": np.array([1.5, np.nan]), 3: (True,)}
    )
    assert ready == {"a": None, "b": [None, 0.0, None], "c": [1.5, None], "3": [True]}


def test_numpy_scalars_and_paths_are_taken_and_other_types_refused() -> None:
    ready = atomic.json_ready([np.float64(0.5), np.int64(3), np.bool_(True), Path("a/b")])
    assert ready == [0.5, 3, True, "a/b"]
    with pytest.raises(TypeError, match="is set; JSON has no such type"):
        atomic.json_ready({1})


def test_a_failed_write_leaves_the_old_version_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    atomic.write_json(path, {"version": 1})

    def interrupted() -> None:
        with atomic.replacing(path) as partial:
            partial.write_text("half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert json.loads(path.read_text()) == {"version": 1}
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    for version in ("one", "two"):
        with atomic.replacing(path) as partial:
            (partial / "deep").mkdir(parents=True)
            (partial / "deep" / f"{version}.txt").write_text(version)
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        "checkpoint",
        "checkpoint/deep",
        "checkpoint/deep/two.txt",
    ]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with atomic.replacing(path) as partial:
        partial.mkdir()
        (partial / "a").write_text("a")

    def broken_off() -> None:
        with atomic.replacing(path) as partial:
            partial.mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken_off()
    assert [p.name for p in path.iterdir()] == ["a"]
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_missing_space_is_known_before_writing(tmp_path: Path) -> None:
    atomic.require_space(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"needs 1000000 TB and .* are free; free some"):
        atomic.require_space(tmp_path / "not" / "yet", 10**18)


def test_a_disk_that_fills_while_writing_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    # A file-size limit stands for the full disk: the same write(2) fails half-way.
    path = tmp_path / "state.bin"
    path.write_text("old")
    program = f"""
import resource, signal
from pathlib import Path
from astor_rl.errors import CheckpointError
from astor_rl.report.atomic import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with replacing(Path({str(path)!r})) as partial:
        partial.write_bytes(bytes(100_000))
except CheckpointError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("\n") == 1
    assert f"can't write '{path}': File too large" in done.stdout
    assert "set output_dir" in done.stdout
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["state.bin"]


def test_a_place_that_cannot_be_written_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"can't write '/proc/nowhere/x': .*; set output_dir"):
        atomic.write_text(Path("/proc/nowhere/x"), "text")


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000_000, "2.5 GB")]
)
def test_sizes(count: int, shown: str) -> None:
    assert atomic.size(count) == shown
