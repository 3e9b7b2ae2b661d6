"""One model from the final models of several runs: what `astor merge` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from astor_rl.config import RunConfig, load_config
from astor_rl.engines.local.checkpoint import latest_checkpoint, load_checkpoint
from astor_rl.engines.local.model import LoadedModel, add_lora, load_model, merge_lora, save_model
from astor_rl.engines.local.run import FINAL
from astor_rl.engines.local.warmup import BASE
from astor_rl.errors import CheckpointError, ConfigError, ModelError
from astor_rl.evaluate.merging import MergeOptions, merge_adapters, merge_weights
from astor_rl.report.atomic import write_json
from astor_rl.report.console import Console
from astor_rl.report.run_folder import read_events, require_run

RECORD = "merge.json"
"""File in the merged model's folder: what it was made from, and how."""


@dataclass(frozen=True, slots=True)
class _Run:
    path: Path
    config: RunConfig

    @property
    def base(self) -> str:
        """The model that its RL began at."""
        folder = self.path / BASE
        return str(folder) if folder.is_dir() else self.config.model

    def load(self, name: str, console: Console) -> LoadedModel:
        console.stage("Loading", name)
        return load_model(
            name,
            dtype=torch.float32,
            trust_remote_code=self.config.trust_remote_code,
            progress=console.note,
        )


def merge_runs(
    runs: Sequence[Path],
    output: Path,
    options: MergeOptions,
    *,
    console: Console,
    whole: bool = False,
) -> str:
    """Merge the final models of runs into a model folder.

    Args:
        runs: folders of finished runs that began at the same weights, at least two.
        output: a new folder.
        options: the rule.
        console: told what is going on.
        whole: merge all weights by the formulas even where the adapters could be merged.

    Returns:
        What was merged: `adapters` (LoRA, through PEFT) or `weights`.

    Raises:
        ConfigError: fewer than two runs, or the folder exists.
        ModelError: a run isn't finished, or the runs began at different weights.
    """
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run is given; merging takes at least two")
    if output.exists():
        raise ConfigError(f"output {str(output)!r} exists; choose a new folder")
    found = [_open(path) for path in runs]
    first = found[0]
    base = first.load(first.base, console)
    for run in found[1:]:
        if run.base != first.base:
            _require_same(base.model, run.load(run.base, console).model, runs=(first, run))
    shapes = {repr(run.config.lora) for run in found}
    adapted = len(shapes) == 1 and first.config.lora.enabled and not whole
    if adapted:
        model = _with_merged_adapter(base.model, found, options)
    else:
        model = _with_merged_weights(base.model, found, options, console)
    if first.config.lora.enabled and first.config.dtype == "bfloat16":
        model.to(torch.bfloat16)
    console.stage("Saving", str(output))
    save_model(model, base.tokenizer, output)
    space = "adapters" if adapted else "weights"
    record = {"runs": [str(run.path) for run in found], "space": space, **asdict(options)}
    write_json(output / RECORD, record)
    return space


def _open(path: Path) -> _Run:
    run = _Run(require_run(path), load_config(path / "config.json"))
    if not (path / FINAL).is_dir():
        raise ModelError(
            f"run {str(path)!r} has no final model yet; finish it with astor train ... --resume"
        )
    # A run that is extended keeps the shorter run's model until it finishes again.
    events = read_events(path)
    if not events or events[-1]["event"] != "finished":
        raise ModelError(
            f"run {str(path)!r} has a model of an earlier session and has not finished since; "
            "finish it with astor train ... --resume"
        )
    return run


def _weights(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _require_same(base: Any, other: Any, *, runs: tuple[_Run, _Run]) -> None:
    ours, theirs = _weights(base), _weights(other)
    same = ours.keys() == theirs.keys() and all(
        torch.equal(weight, theirs[name]) for name, weight in ours.items()
    )
    if not same:
        first, second = (str(run.path) for run in runs)
        raise ModelError(
            f"runs {first!r} and {second!r} began RL at different weights; merging takes runs that "
            "share their model and their warm-up"
        )


def _with_merged_adapter(base: Any, runs: Sequence[_Run], options: MergeOptions) -> Any:
    lora = runs[0].config.lora
    model = add_lora(base, r=lora.r, alpha=lora.lora_alpha, target_modules=lora.target_modules)
    names = [f"run{number}" for number in range(len(runs))]
    for name, run in zip(names, runs, strict=True):
        model.add_adapter(name, model.peft_config["default"])
        parameters = dict(model.named_parameters())
        for saved, weight in _saved_adapter(run).items():
            parameter = parameters.get(saved.replace(".default.", f".{name}."))
            if parameter is None or parameter.shape != weight.shape:
                raise ModelError(f"run {str(run.path)!r}: its adapter doesn't fit at {saved!r}")
            parameter.data.copy_(weight)
    merge_adapters(model, names, options)
    return merge_lora(model)


def _saved_adapter(run: _Run) -> dict[str, Tensor]:
    """The adapter after the last step, which its run always saves."""
    checkpoint = latest_checkpoint(run.path / "checkpoints")
    if checkpoint is None:
        raise CheckpointError(f"run {str(run.path)!r} has no checkpoint to take its adapter from")
    weights: dict[str, Tensor] = load_checkpoint(checkpoint)["updater"]["weights"]
    return weights


@torch.no_grad()
def _with_merged_weights(
    base: Any, runs: Sequence[_Run], options: MergeOptions, console: Console
) -> Any:
    models = [_weights(run.load(str(run.path / FINAL), console).model) for run in runs]
    mine = _weights(base)
    for name, weight in merge_weights(mine, models, options).items():
        mine[name].copy_(weight)
    return base
