"""Public benchmarks on a finished run's model, or on any model: what `astor eval --suite` does."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from astor_rl import __version__
from astor_rl.checks import check_choice, check_count, check_number
from astor_rl.complaints import one_line
from astor_rl.config import RolloutConfig, SandboxConfig, apply_override, load_config
from astor_rl.engines.local.model import LoadedModel, load_model, render_prompt
from astor_rl.engines.local.run import FINAL
from astor_rl.engines.local.sampling import open_sampler
from astor_rl.errors import ConfigError, DataError, DependencyError, ModelError
from astor_rl.evaluate.suites import results as report_room
from astor_rl.evaluate.suites.base import Suite
from astor_rl.evaluate.suites.data import SuiteRows, limited, load_rows, parse_sources
from astor_rl.evaluate.suites.paper import SUITES as PAPER_SUITES
from astor_rl.evaluate.suites.paper import summarize_paper
from astor_rl.evaluate.suites.registry import Surroundings, make_suite, suite_names
from astor_rl.evaluate.suites.runner import Sampling, SuiteRunner
from astor_rl.evaluate.suites.store import EvaluationFolder, refuse_used
from astor_rl.evaluate.suites.toolchains import EXTRAS, parse_toolchains
from astor_rl.report.console import Console
from astor_rl.report.run_folder import holds_run
from astor_rl.sandbox.opening import open_pool

LONGEST = 16_384
"""Tokens of a prompt and its answer together, at most, whatever a model's positions allow."""


class ModelSettings(BaseModel):
    """How a model is run: the keys of a run file that an evaluation reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    torch_threads: int = 0
    trust_remote_code: bool = False
    chat_template_kwargs: dict[str, Any] = {}
    rollout: RolloutConfig = RolloutConfig()
    sandbox: SandboxConfig = SandboxConfig()


@dataclass(frozen=True, slots=True)
class SuiteOptions:
    """What `astor eval --suite` was asked.

    Attributes:
        suites: names, as given.
        data: `NAME=source`.
        data_dir: folder with the suites' files, or None.
        samples, temperature, seed, max_tokens: see `Sampling`.
        limit: questions of each suite at most; None for all.
        toolchain: `LANGUAGE=FOLDER`, see `EXTRAS`.
        unsandboxed: what may run without a container where there is none, by name.
        output: folder of the results; None for the default.
        resume: go on with what is there.
    """

    suites: Sequence[str]
    data: Sequence[str] = ()
    data_dir: Path | None = None
    samples: int = 1
    temperature: float | None = None
    seed: int = 0
    max_tokens: int | None = None
    limit: int | None = None
    toolchain: Sequence[str] = ()
    unsandboxed: Sequence[str] = ()
    output: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        check_count("--samples", self.samples, low=1)
        check_count("--seed", self.seed, low=0)
        for name, value in (("--limit", self.limit), ("--max-tokens", self.max_tokens)):
            if value is not None:
                check_count(name, value, low=1)
        check_number("--temperature", self.heat, low=0)
        for name in self.unsandboxed:
            check_choice("--unsandboxed", name, (*EXTRAS, "defects4j"))
        if self.samples > 1 and not self.heat:
            raise ConfigError(
                f"--samples is {self.samples} at temperature 0, where all samples are the same; "
                "give --temperature, for example 0.2"
            )

    @property
    def heat(self) -> float:
        """The temperature: 0 for one sample, 0.2 for several, unless it was given."""
        if self.temperature is not None:
            return self.temperature
        return 0.0 if self.samples == 1 else 0.2


def model_settings(
    target: str, config: Path | None, overrides: Sequence[str] | None
) -> tuple[str, ModelSettings]:
    """The model that is meant and how it is run.

    Args:
        target: a run folder (its final model is meant), a model folder, or a hub id.
        config: a run file to take the settings from; by default the run's own, if it is a run.
        overrides: `key=value` of `ModelSettings`.

    Raises:
        ConfigError: a key is unknown or its value wrong.
        ModelError: the run has no final model yet.
    """
    raw: dict[str, Any] = {}
    is_run = holds_run(target)
    path = config or (Path(target) / "config.json" if is_run else None)
    if path is not None:
        known = load_config(path).resolved()
        raw = {key: known[key] for key in ModelSettings.model_fields}
    for override in overrides or ():
        apply_override(raw, override)
    try:
        settings = ModelSettings.model_validate(raw)
    except ValidationError as error:
        said = one_line(error, raw, ModelSettings, known_as="with --suite these can be set")
        raise ConfigError(f"--set: {said}") from None
    final = Path(target) / FINAL
    if is_run and not final.is_dir():
        raise ModelError(
            f"run {target!r} has no final model yet; finish it with astor train ... --resume"
        )
    return str(final) if is_run else target, settings


@dataclass
class _Prepared:
    """Suites with their data, and why others have none."""

    suites: dict[str, tuple[Suite, SuiteRows]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


def evaluate_suites(
    target: str,
    options: SuiteOptions,
    *,
    config: Path | None,
    overrides: Sequence[str] | None,
    console: Console,
) -> tuple[dict[str, Any], Path]:
    """Run the suites; returns the results and the file they are in.

    Raises:
        AstorError: an option, the model, the data, the sandbox or the folder is wrong.
    """
    names = suite_names(options.suites)
    model, settings = model_settings(target, config, overrides)
    output = options.output or _default_output(target)
    refuse_used(output, resume=options.resume)
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    console.note(f"samples and results go to {output}; --resume goes on if this is interrupted")
    console.stage("Preparing", ", ".join(names))
    with open_pool(settings.sandbox) as sandbox:
        around = Surroundings(
            sandbox,
            parse_toolchains(options.toolchain),
            frozenset(options.unsandboxed),
            output / "defects4j" / "versions",
        )
        prepared = _prepare(names, options, around, console)
        console.stage("Loading", model)
        loaded = load_model(
            model,
            dtype=torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32,
            trust_remote_code=settings.trust_remote_code,
            progress=console.note,
        )
        asked = _asked(model, options, settings, prepared, loaded)
        with EvaluationFolder(output, asked, resume=options.resume) as folder:
            found = _run_all(names, prepared, folder, options, settings, loaded, console)
            results: dict[str, Any] = {"model": model, "settings": asked, "suites": found}
            if set(names) >= set(PAPER_SUITES):
                results["paper"] = summarize_paper(found).as_dict()
            return results, folder.save(results)


def _default_output(target: str) -> Path:
    if holds_run(target):
        return Path(target) / "suites"
    return Path("evaluations") / Path(target).name


def _prepare(
    names: Sequence[str], options: SuiteOptions, around: Surroundings, console: Console
) -> _Prepared:
    sources = parse_sources(options.data)
    if unused := sorted(sources.keys() - set(names)):
        raise ConfigError(f"--data names suite {unused[0]!r}, which --suite doesn't")
    prepared = _Prepared()
    for number, name in enumerate(names):
        console.progress("Preparing", number, len(names))
        try:
            rows = load_rows(name, sources.get(name, ()), options.data_dir, around.sandbox)
            choose = functools.partial(limited, limit=options.limit, seed=f"{options.seed}:{name}")
            prepared.suites[name] = make_suite(name, rows.rows, around, choose), rows
        except (DataError, DependencyError) as error:
            if name in sources or len(names) == 1:
                raise
            prepared.not_run[name] = str(error)
            console.note(f"not run: {error}")
    if not prepared.suites:
        raise DataError(next(iter(prepared.not_run.values())))
    return prepared


def _asked(
    model: str,
    options: SuiteOptions,
    settings: ModelSettings,
    prepared: _Prepared,
    loaded: LoadedModel,
) -> dict[str, Any]:
    """What decides the results: an evaluation is only gone on with when all of it is the same."""
    return {
        "astor": __version__,
        "model": model,
        "weights": _fingerprint(loaded.model),
        "dtype": settings.dtype,
        "backend": settings.rollout.backend,
        "rows": settings.rollout.max_rows,
        "torch_threads": torch.get_num_threads(),
        "chat_template": _digest(str(loaded.tokenizer.chat_template)),
        "chat_template_kwargs": settings.chat_template_kwargs,
        "samples": options.samples,
        "temperature": options.heat,
        "seed": options.seed,
        "limit": options.limit,
        "max_tokens": options.max_tokens,
        "data": {name: rows.digest for name, (_, rows) in prepared.suites.items()},
        # Which questions there are also depends on the toolchains that were found.
        "questions": {name: _keys(suite) for name, (suite, _) in prepared.suites.items()},
    }


def _keys(suite: Suite) -> str:
    return _digest("".join(question.example.key for question in suite.questions))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _fingerprint(model: Any) -> str:
    """A hash of some numbers of every weight: other training gives another one."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        few = tensor.detach().flatten()[:: max(1, tensor.numel() // 64)][:64]
        digest.update(name.encode())
        digest.update(str(few.float().tolist()).encode())
    return digest.hexdigest()


def _run_all(
    names: Sequence[str],
    prepared: _Prepared,
    folder: EvaluationFolder,
    options: SuiteOptions,
    settings: ModelSettings,
    loaded: LoadedModel,
    console: Console,
) -> dict[str, Any]:
    positions = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    longest = min(positions or LONGEST, LONGEST)
    sampler = open_sampler(
        settings.rollout,
        loaded,
        dtype=settings.dtype,
        max_length=longest,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        note=console.note,
    )
    render = functools.partial(
        render_prompt, loaded.tokenizer, chat_template_kwargs=settings.chat_template_kwargs
    )
    sampling = Sampling(
        samples=options.samples,
        temperature=options.heat,
        seed=options.seed,
        max_tokens=options.max_tokens,
        max_positions=longest,
        rows=settings.rollout.max_rows,
    )
    runner = SuiteRunner(sampler, render, sampling, progress=console.progress)
    found = {}
    for name in names:
        if name in prepared.not_run:
            found[name] = report_room.not_run_result(prepared.not_run[name])
            continue
        suite, rows = prepared.suites[name]
        console.stage(name, f"{len(suite.questions)} questions")
        graded = runner.run(suite, folder.samples(name))
        found[name] = report_room.suite_result(suite.report(graded), graded, rows)
    return found
