"""A whole run on one machine, stage by stage; each stage leaves its mark in the run folder.

load -> evaluate -> warm up -> evaluate -> reinforce -> evaluate -> export. A resumed run looks
for the marks and goes on at the first one that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import torch

from astor_rl.config import RunConfig
from astor_rl.engines.local.checkpoint import (
    checkpoint_step,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from astor_rl.engines.local.distributed import (
    World,
    launch,
    processes_wanted,
    under_launcher,
    world,
)
from astor_rl.engines.local.evaluation import Evaluation
from astor_rl.engines.local.interrupts import graceful_stop
from astor_rl.engines.local.model import (
    LoadedModel,
    check_lora,
    load_model,
    render_prompt,
    save_model,
)
from astor_rl.engines.local.policy import Policy
from astor_rl.engines.local.rewards import RewardWorker
from astor_rl.engines.local.sampling import make_sampler
from astor_rl.engines.local.step_log import StepLog
from astor_rl.engines.local.trainer import LocalTrainer, check_state
from astor_rl.engines.local.warmup import WarmUp
from astor_rl.engines.preparation import PreparedTask, prepare_tasks
from astor_rl.errors import CapabilityError, ConfigError, StateError
from astor_rl.policy.support import packing_note
from astor_rl.report.closing import summarize
from astor_rl.report.console import Console
from astor_rl.report.run_folder import RunFolder
from astor_rl.report.trackers import Trackers, check_trackers
from astor_rl.rollout.base import Sampler
from astor_rl.sandbox.api import SandboxPool
from astor_rl.sandbox.opening import open_pool
from astor_rl.schedule.baselines.registry import FILTERING

T = TypeVar("T")

FINAL = "model"
"""Folder in the run: the trained model, adapter merged."""


def _any_examples(tasks: Sequence[PreparedTask]) -> None:
    """Whatever the examples are."""


def train(
    config: RunConfig,
    *,
    make_console: Callable[[], Console],
    resume: bool,
    base_dir: Path,
    check: Callable[[Sequence[PreparedTask]], None] = _any_examples,
) -> None:
    """Run a config from its beginning, or from where it was stopped.

    Args:
        config: the run.
        make_console: makes the console in the process that reports.
        resume: go on with the run in `output_dir`.
        base_dir: relative sources start here.
        check: raises if the run shall not begin with these examples; before anything is trained.

    Raises:
        AstorError: one line for a person; the run folder is left resumable.
        KeyboardInterrupt: stopped on request, after a checkpoint.
    """
    _require_one_turn(config)
    check_trackers(config.report_to)
    processes = processes_wanted(config.num_processes)
    args = (config, make_console, resume, base_dir, check)
    if processes > 1 and not under_launcher():
        launch(_train_here, args, processes=processes)
    else:
        _train_here(*args)


def _require_one_turn(config: RunConfig) -> None:
    for task in config.tasks:
        if task.options.get("turns", 1) != 1:
            raise CapabilityError(
                f"tasks[{task.name}].options.turns is {task.options['turns']!r}; the local engine "
                "trains on one turn"
            )


def _train_here(
    config: RunConfig,
    make_console: Callable[[], Console],
    resume: bool,
    base_dir: Path,
    check: Callable[[Sequence[PreparedTask]], None],
) -> None:
    with world(threads=config.torch_threads) as here:
        if not here.is_main:
            _Run(config, None, None, here, base_dir, check).execute()
            return
        with (
            make_console() as console,
            RunFolder.create(
                config.output_dir, config.resolved(), resume=resume, base_dir=base_dir
            ) as folder,
        ):
            for change in folder.changed:
                console.note(f"changed since the last session: {change}")
            _Run(config, folder, console, here, base_dir, check).execute()


def check_processes(config: RunConfig, processes: int) -> None:
    """Refuse what several processes can't do together.

    Raises:
        CapabilityError: `schedule.method` replaces groups within a step.
    """
    if processes > 1 and config.schedule.method in FILTERING:
        raise CapabilityError(
            f"schedule.method is {config.schedule.method!r}, which replaces groups within a step; "
            f"the local engine does that on one process and has {processes}"
        )


def _digest(tasks: Sequence[PreparedTask]) -> str:
    """A hash of every task's examples, to see that all ranks hold the same."""
    keys = [(task.name, [e.key for e in (*task.train, *task.test)]) for task in tasks]
    return blake2b(repr(keys).encode(), digest_size=16).hexdigest()


@contextmanager
def _closing(trackers: Trackers | None) -> Iterator[None]:
    """Let the trackers go however the block ends."""
    try:
        yield
    finally:
        if trackers:
            trackers.finish()


def _silent(stage: str, done: int, total: int) -> None:
    """Progress on ranks without a console."""


class _Run:
    """One execution of a config. Ranks other than 0 have neither folder nor console."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder | None,
        console: Console | None,
        here: World,
        base_dir: Path,
        check: Callable[[Sequence[PreparedTask]], None],
    ) -> None:
        self._config = config
        self._path = Path(config.output_dir)
        self._folder = folder
        self._console = console
        self._world = here
        self._base_dir = base_dir
        self._check_examples = check
        self._dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32

    def execute(self) -> None:
        """Every stage that isn't done yet."""
        config = self._config
        if self._folder and (found := self._checkpoint()):
            self._check_not_past(checkpoint_step(found))
        self._stage("Loading", config.model)
        loaded = self._load(config.model)
        self._note(f"model: {loaded.source}")
        if config.lora.enabled:
            check_lora(loaded.model, config.lora.target_modules)
        with open_pool(config.sandbox) as sandbox:
            self._stage("Preparing examples")
            tasks = self._main_first(lambda: self._prepare(sandbox, loaded.tokenizer))
            self._check(tasks, loaded)
            sampler = make_sampler(
                config, loaded, tasks, device=self._world.device, note=self._note
            )
            if self._folder:
                self._check_checkpoint(tasks)
                self._folder.accept()
            with RewardWorker({task.name: task.task for task in tasks}) as rewards:
                stage = Evaluation(
                    config,
                    tasks,
                    sampler,
                    rewards,
                    world=self._world,
                    folder=self._folder,
                    console=self._console,
                )
                if config.warmup.steps and config.eval.before_warmup:
                    stage.run("before_warmup")
                loaded = WarmUp(
                    config,
                    tasks,
                    sampler,
                    world=self._world,
                    console=self._console,
                    load=self._load,
                    save=self._save,
                ).run(loaded)
                stage.run("before_rl")
                policy, steps = self._reinforce(loaded, tasks, sampler, rewards, stage)
                stage.run("after_rl", step=steps)
        if self._folder and self._console:
            save_model(policy.model, policy.tokenizer, self._path / FINAL)
            self._folder.append_event("finished")
            self._folder.sync()
            self._console.closing(summarize(self._path))

    def _check(self, tasks: Sequence[PreparedTask], loaded: LoadedModel) -> None:
        """What would otherwise be found out after the warm-up."""
        config = self._config
        check_processes(config, self._world.size)
        self._check_examples(tasks)
        alone = config.baseline.task if config.schedule.method == "single" else None
        prompts = sum(len(task.train) for task in tasks if alone in (None, task.name))
        if prompts < config.prompts_per_step and not config.schedule.allow_repeats:
            raise ConfigError(
                f"prompts_per_step is {config.prompts_per_step} and there are {prompts} training "
                "examples; lower it, bring more, or set schedule.allow_repeats = true"
            )
        limit = getattr(loaded.model.config, "max_position_embeddings", None)
        for task in tasks:
            longest = max(len(ids) for _, ids in task.prompts.values())
            needed = longest + (task.config.max_completion_length or config.max_completion_length)
            if limit is not None and needed > limit:
                raise ConfigError(
                    f"task {task.name!r}: its longest prompt and completion take {needed} tokens, "
                    f"the model has {limit} positions; lower max_prompt_length or "
                    "max_completion_length"
                )
            if config.eval.examples and not task.test:
                self._note(f"{task.name} has no test examples: it is not evaluated")
        self._world.require_same("examples", _digest(tasks))

    def _check_checkpoint(self, tasks: Sequence[PreparedTask]) -> None:
        """Refuse a checkpoint of other tasks, prompts or options while the folder is as it was."""
        found = self._checkpoint()
        if found is None:
            return
        state = load_checkpoint(found)
        try:
            check_state(state, self._config, tasks)
        except StateError as error:
            raise StateError(
                f"checkpoint {str(found)!r} doesn't fit: {error}; resume with the examples and "
                "options it was made with, or name another folder"
            ) from None

    def _check_not_past(self, step: int) -> None:
        if step > self._config.max_steps:
            raise StateError(
                f"max_steps is {self._config.max_steps} and the run is at step {step} already; "
                "raise it, or name another folder"
            )

    def _load(self, name: str) -> LoadedModel:
        def load() -> LoadedModel:
            return load_model(
                name,
                dtype=torch.float32,
                trust_remote_code=self._config.trust_remote_code,
                progress=self._note,
            )

        return self._main_first(load)

    def _main_first(self, make: Callable[[], T]) -> T:
        """Rank 0 downloads, converts or mines; the others find it in the cache."""
        made = make() if self._world.is_main else None
        self._world.barrier()
        return make() if made is None else made

    def _prepare(self, sandbox: SandboxPool, tokenizer: Any) -> list[PreparedTask]:
        config = self._config
        return prepare_tasks(
            config,
            sandbox=sandbox,
            render=lambda messages: render_prompt(
                tokenizer, messages, chat_template_kwargs=config.chat_template_kwargs
            ),
            base_dir=self._base_dir,
            note=self._note,
            progress=self._console.progress if self._console else _silent,
        )

    def _reinforce(
        self,
        loaded: LoadedModel,
        tasks: Sequence[PreparedTask],
        sampler: Sampler,
        rewards: RewardWorker,
        evaluation: Evaluation,
    ) -> tuple[Policy, int]:
        """The trained policy, and the steps it took."""
        config = self._config
        torch.manual_seed(config.seed)  # the adapter's initial weights
        policy = Policy(
            loaded,
            lora=config.lora,
            device=self._world.device,
            dtype=self._dtype,
            temperature=config.temperature,
            checkpointing=config.gradient_checkpointing,
            fused_kernels=config.fused_kernels,
        )
        if policy.silenced:
            self._note(f"{policy.silenced} dropouts of the model are set to 0")
        if note := packing_note(policy.model):
            self._note(note)
        if policy.unpackable:
            self._note(f"groups run as separate sequences: {policy.unpackable}")
        elif policy.unfused and config.fused_kernels == "auto":
            self._note(f"layers are the model's own: {policy.unfused}")
        trainer = LocalTrainer(
            config, tasks, policy, sampler=sampler, rewards=rewards, world=self._world
        )
        self._restore(trainer)
        trackers = None
        if self._folder:
            trackers = Trackers(
                config.report_to,
                self._path,
                config.resolved(),
                note=self._note,
                first_step=trainer.steps_done + 1 if trainer.steps_done else 0,
            )
        budget = config.max_generated_tokens
        limit = f"{config.max_steps} steps" + (f" or {budget:,} tokens" if budget else "")
        self._stage("Reinforcing", f"{limit} on {len(tasks)} tasks")
        log = StepLog(config, folder=self._folder, console=self._console, trackers=trackers)
        every = config.eval.every
        if every and not trainer.steps_done:
            evaluation.run("step_0", step=0, split="validation")
        with graceful_stop(self._note) as stop, _closing(trackers):
            while not self._over(trainer):
                log.add(trainer.step())
                done, last = trainer.steps_done, self._over(trainer)
                if every and (last or done % every == 0):
                    evaluation.run(f"step_{done}", step=done, split="validation")
                asked = self._world.broadcast(stop.asked)
                if asked or last or done % config.save_steps == 0:
                    self._save(self._path / "checkpoints", done, trainer.state_dict())
                if asked:
                    raise KeyboardInterrupt
        return policy, trainer.steps_done

    def _over(self, trainer: LocalTrainer) -> bool:
        budget = self._config.max_generated_tokens
        spent = budget is not None and trainer.tokens_sampled >= budget
        return spent or trainer.steps_done >= self._config.max_steps

    def _checkpoint(self) -> Path | None:
        """Where RL goes on, if anywhere."""
        named = self._config.resume_from_checkpoint
        own = latest_checkpoint(self._path / "checkpoints")
        return Path(named) if named and own is None else own

    def _restore(self, trainer: LocalTrainer) -> None:
        found, named = self._checkpoint(), self._config.resume_from_checkpoint
        if named and found != Path(named):
            self._note(f"resume_from_checkpoint {named!r} is not used: this run has its own")
        if found is not None:
            trainer.load_state_dict(load_checkpoint(found))
            self._note(f"RL continues at step {trainer.steps_done} ({found.name})")
        if self._folder:
            self._folder.truncate_after(checkpoint_step(found) if found else 0)

    def _save(self, folder: Path, step: int, state: dict[str, Any]) -> None:
        if self._folder:
            self._folder.sync()
            save_checkpoint(folder, step, state, keep=self._config.save_total_limit)
        self._world.barrier()

    def _stage(self, name: str, detail: str = "") -> None:
        if self._console:
            self._console.stage(name, detail)

    def _note(self, text: str) -> None:
        if self._console:
            self._console.note(text)
