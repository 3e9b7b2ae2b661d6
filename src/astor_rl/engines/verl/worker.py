"""What runs on every GPU: verl's workers, with the gradient probe and resizable checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensordict import TensorDict
from verl.single_controller.base.decorator import (
    Dispatch,
    make_nd_compute_dataproto_dispatch_fn,
    register,
)
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from astor_rl.engines.verl.probe import measure
from astor_rl.engines.verl.reshard import load_resharded, saved_world_size

ANSWER = "astor_probe_answer"
"""Under this name the driver finds what a probe measured."""


class AstorTrainingWorker(TrainingWorker):  # type: ignore[misc]  # verl has no types
    """verl's training worker, which also measures half-gradients by task."""

    def half_gradients(self, data: TensorDict) -> TensorDict:
        """The probe's answer as batch-wide data; no parameter and no optimiser state changes."""
        answer = measure(self, data)
        values = {
            "gram": answer.gram.tolist(),
            "sketched": answer.sketched,
            "seconds": answer.seconds,
        }
        return tu.get_tensordict({}, non_tensor_dict={ANSWER: values})

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def load_checkpoint(
        self, local_path: str, hdfs_path: str | None = None, del_local_after_load: bool = False
    ) -> Any:
        """verl's, or a checkpoint of another number of ranks put together and cut anew."""
        size = self.engine.get_data_parallel_size()
        saved = saved_world_size(Path(local_path))
        if saved is None or saved == size:
            return super().load_checkpoint(local_path, hdfs_path, del_local_after_load)
        return load_resharded(self.engine, Path(local_path), saved)


class AstorWorker(ActorRolloutRefWorker):  # type: ignore[misc]
    """verl's hybrid worker around `AstorTrainingWorker`."""

    actor_worker_cls = AstorTrainingWorker

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))  # type: ignore[untyped-decorator]
    def half_gradients(self, data: TensorDict) -> TensorDict:
        """See `AstorTrainingWorker.half_gradients`."""
        return self.actor.half_gradients(data)
