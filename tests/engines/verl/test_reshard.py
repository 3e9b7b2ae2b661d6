"""Checkpoints of verl's layout on another number of ranks. Real processes, FSDP2 on gloo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from verl_shards import launch

from astor_rl.engines.verl.reshard import saved_world_size
from astor_rl.errors import CheckpointError


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3)])
def test_training_goes_on_as_it_would_have(tmp_path: Path, before: int, after: int):
    first, straight, moved = (tmp_path / name for name in ("first", "straight", "moved"))
    for folder in (first, straight, moved):
        folder.mkdir()
    launch("train", str(first), "3", ranks=before)
    launch("train", str(straight), "5", ranks=1)
    launch("train", str(moved), "2", str(first), ranks=after)
    expected = torch.load(straight / "whole.pt")
    found = torch.load(moved / "whole.pt")
    assert found["lr"] == expected["lr"]
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=1e-5, atol=1e-6)


def files(folder: Path, *ranks: tuple[int, int]) -> Path:
    for size, rank in ranks:
        (folder / f"model_world_size_{size}_rank_{rank}.pt").touch()
    return folder


def test_the_size_is_read_from_the_files(tmp_path: Path):
    assert saved_world_size(tmp_path / "none") is None
    assert saved_world_size(tmp_path) is None
    assert saved_world_size(files(tmp_path, (2, 0), (2, 1))) == 2


def test_a_torn_checkpoint_is_one_line(tmp_path: Path):
    with pytest.raises(CheckpointError, match="holds 2 of 4 ranks' weights"):
        saved_world_size(files(tmp_path, (4, 0), (4, 2)))
    with pytest.raises(CheckpointError, match="files of 4 and 8 ranks"):
        saved_world_size(files(tmp_path, (8, 1)))
