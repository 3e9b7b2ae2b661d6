"""A run's examples and settings in the form verl's processes read, wherever they run.

    train.parquet, validation.parquet   a prompt a row, `data_source` its task
    run.json                            the resolved run, for the driver and the reward workers
    agent.yaml                          the agent loop that keeps each task's own length limit

The folder must be visible to every node, as verl's checkpoints must.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astor_rl.config import RunConfig, parse_config
from astor_rl.engines.preparation import PreparedTask
from astor_rl.errors import ConfigError, DataError, StateError
from astor_rl.report.atomic import write_json, writing
from astor_rl.types import Example

FOLDER = "verl"
"""Folder in the run."""
_TRAIN = "train.parquet"
AGENT = "astor_task"
"""Name of the agent loop of `agent.py`."""
_AGENT_LOOPS = f"- name: {AGENT}\n  _target_: astor_rl.engines.verl.agent.TaskAgentLoop\n"


def write(folder: Path, config: RunConfig, tasks: Sequence[PreparedTask], base_dir: Path) -> None:
    """Write the files; those of an earlier export are replaced.

    Args:
        folder: made when missing.
        config: the run.
        tasks: with their examples.
        base_dir: where modules of one's own tasks lie.

    Raises:
        ConfigError: fewer prompts than a batch holds.
        CheckpointError: the folder can't be written.
    """
    train = [row for task in tasks for row in _rows(config, task, task.train, None)]
    if len(train) < config.prompts_per_step:
        raise ConfigError(
            f"prompts_per_step is {config.prompts_per_step} and there are {len(train)} training "
            "examples; lower it or bring more"
        )
    limit = config.eval.examples or 1  # verl wants a validation set even where nobody looks at it
    validation = [
        row
        for task in tasks
        for row in _rows(config, task, (task.validation or task.train)[:limit], config.eval.samples)
    ]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "agent.yaml").write_text(_AGENT_LOOPS, encoding="utf-8")
        _write_parquet(folder / _TRAIN, train)
        _write_parquet(folder / "validation.parquet", validation)
    write_json(
        folder / "run.json",
        {"config": config.resolved(), "base_dir": str(base_dir.resolve())},
    )


def check_same_examples(folder: Path, tasks: Sequence[PreparedTask]) -> None:
    """Refuse to go on with an exported run on other training examples; needs no Ray.

    Args:
        folder: as `write` takes it; nothing is exported yet when it holds no training rows.
        tasks: with the examples of now.

    Raises:
        StateError: they differ from the exported ones; names the task and how many.
        DataError: the exported rows can't be read.
    """
    if not (folder / _TRAIN).exists():
        return
    before = _exported_keys(folder / _TRAIN)
    for task in tasks:
        was, now = before.get(task.name, []), [example.key for example in task.train]
        if was == now:
            continue
        gone, new = len(set(was) - set(now)), len(set(now) - set(was))
        how = f"{gone} gone, {new} new" if gone or new else "in another order"
        raise StateError(
            f"task {task.name}: its training examples changed since the run began ({how}); a run "
            "goes on with the same ones: take the change back, or start another run"
        )


def _exported_keys(path: Path) -> dict[str, list[str]]:
    """Keys of the training rows by task, in order."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=["data_source", "extra_info"])
        found: dict[str, list[str]] = {}
        for row in table.to_pylist():
            found.setdefault(row["data_source"], []).append(row["extra_info"]["key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"exported rows {str(path)!r} can't be read: {error}; delete the file if the run may "
            "go on with the data as it is now"
        ) from None
    return found


def _rows(
    config: RunConfig, task: PreparedTask, examples: Sequence[Example], samples: int | None
) -> list[dict[str, Any]]:
    """verl's rows; `samples` completions each, or the task's group size."""
    block = task.config
    return [
        {
            "data_source": task.name,
            "prompt": [dict(message) for message in task.prompts[example.key][0]],
            "reward_model": {"style": "rule", "ground_truth": encode(example)},
            "extra_info": {
                "index": index,
                "key": example.key,
                "origin": example.origin,
                "difficulty": example.difficulty,
            },
            "agent_name": AGENT,
            "max_tokens": block.max_completion_length or config.max_completion_length,
            "__rollout_n__": samples or block.num_generations or config.num_generations,
        }
        for index, example in enumerate(examples)
    ]


def encode(example: Example) -> str:
    """An example as text: rows of different tasks have different fields, a column has one type."""
    return json.dumps(
        {
            "key": example.key,
            "fields": dict(example.fields),
            "origin": example.origin,
            "unit": example.unit,
            "difficulty": example.difficulty,
        }
    )


def decode(text: str) -> Example:
    """What `encode` wrote.

    Raises:
        DataError: it isn't that.
    """
    try:
        return Example(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise DataError(f"ground_truth holds no example: {error}; export the run again") from None


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def read_run(path: str | Path) -> tuple[RunConfig, Path]:
    """The run and its base folder, as `write` left them.

    Raises:
        DataError: no such file, or it holds something else.
        ConfigError: the run in it is not valid for this release.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        config, base_dir = found["config"], Path(found["base_dir"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"exported run {str(path)!r} can't be read ({error}); every node must see the folder "
            "that astor export-verl wrote"
        ) from None
    return parse_config(config, origin=str(path)), base_dir
