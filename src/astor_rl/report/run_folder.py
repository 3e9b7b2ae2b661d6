"""The folder of a run: everything a report, a resume or a stranger needs, and nothing else.

```
config.json       the resolved config          versions.json   packages, machine, code
metrics.jsonl     one line a step              receipts.jsonl  why each batch was what it was
samples.jsonl     completions kept to read     events.jsonl    what happened, with the time
eval/NAME.json    held-out scores              checkpoints/    whole training states
run.lock          who trains here now
```
Apart from `events.jsonl` and the `time/` metrics, a run that was killed and resumed has the same
files as one that was not: `truncate_after` drops what came after the checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from astor_rl.errors import AstorError, ConfigError, DataError, StateError
from astor_rl.report.atomic import TEMPORARY, json_ready, remove, write_json
from astor_rl.report.jsonl import JsonLines, read_jsonl
from astor_rl.report.lock import FolderLock
from astor_rl.report.versions import versions

_CONFIG = "config.json"
_VERSIONS = "versions.json"
_BASE_DIR = "base_dir"
_HOUSEKEEPING = {_CONFIG, _VERSIONS, "events.jsonl", "run.lock", "crash.txt"}
"""What a run leaves that stopped before it did any work."""
ENDS = frozenset({"finished", "stopped", "killed"})
"""Events that end a session."""
_LOGS = ("metrics", "receipts", "samples", "events")
_OUTCOMES = ("model", "base", "warmup", "checkpoints")
"""Folders of a run that engines replace. Others may be there before it: `verl` is exported, and a
comparison gives a run its start's `eval`."""
_FIXED = (
    "engine",
    "model",
    "seed",
    "schedule.method",
    "prompts.value",
    "lora.enabled",
    "lora.r",
    "lora.lora_alpha",
    "lora.target_modules",
    "warmup.steps",
    "warmup.lora",
    "data.validation_share",
    "data.test_share",
    "data.seed",
)
"""Keys that a resumed run must keep: its checkpoints or its splits are of them."""
_FIXED_OF_TASKS = ("task", "max_examples", "order")
"""The same of each task. Not its sources: data may have been moved."""


class RunFolder:
    """A run folder held for writing, by `create`. Use as a context manager, or `close` it.

    A run that is taken up stays as it was until `accept`: a session that ends before leaves
    nothing behind, whatever its config says.

    Attributes:
        path: the folder.
        checkpoints: where checkpoints belong.
        resumed: whether there was a run here already.
        changed: config keys and versions that differ from the last session's, `key: old -> new`,
            for people: what may keep the run from being the one it would have been.
    """

    def __init__(self, path: Path, lock: FolderLock, *, resumed: bool) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.resumed = resumed
        self.changed: tuple[str, ...] = ()
        self._lock = lock
        self._accepted = False
        self._began = round(time.time(), 3)
        self._config: dict[str, Any] = {}
        self._made_with: dict[str, Any] = {}
        self._logs = {name: JsonLines(path / f"{name}.jsonl") for name in _LOGS}

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        *,
        resume: bool,
        base_dir: str | Path = ".",
    ) -> Self:
        """Make the folder, or take up the one that is there (`accept` makes it this session's).

        Args:
            path: the folder; parents are made.
            config: the resolved config, JSON-ready.
            base_dir: where the config's relative sources start.
            resume: go on with the run that is there; without one it starts as usual, so that a
                job that may be preempted can always say `--resume`.

        Raises:
            ConfigError: there is a run and `resume` is off, or the path is a file or the folder of
                something else, or holds what a run would write over. A run that stopped before it
                did any work is none.
            StateError: another process trains here, or a key differs that the run there must keep.
            CheckpointError: the folder can't be written.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise ConfigError(f"output_dir {str(path)!r} is a file; name a folder")
        if (path / _CONFIG).exists() and not holds_run(path):
            raise ConfigError(
                f"output_dir {str(path)!r} holds a {_CONFIG} that is no run's (a model's?); name "
                "another folder"
            )
        if not holds_run(path) and (strange := _in_the_way(path)):
            raise ConfigError(
                f"output_dir {str(path)!r} is no run's and holds {strange!r}, which a run would "
                "write over; name another folder"
            )
        there = holds_run(path) and begun(path)
        if there and not resume:
            raise ConfigError(
                f"output_dir {str(path)!r} holds a run already; continue it with --resume, or "
                "name another folder (--set output_dir=...)"
            )
        folder = cls(path, FolderLock(path / "run.lock"), resumed=there)
        try:
            folder._open(config, Path(base_dir))
        except BaseException:
            folder._lock.release()
            raise
        return folder

    def _open(self, config: Mapping[str, Any], base_dir: Path) -> None:
        self._config = json_ready(config)
        self._made_with = {**versions(), _BASE_DIR: str(base_dir.resolve())}
        if not self.resumed:
            remove(self.path / "events.jsonl")
            self.accept()
            return
        before = read_config(self.path)
        _check_fixed(before, self._config, self.path)
        earlier = self.path / _VERSIONS
        made_before = _read_json(earlier) if earlier.exists() else {}
        self.changed = (
            *differences(before, self._config),
            *differences(made_before, self._made_with),
        )

    def accept(self) -> None:
        """Go on with the run that was taken up: its config is this session's from here on.

        Call it once the data and the checkpoints are found to fit, before anything is appended. A
        new run is accepted from the beginning. Idempotent.
        """
        if self._accepted:
            return
        if self.resumed:
            self._notice_kill()
            for log in self._logs.values():
                log.keep(lambda _: True)
        # Before the config: a kill in between must not lose what changed.
        self.append_event(
            "resumed" if self.resumed else "started", time=self._began, changed=self.changed
        )
        write_json(self.path / _VERSIONS, self._made_with)
        write_json(self.path / _CONFIG, self._config)
        self._accepted = True

    def _notice_kill(self) -> None:
        """Write the end of a session that couldn't: its last sign of life."""
        events = read_events(self.path)
        if events and events[-1]["event"] not in ENDS:
            written = [path.stat().st_mtime for path in self.path.glob("*.jsonl")]
            self.append_event("killed", time=round(max(written), 3))

    def append_metrics(self, step: int, record: Mapping[str, Any]) -> None:
        """Add a step's metrics, flat names. A number that isn't finite becomes null."""
        self._append("metrics", step, record)

    def append_receipt(self, step: int, receipt: Mapping[str, Any]) -> None:
        """Add a step's receipt (`plan.Receipt.as_dict()`)."""
        self._append("receipts", step, receipt)

    def append_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Add completions worth reading, one line each."""
        for sample in samples:
            self._append("samples", step, sample)

    def append_event(self, event: str, *, step: int | None = None, **details: Any) -> None:
        """Add something that happened. With a step, it belongs to the training's course.

        Args:
            details: further fields; `time`, in seconds since 1970, is now unless given.
        """
        record = {"time": round(time.time(), 3), "event": event, **details}
        if step is not None:
            record["step"] = step
        self._logs["events"].append(record)

    def _append(self, log: str, step: int, record: Mapping[str, Any]) -> None:
        if "step" in record:
            raise StateError(f"{log}: a record names its own step {record['step']!r}; leave it out")
        self._logs[log].append({"step": step, **record})

    def save_evaluation(
        self,
        name: str,
        tasks: Mapping[str, Mapping[str, Any]],
        *,
        step: int | None = None,
        settings: Mapping[str, Any] | None = None,
        samples: Sequence[Mapping[str, Any]] = (),
    ) -> Path:
        """Write `eval/NAME.json` and return its path.

        The samples go first and replace those of an earlier try: where the result is, they are.

        Args:
            name: `before_warmup`, `before_rl`, `after_rl` are what the closing table compares.
            tasks: by task name, `evaluate.TaskResult.as_dict()`: at least `outcome`,
                `outcome_se` (or None), `examples` and `per_example`.
            step: the RL step it was made at; None for evaluations before the first.
            settings: what it was made with, to see later whether two compare.
            samples: completions of it, for `samples.jsonl`.
        """
        self._logs["samples"].keep(lambda record: record.get("evaluation") != name)
        self.append_samples(step or 0, [{"evaluation": name, **sample} for sample in samples])
        path = self.path / "eval" / f"{name}.json"
        made = {"name": name, "step": step, "settings": dict(settings or {}), "tasks": tasks}
        write_json(path, made)
        return path

    def truncate_after(self, step: int) -> None:
        """Forget what was recorded for steps beyond `step`: they will be trained again.

        Events without a step (sessions, interruptions) stay: they did happen.
        """
        for log in self._logs.values():
            log.keep(lambda record: record.get("step") is None or record["step"] <= step)
        for path in sorted((self.path / "eval").glob("*.json")):
            evaluation = _read_json(path)
            if evaluation.get("step") is not None and evaluation["step"] > step:
                path.unlink()

    def sync(self) -> None:
        """Make all that was appended survive a power cut. Call before writing a checkpoint."""
        for log in self._logs.values():
            log.sync()

    def close(self) -> None:
        """Close the files and give the lock back. Idempotent."""
        for log in self._logs.values():
            log.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self._accepted:
            # A full disk must not hide what went wrong.
            with suppress(AstorError):
                self.append_event("stopped", why=_in_one_line(error))
        self.close()


def _check_fixed(before: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> None:
    """Refuse a session whose config can't go on with the run in `path`. Raises `StateError`."""
    has = f"the run in {str(path)!r} has"
    names, then = ([task["name"] for task in each.get("tasks", ())] for each in (config, before))
    if set(names) != set(then):
        raise StateError(
            f"tasks are {', '.join(names)}, {has} {', '.join(then)}; resume with those or name "
            "another folder"
        )
    new, old = (with_data_seeds(flatten(each)) for each in (config, before))
    for key in (*_FIXED, *(f"tasks.{name}.{key}" for name in names for key in _FIXED_OF_TASKS)):
        # A key that only one of the two knows is another release's.
        if key in new and key in old and new[key] != old[key]:
            raise StateError(
                f"{key} is {new[key]!r}, {has} {old[key]!r}; resume with that or name another "
                "folder"
            )


def _in_one_line(error: BaseException) -> str:
    name, text = type(error).__name__, " ".join(str(error).split())
    return text if isinstance(error, AstorError) else f"{name}: {text}" if text else name


def holds_run(path: str | Path) -> bool:
    """Whether a folder is a run folder. (A model's folder has a `config.json` too.)"""
    return all((Path(path) / name).is_file() for name in (_CONFIG, _VERSIONS))


def begun(path: Path) -> bool:
    """Whether a run came so far that there is something to lose: a wrong config is none."""
    return path.is_dir() and any(
        entry.name not in _HOUSEKEEPING and not entry.name.endswith(TEMPORARY)
        for entry in path.iterdir()
    )


def _in_the_way(path: Path) -> str:
    """Something of somebody's in a folder without a run, of a name that runs write; else empty."""
    written = [*_OUTCOMES, *(f"{log}.jsonl" for log in _LOGS if log != "events")]
    return next((name for name in written if (path / name).exists()), "")


def require_run(path: str | Path) -> Path:
    """The path, checked. Raises `DataError` when no run is there."""
    path = Path(path)
    if not holds_run(path):
        what = "holds no run" if path.is_dir() else "does not exist"
        raise DataError(f"run folder {str(path)!r} {what}; give the output_dir of a run")
    return path


def read_config(path: str | Path) -> dict[str, Any]:
    """The resolved config of a run. Raises `DataError`."""
    return _read_json(require_run(path) / _CONFIG)


def read_base_dir(path: str | Path) -> Path:
    """Where a run's relative sources start: its run file's folder when it was last started."""
    return Path(_read_json(require_run(path) / _VERSIONS).get(_BASE_DIR, "."))


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The metrics of a run, a record a step, `step` included. Raises `DataError`."""
    return read_jsonl(require_run(path) / "metrics.jsonl")


def read_receipts(path: str | Path) -> list[dict[str, Any]]:
    """The receipts of a run. Raises `DataError`."""
    return read_jsonl(require_run(path) / "receipts.jsonl")


def read_samples(path: str | Path) -> list[dict[str, Any]]:
    """The kept completions of a run. Raises `DataError`."""
    return read_jsonl(require_run(path) / "samples.jsonl")


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """What happened in a run. Raises `DataError`."""
    return read_jsonl(require_run(path) / "events.jsonl")


def read_evaluations(path: str | Path) -> dict[str, dict[str, Any]]:
    """The evaluations of a run by name, as `save_evaluation` wrote them. Raises `DataError`."""
    folder = require_run(path) / "eval"
    return {file.stem: _read_json(file) for file in sorted(folder.glob("*.json"))}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`key: old -> new` for each dotted key that differs, in the order of the keys."""
    old, new = flatten(before), flatten(after)
    return [
        f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, "absent") != new.get(key, "absent")
    ]


def with_data_seeds(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Flat keys, with the `data.seed` that was in effect where none was given: the run's `seed`.

    Of what older releases wrote, too, which had no such key; and of every run there is in `flat`.
    """
    found = dict(flat)
    for key in flat:
        before, section, _ = f".{key}".rpartition(".data.")
        seed, own = (f"{before}{name}".removeprefix(".") for name in (".seed", ".data.seed"))
        if section and found.get(own) is None and seed in flat:
            found[own] = flat[seed]
    return found


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings, and lists of named mappings, as one of dotted keys."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, list) and item and all(isinstance(each, Mapping) for each in item):
            item = {str(each.get("name", index)): each for index, each in enumerate(item)}
        if isinstance(item, Mapping) and item:
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} can't be read: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{str(path)!r} is {type(value).__name__}; it should be a JSON object")
    return value
