"""From a compare file to units: what is trained, with which config, after what, and where.

A unit is one run (or one merge) of one arm with one seed. Every unit is an ordinary run folder that
`astor report`, `why` and `eval` take. What arms share is done once a seed, by the unit `start`: the
warm-up and the evaluations before RL.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from astor_rl.compare.inputs import digests
from astor_rl.compare.spec import START, ArmConfig, CompareConfig
from astor_rl.config import RunConfig, load_config
from astor_rl.errors import ConfigError
from astor_rl.report.run_folder import flatten

BASE = "base"
"""Folder in the start's run: the warmed-up model (what the local engine calls it)."""
AFTER, BEFORE, FIRST, LAST = "after_rl", "before_rl", "step_0", "validation"
"""Names of evaluations: on the test split after and before RL; of the validation split, the curve's
first point and a merged model's only one."""

_SHARED = (
    "model",
    "seed",
    "engine",
    "dtype",
    "trust_remote_code",
    "max_prompt_length",
    "max_completion_length",
    "overlong",
    "chat_template_kwargs",
    "data",
    "eval",
    "warmup",
)
"""What decides where arms start and how they are judged: the same for all."""
_FREE_OF_TASK = {"ratio", "beta", "num_generations"}
"""The only keys of a `[[tasks]]` block in which arms may differ."""
_OF_WARMUP = ("lora", "max_grad_norm", "micro_batch_tokens", "gradient_checkpointing")
"""What the warm-up depends on besides what is shared."""
_NEUTRAL = {
    "output_dir",
    "torch_threads",
    "num_processes",
    "report_to",
    "resume_from_checkpoint",
    "save_steps",
    "save_total_limit",
    "log_completions",
    "sandbox",
    "verl",
}
"""What may change between sessions without making another run of it."""
_OURS = {"seed", "output_dir", "model", "max_generated_tokens", "resume_from_checkpoint", "warmup"}
"""Keys that the comparison sets itself."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One thing to train or merge.

    Attributes:
        name: `arm/seed-N`, or `arm/seed-N/task` for one of several specialists.
        arm, seed, task: whose it is; the task only for specialists.
        kind: `start` (warm-up and evaluations before RL), `run` or `merge`.
        folder: its run folder; for `merge` one with `model/` and `eval/`.
        sources: folders of the units it needs.
        base_dir: relative sources of examples start here.
        config: of the run; of a merge, how the result is evaluated.
        tokens: its budget; 0 where nothing is sampled for training.
        needs: names of the units that must be finished before.
        merge: how, for `merge`.
        made_from: what its result depends on, JSON-ready.
    """

    name: str
    arm: str
    seed: int
    task: str | None
    kind: Literal["start", "run", "merge"]
    folder: Path
    sources: tuple[Path, ...]
    base_dir: Path
    config: RunConfig
    tokens: int
    needs: tuple[str, ...]
    merge: ArmConfig | None
    made_from: Mapping[str, Any]

    @property
    def log(self) -> Path:
        """What its processes wrote."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def record(self) -> Path:
        """The file that says how far it is."""
        return self.folder.with_name(f"{self.folder.name}.json")


def plan_units(comparison: CompareConfig, *, base_dir: Path) -> list[Unit]:
    """Every unit of a comparison, in the order to run them: seed by seed, needed ones first.

    Args:
        comparison: the compare file.
        base_dir: its folder; `base` is relative to it.

    Raises:
        ConfigError: the base can't be read, an arm's `set` doesn't fit it, or would make the
            comparison unfair.
    """
    return list(_Planner(comparison, base_dir / comparison.base).units())


def needed_for(units: Sequence[Unit], arms: Sequence[str]) -> list[Unit]:
    """The units of some arms, and those that they need, in their order.

    Raises:
        ConfigError: there is no such arm.
    """
    known = dict.fromkeys(unit.arm for unit in units if unit.arm != START)
    if unknown := [arm for arm in arms if arm not in known]:
        raise ConfigError(
            f"--only {unknown[0]}: no arm has that name (there are: {', '.join(known)})"
        )
    wanted: set[str] = set()
    for unit in reversed(units):  # what a unit needs stands before it
        if unit.arm in arms or unit.name in wanted:
            wanted |= {unit.name, *unit.needs}
    return [unit for unit in units if unit.name in wanted]


class _Planner:
    def __init__(self, comparison: CompareConfig, base: Path) -> None:
        self._comparison = comparison
        self._base = base
        self._root = Path(comparison.output_dir) / "runs"
        self._data_seed: int | None = None
        own = load_config(base, self._overrides({}))
        if comparison.same_examples:
            self._data_seed = own.data_seed
        elif own.data.seed is not None:
            raise ConfigError(
                f"same_examples is false and all seeds would have data.seed = {own.data.seed}; "
                "take one of the two out"
            )
        self._common = self._load({}, 0)
        self._check_base()
        self._inputs = digests(self._common, base_dir=base.parent)
        self._made: dict[str, Unit] = {}

    def units(self) -> Iterator[Unit]:
        arms = self._comparison.arms
        seeds = dict.fromkeys(s for arm in arms for s in self._comparison.seeds_of(arm))
        for arm in arms:
            self._check_fair(arm)
        for seed in seeds:
            yield self._keep(self._start(seed))
            # A merge may be listed before what it merges.
            for arm in sorted(arms, key=lambda arm: arm.kind == "merge"):
                if seed in self._comparison.seeds_of(arm):
                    for unit in self._of_arm(arm, seed):
                        yield self._keep(unit)

    def _keep(self, unit: Unit) -> Unit:
        self._made[unit.name] = unit
        return unit

    def _load(self, changes: Mapping[str, Any], seed: int) -> RunConfig:
        data = {} if self._data_seed is None else {"data.seed": self._data_seed}
        return load_config(self._base, self._overrides({**data, **changes, "seed": seed}))

    def _overrides(self, changes: Mapping[str, Any]) -> list[str]:
        settings = flatten({**self._comparison.set, **changes})
        return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]

    def _check_base(self) -> None:
        config = self._common
        if config.engine != "local":
            raise ConfigError(f"engine is {config.engine!r}; compare trains with the local engine")
        if not config.eval.examples:
            raise ConfigError("eval.examples is 0; a comparison needs test examples")
        if not config.eval.every:
            raise ConfigError(
                "eval.every is 0; a comparison needs looks at the validation split during "
                "training: set it, for example eval.every = 20"
            )
        for key in flatten(self._comparison.set):
            if key.partition(".")[0] in _OURS - {"model", "warmup"}:
                raise ConfigError(f"set: {key} is the comparison's own; leave it out")

    def _check_fair(self, arm: ArmConfig) -> None:
        keys = flatten(arm.set)
        for key in keys:
            if key.partition(".")[0] in _OURS:
                raise ConfigError(
                    f"arm {arm.name!r}: set has {key!r}, which must be the same for all arms or "
                    "is set by the comparison"
                )
        ours = _shared(self._load(arm.set, 0).resolved())
        theirs = _shared(self._common.resolved())
        for key, value in flatten(ours).items():
            if value != flatten(theirs).get(key):
                raise ConfigError(
                    f"arm {arm.name!r}: set has {key} = {value!r}, which must be the same for all "
                    "arms: put it into the base or the top-level set"
                )
        if arm.kind == "specialists" and "schedule.method" in keys:
            raise ConfigError(f"arm {arm.name!r}: specialists have schedule.method = 'single'")

    def _start(self, seed: int) -> Unit:
        config = self._load({"max_steps": 0, "schedule.method": "uniform"}, seed)
        resolved = config.resolved()
        parts = _shared(resolved)
        if config.warmup.steps:
            parts |= {key: resolved[key] for key in _OF_WARMUP}
        return self._unit(START, seed, None, "start", config, 0, (), parts)

    def _of_arm(self, arm: ArmConfig, seed: int) -> Iterator[Unit]:
        if arm.kind == "merge":
            yield self._merge(arm, seed)
            return
        tokens = self._comparison.max_tokens
        if arm.kind == "run":
            yield self._run(arm, seed, None, {}, tokens)
            return
        tasks = [task.name for task in self._common.tasks]
        for task in tasks:
            single = {"schedule.method": "single", "baseline.task": task}
            share = tokens if arm.budget == "full" else max(1, tokens // len(tasks))
            yield self._run(arm, seed, task, single, share)

    def _run(
        self, arm: ArmConfig, seed: int, task: str | None, more: Mapping[str, Any], tokens: int
    ) -> Unit:
        config = self._load({**arm.set, **more}, seed)
        start = self._made[_name(START, seed, None)]
        changes: dict[str, Any] = {"max_generated_tokens": tokens}
        if config.warmup.steps:
            changes |= {
                "model": str(start.folder / BASE),
                "warmup": config.warmup.model_copy(update={"steps": 0}),
            }
        config = config.model_copy(update=changes)
        parts = {k: v for k, v in config.resolved().items() if k not in _NEUTRAL}
        if self._common.warmup.steps:
            parts["model"] = START
        return self._unit(arm.name, seed, task, "run", config, tokens, (start.name,), parts)

    def _merge(self, arm: ArmConfig, seed: int) -> Unit:
        sources = [u for u in self._made.values() if (u.arm, u.seed) == (arm.of, seed)]
        how = {"method": arm.method, "density": arm.density, "scale": arm.scale}
        parts = {
            "merge": {**how, "whole": arm.whole},
            "of": {unit.name: dict(unit.made_from) for unit in sources},
        }
        needs = tuple(unit.name for unit in sources)
        config = self._load({}, seed)
        return self._unit(arm.name, seed, None, "merge", config, 0, needs, parts, merge=arm)

    def _unit(
        self,
        arm: str,
        seed: int,
        task: str | None,
        kind: Literal["start", "run", "merge"],
        config: RunConfig,
        tokens: int,
        needs: tuple[str, ...],
        parts: Mapping[str, Any],
        *,
        merge: ArmConfig | None = None,
    ) -> Unit:
        name = _name(arm, seed, task)
        folder = self._root / name
        return Unit(
            name=name,
            arm=arm,
            seed=seed,
            task=task,
            kind=kind,
            folder=folder,
            sources=tuple(self._made[need].folder for need in needs),
            base_dir=self._base.parent,
            config=_placed(config, folder, self._comparison.jobs),
            tokens=tokens,
            needs=needs,
            merge=merge,
            made_from=json.loads(json.dumps({**parts, "inputs": self._inputs})),
        )


def _name(arm: str, seed: int, task: str | None) -> str:
    return f"{arm}/seed-{seed}" + (f"/{task}" if task else "")


def _shared(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that decides where an arm starts and how it is judged."""
    tasks = [
        {key: value for key, value in task.items() if key not in _FREE_OF_TASK}
        for task in resolved["tasks"]
    ]
    return {key: resolved[key] for key in _SHARED} | {"tasks": tasks}


def _placed(config: RunConfig, folder: Path, jobs: int) -> RunConfig:
    """A config in its folder, with this machine's cores divided among the jobs."""
    cores = max(1, len(os.sched_getaffinity(0)) // jobs)
    changes: dict[str, Any] = {"output_dir": str(folder)}
    if not config.torch_threads:
        changes["torch_threads"] = cores
    if not config.sandbox.workers and not config.sandbox.urls:
        changes["sandbox"] = config.sandbox.model_copy(update={"workers": cores})
    return config.model_copy(update=changes)
