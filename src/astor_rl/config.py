"""The run file: TOML in, one checked `RunConfig` out, resolved JSON beside every run.

Keys follow TRL where TRL has the thing. The sections of the core (`[schedule]`, `[calibrate]`,
...) are the core's own dataclasses, validated here, so that each option is declared once.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from astor_rl import complaints
from astor_rl.calibrate.kl import CalibrateOptions
from astor_rl.coordinator_options import CoordinatorOptions
from astor_rl.errors import ConfigError, SandboxError
from astor_rl.plan import TaskSpec
from astor_rl.sandbox.protections import check_names
from astor_rl.sandbox.remote.address import check_exposure, check_url
from astor_rl.schedule.baselines.options import BaselineOptions
from astor_rl.schedule.baselines.registry import make_arm
from astor_rl.schedule.prompt_options import PromptOptions
from astor_rl.schedule.quota import ScheduleOptions
from astor_rl.tasks.registry import KINDS
from astor_rl.utility.potential import PotentialOptions
from astor_rl.utility.synergy import SynergyOptions
from astor_rl.utility.task_utility import UtilityOptions

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LoraConfig(_Section):
    """Train an adapter (the reference policy is then the adapter switched off), or all weights."""

    enabled: bool = True
    r: PositiveCount = 16
    lora_alpha: Positive = 32.0
    target_modules: str | list[str] = "all-linear"


class WarmupConfig(_Section):
    """The supervised stage before RL. `steps = 0` skips it."""

    steps: Count = 0
    batch_size: PositiveCount = 16
    learning_rate: Positive = 3e-4
    lr_warmup_steps: Count = 10
    weight_decay: NonNegative = 0.0
    lora: bool = False
    """Train the warm-up through an adapter that is merged, instead of all weights."""
    order: Literal["easy", "mixed"] = "mixed"
    """`easy`: examples by rising difficulty; `mixed`: shuffled."""
    save_steps: PositiveCount = 100


class RolloutConfig(_Section):
    """Who samples completions."""

    backend: Literal["auto", "transformers", "vllm"] = "auto"
    """`auto`: vLLM where it is installed and runs the model, else transformers."""
    max_rows: PositiveCount = 128
    """Sequences decoded at once; more waiting groups refill the batch."""
    kv_cache_gib: Positive = 4.0
    """Memory for keys and values at most, in each process; sequences that don't fit wait."""


class SandboxConfig(_Section):
    """Where untrusted code runs."""

    workers: Count = 0
    """Processes; 0 takes one per CPU core."""
    allow_missing: list[str] = []
    """Protections this run may do without, by name (`astor doctor` lists them)."""
    url: Text | Texts | None = None
    """Servers (`astor sandbox serve`) that run the code instead of this machine."""
    token_file: Text | None = None
    """File with the secret they ask for; else the environment's `ASTOR_SANDBOX_TOKEN`."""
    ca_file: Text | None = None
    """PEM file of the authorities that signed their certificates; else the system's."""
    insecure: bool = False
    """Allow `http://` to other machines."""

    @property
    def urls(self) -> list[str]:
        """`url` as a list."""
        return as_list(self.url)


class VerlConfig(_Section):
    """The distributed engine: what the run file's other keys don't say (docs/verl.md)."""

    nnodes: PositiveCount = 1
    n_gpus_per_node: PositiveCount = 8
    rollout: Text = "vllm"
    """Who samples, by verl's name."""
    tensor_model_parallel_size: PositiveCount = 1
    """GPUs that share one sampler."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of a GPU's memory that the sampler takes while it samples."""
    reward_workers: PositiveCount = 8
    """Processes that judge, each with `sandbox.workers` sandboxes."""
    options: dict[str, Any] = {}
    """verl's own keys, dotted or nested; they win over what the run file's keys become."""


class EvalConfig(_Section):
    """Held-out evaluation."""

    examples: Count = 64
    """Test examples a task, the same ones every time; 0 switches evaluation off."""
    samples: PositiveCount = 1
    """Completions per example."""
    temperature: NonNegative = 0.0
    every: Count = 0
    """Validation-split evaluation every so many RL steps; 0 only before and after."""
    before_warmup: bool = True

    def settings(self, split: str) -> dict[str, object]:
        """What decides an evaluation's results, as its file has it."""
        return {"split": split, **self.model_dump(include={"examples", "samples", "temperature"})}


class DataConfig(_Section):
    """How sources become train, validation and test examples."""

    validation_share: Share = 0.1
    test_share: Share = 0.1
    decontaminate: list[str] = []
    """Sources (public benchmarks) that no training example may overlap."""
    seed: Count | None = None
    """Of splits, and of which examples are kept and evaluated; None: the run's `seed`."""


class TaskConfig(_Section):
    """One `[[tasks]]` block."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    task: Text
    source: Text | Texts
    validation_source: Text | Texts | None = None
    test_source: Text | Texts | None = None
    columns: dict[str, str] = {}
    """Field the task expects -> column of the source, where they differ."""
    ratio: Positive = 1.0
    beta: NonNegative | None = None
    num_generations: Annotated[int, Field(ge=2)] | None = None
    max_completion_length: PositiveCount | None = None
    max_examples: PositiveCount | None = None
    order: Literal["easy", "mixed"] = "mixed"
    """Which examples `max_examples` keeps: the easiest, or a random sample."""
    options: dict[str, Any] = {}

    @property
    def sources(self) -> list[str]:
        """`source` as a list."""
        return as_list(self.source)


class RunConfig(_Section):
    """Everything one run needs. See docs/options.md for what each key means."""

    model: Text
    tasks: Annotated[list[TaskConfig], Field(min_length=1)]
    engine: Literal["local", "verl"] = "local"
    output_dir: Text = "runs/astor"
    seed: Count = 0
    max_steps: Count = 100
    max_generated_tokens: PositiveCount | None = None
    """RL ends at the first step at which it sampled so many tokens, or at `max_steps`."""
    report_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = []
    resume_from_checkpoint: str | None = None
    save_steps: PositiveCount = 20
    save_total_limit: PositiveCount = 2
    log_completions: Count = 8
    trust_remote_code: bool = False

    prompts_per_step: PositiveCount = 16
    num_generations: Annotated[int, Field(ge=2)] = 8
    max_prompt_length: PositiveCount = 512
    max_completion_length: PositiveCount = 256
    overlong: Literal["error", "drop"] = "error"
    temperature: Positive = 1.0
    chat_template_kwargs: dict[str, Any] = {}
    mask_truncated_completions: bool = False

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    learning_rate: Positive = 1e-5
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    lr_warmup_steps: Count = 0
    weight_decay: NonNegative = 0.0
    adam_beta1: Decay = 0.9
    adam_beta2: Decay = 0.99
    adam_epsilon: Positive = 1e-8
    max_grad_norm: Positive = 1.0
    num_iterations: PositiveCount = 1
    micro_batch_tokens: PositiveCount = 4096
    gradient_checkpointing: bool = False
    fused_kernels: Literal["auto", "off"] = "auto"
    num_processes: Count = 0
    """Training processes on this machine; 0 takes one per GPU, one on a CPU."""
    torch_threads: Count = 0
    """CPU threads for torch; 0 leaves torch's choice."""

    advantage: Literal["decoupled", "shaped"] = "decoupled"
    format_weight: NonNegative = 0.1
    std_floor: Positive = 0.05
    scale_rewards: Literal["group", "batch", "none"] = "group"
    beta: NonNegative = 0.001
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    epsilon_high: Positive | None = None
    loss_type: Literal["grpo", "dr_grpo", "bnpo", "dapo"] = "dapo"
    task_norm: Literal["none", "task"] = "none"
    kl_estimator: Literal["k3", "k3_ratio", "k2"] = "k3"
    importance_cap: Positive | Literal["off"] = 2.0
    importance_level: Literal["token", "sequence"] = "token"

    lora: LoraConfig = LoraConfig()
    warmup: WarmupConfig = WarmupConfig()
    rollout: RolloutConfig = RolloutConfig()
    sandbox: SandboxConfig = SandboxConfig()
    eval: EvalConfig = EvalConfig()
    data: DataConfig = DataConfig()
    verl: VerlConfig = VerlConfig()
    potential: PotentialOptions = PotentialOptions()
    synergy: SynergyOptions = SynergyOptions()
    utility: UtilityOptions = UtilityOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    baseline: BaselineOptions = BaselineOptions()
    prompts: PromptOptions = PromptOptions()
    calibrate: CalibrateOptions = CalibrateOptions()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tasks: the name {twice[0]!r} is used twice; give each its own")
        for task in self.tasks:
            if task.task not in KINDS and ":" not in task.task:
                raise ValueError(
                    f"tasks[{task.name}].task = {task.task!r}: must be one of {', '.join(KINDS)}, "
                    "or 'module:attribute' of your own"
                )
        if self.warmup.steps and self.warmup.lora and not self.lora.enabled:
            raise ValueError(
                "warmup.lora is true and lora.enabled is false; the adapter is set in [lora]: "
                "switch both on, or warmup.lora off"
            )
        _check_sandbox(self.sandbox)
        options = self.coordinator_options().in_effect()
        specs = [TaskSpec(task.name, ()) for task in sorted(self.tasks, key=lambda t: t.name)]
        make_arm(options.schedule.method, specs, options.baseline)  # refuses what doesn't fit
        if self.data.validation_share + self.data.test_share >= 1:
            raise ValueError(
                "data: validation_share + test_share is "
                f"{self.data.validation_share + self.data.test_share:g}; leave some for training"
            )
        return self

    @property
    def data_seed(self) -> int:
        """Decides which examples there are in each split, and which are evaluated."""
        return self.seed if self.data.seed is None else self.data.seed

    def coordinator_options(self) -> CoordinatorOptions:
        """The core's sections as the coordinator takes them."""
        baseline = self.baseline
        if baseline.horizon is None:
            baseline = replace(baseline, horizon=max(1, self.max_steps))
        return CoordinatorOptions(
            potential=self.potential,
            synergy=self.synergy,
            utility=self.utility,
            schedule=self.schedule,
            baseline=baseline,
            prompts=self.prompts,
            calibrate=self.calibrate,
        )

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, JSON-ready: what a run folder keeps."""
        return self.model_dump(mode="json")


def _check_sandbox(sandbox: SandboxConfig) -> None:
    if sandbox.urls and sandbox.workers:
        raise ValueError(
            f"sandbox.workers is {sandbox.workers} and sandbox.url is set; servers have their own "
            "--workers: leave it 0"
        )
    try:
        check_names(sandbox.allow_missing)
    except SandboxError as error:
        raise ValueError(f"sandbox.{error}") from None
    try:
        for url in sandbox.urls:
            check_exposure(check_url(url), insecure=sandbox.insecure)
    except SandboxError as error:
        raise ValueError(str(error)) from None


def as_list(value: str | list[str] | None) -> list[str]:
    """One source or several, as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


_MOVED = {
    "warmup_steps": "lr_warmup_steps (learning rate) or warmup.steps (supervised warm-up)",
    "per_device_train_batch_size": "prompts_per_step (prompts, not completions)",
    "generation_batch_size": "prompts_per_step (prompts, not completions)",
    "gradient_accumulation_steps": "micro_batch_tokens (the update is the same whatever it is)",
    "num_train_epochs": "max_steps",
    "model_name_or_path": "model",
    "bf16": 'dtype = "bfloat16"',
    "use_peft": "lora.enabled",
    "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "reward_weights": "tasks[].ratio and format_weight",
    "use_bias_correction_kl": 'kl_estimator = "k3_ratio"',
    "vllm_importance_sampling_cap": "importance_cap",
}
"""Keys of TRL that have another name here, or another meaning."""


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a TOML run file, apply `a.b=value` overrides, check everything.

    Args:
        path: the run file (`.toml`, or a run folder's resolved `.json`).
        overrides: `key=value` with dotted keys; `tasks.NAME.key` reaches a task by name. Values
            are TOML; what isn't valid TOML is taken as a string.

    Raises:
        ConfigError: one line that names the key, its value and what would be right.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"config {str(path)!r} does not exist") from None
    except IsADirectoryError:
        is_run = all((path / name).is_file() for name in ("config.json", "versions.json"))
        hint = f"; a run's is {str(path / 'config.json')!r}" if is_run else ""
        raise ConfigError(f"config {str(path)!r} is a folder, not a file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {str(path)!r} can't be read: {error}") from None
    is_json = path.suffix == ".json"
    try:
        raw = json.loads(text) if is_json else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        language = "JSON" if is_json else "TOML"
        raise ConfigError(f"config {path.name}: not valid {language}: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"config {path.name}: holds a {type(raw).__name__}, not a table of keys")
    for override in overrides or []:
        apply_override(raw, override)
    return parse_config(raw, origin=path.name)


def parse_config(raw: dict[str, Any], *, origin: str = "config") -> RunConfig:
    """Check a plain mapping. Raises `ConfigError` as `load_config` does."""
    raw = _engine_as_section(raw)
    try:
        # JSON mode is strict about scalars ("8" is no number) yet takes tables for dataclasses.
        return RunConfig.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        said = complaints.one_line(error, raw, RunConfig, moved=_MOVED, page="docs/options.md")
        raise ConfigError(f"{origin}: {said}") from None


def _engine_as_section(raw: dict[str, Any]) -> dict[str, Any]:
    """`[engine.verl]` says in one what `engine = "verl"` and `[verl]` say in two."""
    engine = raw.get("engine")
    if not isinstance(engine, dict) or len(engine) != 1 or not engine.keys() <= {"verl"}:
        return raw
    ((name, keys),) = engine.items()
    if name in raw:
        raise ConfigError(f"[engine.{name}] and [{name}] are two names of one table; keep one")
    return {**raw, "engine": name, name: keys}


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Apply one `a.b=value` to the raw mapping, in place. Raises `ConfigError`."""
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override!r}: write it as key=value, for example seed=1")
    node: Any = raw
    for index, part in enumerate(parts[:-1]):
        if isinstance(node, list):
            node = _named_task(node, part, override)
        else:
            node = node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise ConfigError(f"--set {override!r}: {'.'.join(parts[: index + 1])} is no table")
    if isinstance(node, list):
        raise ConfigError(f"--set {override!r}: name a task's key, as in tasks.NAME.ratio=2")
    node[parts[-1]] = _toml_value(text.strip())


def _named_task(tasks: list[Any], name: str, override: str) -> Any:
    for task in tasks:
        if isinstance(task, dict) and task.get("name") == name:
            return task
    known = ", ".join(str(task.get("name")) for task in tasks if isinstance(task, dict))
    raise ConfigError(f"--set {override!r}: no task is named {name!r} (there are: {known})")


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
