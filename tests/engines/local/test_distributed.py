"""The collectives: what two processes agree on, and what they say when one is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Backend, BackendConfig

from astor_rl.engines.local.distributed import PATIENCE, World, backends, launch, world
from astor_rl.errors import DataError, RankError

ALONE = World(0, 1, torch.device("cpu"))


def test_tensors_on_the_cpu_have_a_backend_beside_gpus_too() -> None:
    devices = BackendConfig(Backend(backends(cuda=True))).get_device_backend_map()
    assert devices == {"cpu": "gloo", "cuda": "nccl"}


def test_alone_everything_is_what_it_was() -> None:
    tensor = torch.ones(2)
    ALONE.sum_([tensor])
    ALONE.barrier()
    ALONE.require_same("data", "abc")
    assert tensor.tolist() == [1.0, 1.0]
    assert ALONE.broadcast("plan") == "plan"
    assert ALONE.gather(1) == [1]
    assert ALONE.mine([1, 2, 3]) == [1, 2, 3]


def test_parts_of_a_list_are_disjoint_and_whole() -> None:
    parts = [World(rank, 3, torch.device("cpu")).mine(range(8)) for rank in range(3)]
    assert sorted(item for part in parts for item in part) == list(range(8))


def _meet(folder: str) -> None:
    with world(threads=1) as here:
        counts = torch.full((2,), here.rank + 1.0, dtype=torch.float64)
        here.sum_([counts])
        assert counts.tolist() == [3.0, 3.0]
        assert here.broadcast(f"from {here.rank}") == "from 0"
        assert here.gather(here.rank) == [0, 1]
        here.barrier()
        group = dist.group.WORLD
        assert group is not None
        assert group._get_backend(torch.device("cpu")).options._timeout == PATIENCE
        here.require_same("the tasks' data", "abc")
        try:
            here.require_same("the tasks' data", "abc" if here.is_main else "xyz")
        except DataError as error:
            (Path(folder) / f"differs{here.rank}").write_text(str(error))
        if not here.is_main:
            return
        # Its peer has left: rank 0 must hear of it rather than wait out its patience.
        here.barrier()


@pytest.mark.slow
def test_two_processes_agree_or_say_what_differs(tmp_path: Path) -> None:
    with pytest.raises(RankError, match="sum: the other processes can't be reached"):
        launch(_meet, (str(tmp_path),), processes=2)
    for rank in range(2):
        assert (tmp_path / f"differs{rank}").read_text() == (
            "the tasks' data must be the same in all processes, but is "
            "'abc' in process 0; 'xyz' in process 1"
        )
