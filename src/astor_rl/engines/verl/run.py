"""A whole run with verl: examples and settings exported, verl's configuration composed, started."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from astor_rl.config import RunConfig
from astor_rl.engines.preparation import Note, Render, prepare_tasks
from astor_rl.engines.verl import hydra
from astor_rl.engines.verl.export import FOLDER, check_same_examples, write
from astor_rl.engines.verl.guard import require_attention, require_verl
from astor_rl.errors import ModelError
from astor_rl.report.run_folder import RunFolder
from astor_rl.report.trackers import check_trackers
from astor_rl.sandbox.opening import open_pool
from astor_rl.types import Message


def train(config: RunConfig, *, resume: bool, base_dir: Path, note: Note) -> None:
    """Run a config on a Ray cluster, from its beginning or from its last checkpoint.

    Args:
        config: the run.
        resume: go on with the run in `output_dir`.
        base_dir: relative sources start here.
        note: takes one line for people per thing worth knowing.

    Raises:
        AstorError: one line for a person; the run folder is left resumable.
    """
    check_trackers(config.report_to)
    given = arguments(config, resume=resume)
    with opened(given, config, resume=resume, base_dir=base_dir, note=note) as (composed, folder):
        begun = resume and has_checkpoint(Path(composed.trainer.default_local_dir))
        export(config, base_dir=base_dir, note=note, begun=begun)
        folder.accept()
        _launch(composed)


def start(given: list[str], config: RunConfig, *, base_dir: Path, note: Note) -> None:
    """Train with verl's arguments and data that was exported before. Raises as `train` does."""
    resume = "trainer.resume_mode=disable" not in given
    with opened(given, config, resume=resume, base_dir=base_dir, note=note) as (composed, folder):
        folder.accept()
        _launch(composed)


def arguments(config: RunConfig, *, resume: bool = True) -> list[str]:
    """verl's arguments for a run.

    Raises:
        CapabilityError: this engine can't honour a key of the run.
    """
    return hydra.arguments(hydra.overrides(config, _folder(config), resume=resume))


@contextmanager
def opened(
    given: list[str], config: RunConfig, *, resume: bool, base_dir: Path, note: Note
) -> Iterator[tuple[Any, RunFolder]]:
    """The composed and checked configuration, and the run folder, held and not yet accepted."""
    composed = hydra.compose(given)
    hydra.check(composed, config)
    require_attention(composed)
    with RunFolder.create(
        composed.astor.folder, config.resolved(), resume=resume, base_dir=base_dir
    ) as folder:
        for change in folder.changed:
            note(f"changed since the last session: {change}")
        yield composed, folder
        folder.append_event("finished")


def export(config: RunConfig, *, base_dir: Path, note: Note, begun: bool = False) -> None:
    """Write what verl's processes read; of a run that has `begun` to train, only the same again.

    Raises:
        StateError: the run has begun with other training examples.
        DependencyError: verl is missing or of another version.
        AstorError: the data, the model's tokenizer or the sandbox fails.
    """
    require_verl()
    render = _renderer(config)
    with open_pool(config.sandbox) as sandbox:
        tasks = prepare_tasks(config, sandbox=sandbox, render=render, base_dir=base_dir, note=note)
    if begun:
        check_same_examples(_folder(config), tasks)
    write(_folder(config), config, tasks, base_dir)


def has_checkpoint(folder: Path) -> bool:
    """Whether verl would go on from one; the file's name is its `checkpoint_manager`'s."""
    return (folder / "latest_checkpointed_iteration.txt").exists()


def _folder(config: RunConfig) -> Path:
    return Path(config.output_dir).resolve() / FOLDER


def _launch(composed: Any) -> None:
    # Ray and verl take seconds to import; configuration errors come before.
    from astor_rl.engines.verl.runner import launch

    launch(composed)


def command(given: list[str]) -> str:
    """The shell command that trains with these arguments."""
    return shlex.join(["python", "-m", hydra.MODULE, *given])


def _renderer(config: RunConfig) -> Render:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            config.model, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {config.model!r}: its tokenizer can't be loaded: {' '.join(str(error).split())}"
        ) from None
    if not tokenizer.chat_template:
        raise ModelError(f"model {config.model!r} has no chat template; verl needs one")

    def render(messages: Sequence[Message]) -> tuple[int, ...]:
        ids = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **config.chat_template_kwargs,
        )
        return tuple(ids)

    return render
