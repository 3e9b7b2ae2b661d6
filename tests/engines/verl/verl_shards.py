"""One rank of a small FSDP2 model on gloo, for tests: `python verl_shards.py COMMAND FOLDER ...`

train FOLDER STEPS [FROM]   from the beginning or FROM's checkpoint; saves as verl's engine does
gram FOLDER DIM REPLICAS    half-gradients through `ShardedRows`, their Gram and the whole rows
"""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

HERE = Path(__file__).parent


def launch(*arguments: str, ranks: int, script: str = __file__, **environment: str) -> None:
    """Run this file (or `script`) on so many ranks and wait; an error of any rank is raised."""
    store = Path(arguments[1]) / f"store-{'-'.join(Path(a).name for a in arguments)}-{ranks}"
    common = {**os.environ, **environment, "WORLD_SIZE": str(ranks), "STORE": str(store)}
    started = [
        subprocess.Popen(
            [sys.executable, script, *arguments],
            env={**common, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    ends = [process.communicate(timeout=300)[0] for process in started]
    assert not any(process.returncode for process in started), "\n".join(ends)[-4000:]


def model() -> nn.Sequential:
    """Five rows don't divide by two or three ranks; the last layer is frozen."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    layers[4].requires_grad_(False)
    return layers


def sharded(mesh: DeviceMesh) -> nn.Sequential:
    whole = model()
    for layer in (whole[0], whole[2], whole[4]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(whole, mesh=mesh)  # type: ignore[return-value]


def batch(step: int) -> torch.Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def train(folder: Path, steps: int, source: Path | None) -> None:
    size, rank = dist.get_world_size(), dist.get_rank()
    module = sharded(init_device_mesh("cpu", (size,)))
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
    if source is not None:
        from astor_rl.engines.verl import reshard

        saved = reshard.saved_world_size(source)
        assert saved is not None
        engine = SimpleNamespace(module=module, optimizer=optimizer, lr_scheduler=schedule)
        alive = watch_wholes(reshard)
        reshard.load_resharded(engine, source, saved)
        assert alive
        assert size == 1 or max(alive) <= 1, f"whole parameters at once: {alive}"
    for _ in range(steps):
        module(batch(schedule.last_epoch)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    folder.mkdir(exist_ok=True)
    parts = {
        "model": module.state_dict(),
        "optim": optimizer.state_dict(),
        "extra_state": {"lr_scheduler": schedule.state_dict(), "rng": torch.get_rng_state()},
    }
    for name, state in parts.items():
        torch.save(state, folder / f"{name}_world_size_{size}_rank_{rank}.pt")
    whole = {name: t.full_tensor() for name, t in module.state_dict().items()}
    if rank == 0:
        torch.save({"weights": whole, "lr": schedule.get_last_lr()}, folder / "whole.pt")


def watch_wholes(reshard: Any) -> list[int]:
    """How many whole parameters are there, each time one is put together."""
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    whole = reshard._whole

    def watched(parts: Any) -> Any:
        found = whole(parts)
        if isinstance(parts[0], DTensor):
            made.append(weakref.ref(found))
            alive.append(sum(ref() is not None for ref in made))
        return found

    reshard._whole = watched
    return alive


def gram(folder: Path, dim: int, replicas: int) -> None:
    from torch.distributed.tensor.debug import CommDebugMode

    from astor_rl.engines.verl.probe import ProbeRequest, ShardedRows

    size = dist.get_world_size()
    shape = (replicas, size // replicas) if replicas > 1 else (size,)
    names = ("replicate", "shard")[-len(shape) :]
    module = sharded(init_device_mesh("cpu", shape, mesh_dim_names=names))
    limit = 0.0001 if dim else 1
    request = ProbeRequest((1, 1, 1), 1, False, dim or 8, limit, seed=7)  # type: ignore[arg-type]
    with CommDebugMode() as asked:
        rows = ShardedRows(module, 3, request)
    assert asked.get_total_counts() <= 1, asked.get_comm_counts()  # the largest rank's size
    for row in range(3):
        module.zero_grad()
        module(batch(row)).sum().backward()
        rows.add(row)
    found = rows.gram()
    if dist.get_rank() == 0:
        torch.save({"gram": found, "sketched": rows.sketched}, folder / "gram.pt")


def main(command: str, folder: str, *rest: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{os.environ['STORE']}",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    if command == "train":
        train(Path(folder), int(rest[0]), Path(rest[1]) if len(rest) > 1 else None)
    else:
        gram(Path(folder), int(rest[0]), int(rest[1]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
