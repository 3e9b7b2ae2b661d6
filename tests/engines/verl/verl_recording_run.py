"""Train with verl and keep what every gradient probe saw: `python verl_recording_run.py RUN OUT`.

The driver below is the product's with one method that writes the probed batch and its answer.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from astor_rl.config import load_config
from astor_rl.engines.verl.groups import Halves
from astor_rl.engines.verl.run import arguments, export, opened
from astor_rl.engines.verl.runner import AstorRunner, launch
from astor_rl.engines.verl.trainer import AstorTrainer
from astor_rl.plan import GradientProbe

KEPT = ["input_ids", "prompts", "responses", "response_mask", "advantages", "old_log_probs"]
OUT = "VERL_TEST_OUT"


class RecordingTrainer(AstorTrainer):
    def _measure(self, batch: Any, halves: Halves, metrics: dict[str, Any]) -> GradientProbe:
        data = self._get(batch, KEPT)
        probe = super()._measure(batch, halves, metrics)
        torch.save(
            {
                "columns": {name: [row.clone() for row in data[name].unbind()] for name in KEPT},
                "row_of": halves.row_of,
                "samples": halves.samples,
                "tasks": probe.tasks,
                "gram": probe.gram_KK,
                "sketched": probe.sketched,
            },
            Path(os.environ[OUT]) / f"probe-{self.coordination.revision}.pt",
        )
        return probe


class RecordingRunner(AstorRunner):
    trainer_class = RecordingTrainer


def main(path: str, out: str) -> None:
    os.environ[OUT] = out
    config = load_config(path)
    base_dir = Path(path).parent
    given = [*arguments(config), f"+ray_kwargs.ray_init.runtime_env.env_vars.{OUT}={out}"]
    with opened(given, config, resume=False, base_dir=base_dir, note=print) as (composed, _):
        export(config, base_dir=base_dir, note=print)
        launch(composed, RecordingRunner)


if __name__ == "__main__":
    # Ray pickles classes of the main module by value; by reference its processes import this file.
    import verl_recording_run

    verl_recording_run.main(*sys.argv[1:])
