"""A checkpoint of verl's FSDP engine, loaded on another number of ranks.

verl writes one file a rank and reads them back by its own rank's number only. The shards are put
together parameter by parameter and cut anew for the ranks of today.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from astor_rl.errors import CheckpointError

_FILE = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")


def saved_world_size(folder: Path) -> int | None:
    """How many ranks wrote a checkpoint; None where no file of verl's says.

    Raises:
        CheckpointError: files of several sizes lie there, or some ranks' are missing.
    """
    found: dict[int, set[int]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := _FILE.fullmatch(path.name):
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    if not found:
        return None
    if len(found) > 1:
        raise CheckpointError(
            f"checkpoint {folder} holds files of {' and '.join(map(str, sorted(found)))} ranks; "
            "delete those that don't belong"
        )
    ((size, ranks),) = found.items()
    if len(ranks) != size:
        raise CheckpointError(
            f"checkpoint {folder} holds {len(ranks)} of {size} ranks' weights; resume from "
            "another one"
        )
    return size


def load_resharded(engine: Any, folder: Path, saved: int) -> None:
    """Load weights, optimiser and learning-rate schedule that `saved` ranks wrote.

    Every rank reads every file, mapped into memory, and puts one parameter together at a time; the
    random state of ranks isn't taken over, since nothing in an update draws from it (dropout is
    off).

    Args:
        engine: verl's FSDP engine with an FSDP2 module.
        folder: the checkpoint's `actor` folder.
        saved: ranks that wrote it.

    Raises:
        CheckpointError: a file is missing or can't be read, or its parameters differ from the
            model's.
    """
    _load_weights(engine.module, folder, _read(folder, "model", saved))
    _load_optimizer(engine.optimizer, _read(folder, "optim", saved))
    (extra, *_) = _read(folder, "extra_state", saved)
    if engine.lr_scheduler is not None and extra.get("lr_scheduler") is not None:
        engine.lr_scheduler.load_state_dict(extra["lr_scheduler"])
    dist.barrier()


def _load_weights(module: Any, folder: Path, shards: Sequence[dict[str, Any]]) -> None:
    current = module.state_dict()
    if shards[0].keys() != current.keys():
        odd = sorted(shards[0].keys() ^ current.keys())
        raise CheckpointError(
            f"checkpoint {folder} and the model differ in {len(odd)} parameters, such as {odd[0]!r}"
        )
    module.load_state_dict(
        {name: _placed([shard[name] for shard in shards], like) for name, like in current.items()}
    )


def _load_optimizer(optimizer: Any, shards: Sequence[dict[str, Any]]) -> None:
    """torch's own layout: state by number, in the order of the groups' parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        number: {
            name: _placed(
                [shard["state"][number][name] for shard in shards],
                parameters[number] if isinstance(value, DTensor) else None,
            )
            for name, value in first.items()
        }
        for number, first in shards[0]["state"].items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": shards[0]["param_groups"]})


def _read(folder: Path, what: str, saved: int) -> list[dict[str, Any]]:
    """All ranks' files. Mapped: pages are read as tensors are, and are the system's to drop."""
    found = []
    for rank in range(saved):
        path = folder / f"{what}_world_size_{saved}_rank_{rank}.pt"
        try:
            found.append(torch.load(path, map_location="cpu", weights_only=False, mmap=True))
        except (OSError, RuntimeError, EOFError) as error:
            raise CheckpointError(f"checkpoint {path} can't be read: {error}") from error
    return found


def _placed(parts: Sequence[Any], like: Any) -> Any:
    """One value from the ranks' parts of it, laid out as today's `like`.

    Nothing of it lies in the mapped files: verl deletes a checkpoint when it is old.
    """
    full = _whole(parts)
    if not isinstance(like, DTensor):
        return full
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements)


def _whole(parts: Sequence[Any]) -> Any:
    """A whole tensor from the ranks' parts; of what isn't sharded, the first rank's."""
    first = parts[0]
    if not isinstance(first, DTensor):
        return first.clone() if isinstance(first, torch.Tensor) else first
    placement: Any = first.placements[-1]
    if isinstance(placement, Replicate):
        return first._local_tensor.clone()
    # With a hybrid mesh every replica wrote all shards; the first replica's are the first ranks'.
    shards = first.device_mesh.size(len(first.placements) - 1)
    pieces = [part._local_tensor for part in parts[:shards]]
    return torch.cat(pieces, dim=placement.dim)
