"""Checkpoints appear whole or not at all, and give back what was put in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from astor_rl.engines.local.checkpoint import (
    checkpoint_step,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from astor_rl.errors import CheckpointError


def test_round_trip_keeps_values_types_and_shapes(tmp_path: Path) -> None:
    state = {
        "rng": np.random.default_rng(3).bit_generator.state,
        "array": np.arange(6, dtype=np.int64).reshape(2, 3),
        "texts": np.array(["abc", "d"]),
        "empty": np.zeros((0, 3)),
        "tensor": torch.arange(3.0),
        "nested": [1, (2.5, "x", None)],
        7: True,
    }
    save_checkpoint(tmp_path, 1, state, keep=1)
    back = load_checkpoint(tmp_path / "checkpoint-1")
    assert back["rng"] == state["rng"]
    for name in ("array", "texts", "empty"):
        assert back[name].dtype == state[name].dtype
        np.testing.assert_array_equal(back[name], state[name])
    assert torch.equal(back["tensor"], state["tensor"])
    assert back["nested"] == [1, (2.5, "x", None)]
    assert back[7] is True


def test_keeps_the_newest_by_number(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        save_checkpoint(tmp_path, step, {"step": step}, keep=2)
    assert [checkpoint_step(path) for path in list_checkpoints(tmp_path)] == [9, 10]
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    assert load_checkpoint(newest) == {"step": 10}


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"value": 1}, keep=2)
    save_checkpoint(tmp_path, 1, {"value": 2}, keep=2)
    assert load_checkpoint(tmp_path / "checkpoint-1") == {"value": 2}


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "absent") is None


def test_disk_too_small_is_one_line_and_leaves_the_old(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"value": 1}, keep=1)
    huge = torch.empty(1, dtype=torch.uint8).expand(2**60)
    with pytest.raises(CheckpointError, match="needs .* are free") as caught:
        save_checkpoint(tmp_path, 2, {"weights": huge}, keep=1)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_write_that_fails_halfway_leaves_the_old(tmp_path: Path) -> None:
    """A file-size limit stands for a disk that fills up while we write."""
    save_checkpoint(tmp_path, 1, {"value": 1}, keep=1)
    code = f"""
        import resource, signal, torch
        from pathlib import Path
        from astor_rl.engines.local.checkpoint import save_checkpoint
        from astor_rl.errors import CheckpointError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            save_checkpoint(Path({str(tmp_path)!r}), 2, {{"w": torch.zeros(100_000)}}, keep=1)
        except CheckpointError as error:
            print("refused:", error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("refused: can't write")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_removal_cut_short_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is out of sight before its first file goes; the next save clears the rest."""
    save_checkpoint(tmp_path, 1, {"value": 1}, keep=1)

    def killed(path: str | Path, **_: object) -> None:
        (Path(path) / "state.pt").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, 2, {"value": 2}, keep=1)
    assert [load_checkpoint(path) for path in list_checkpoints(tmp_path)] == [{"value": 2}]
    assert len(list(tmp_path.iterdir())) == 2
    save_checkpoint(tmp_path, 3, {"value": 3}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_kill_at_any_instant_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    code = f"""
        import torch
        from pathlib import Path
        from astor_rl.engines.local.checkpoint import save_checkpoint
        print("ready", flush=True)
        for step in range(1, 10_000):
            weights = torch.full((200_000,), float(step))
            save_checkpoint(Path({str(tmp_path)!r}), step, {{"w": weights, "step": step}}, keep=2)
    """
    for round_ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            time.sleep(0.05 + 0.037 * round_)
            os.kill(writer.pid, signal.SIGKILL)
        for path in list_checkpoints(tmp_path):
            state = load_checkpoint(path)
            assert state["step"] == checkpoint_step(path)
            assert bool((state["w"] == state["step"]).all())


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.system, (f"touch {marker}",))

    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    torch.save({"x": Hostile()}, folder / "state.pt")
    with pytest.raises(CheckpointError, match="can't be read"):
        load_checkpoint(folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["checkpoint-", "checkpoint-1x", "model"])
def test_a_folder_that_is_no_checkpoint_is_named(name: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        checkpoint_step(Path(name))


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoint-5 does not exist"):
        load_checkpoint(tmp_path / "checkpoint-5")
