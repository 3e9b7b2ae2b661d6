"""What a comparison remembers of its units on disk: what each was made from, and how far it is.

    runs/joint/seed-0/        the run folder, or for a merge its model/ and eval/
    runs/joint/seed-0.json    the record
    runs/joint/seed-0.log     what its processes wrote

A record is written before a unit begins and again when it has finished: a unit that was cut goes
on, a finished one is never made again, and one whose making would differ now is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from astor_rl.compare.units import AFTER, Unit
from astor_rl.config import RunConfig, TaskConfig
from astor_rl.errors import DataError, StateError
from astor_rl.report.atomic import write_json
from astor_rl.report.run_folder import begun, differences, flatten, with_data_seeds
from astor_rl.schedule.baselines.options import reads
from astor_rl.schedule.baselines.registry import PICKING

_BEFORE = {"schedule.epochs": False}
"""What runs did before there was the option, where it isn't the default."""


def check_unchanged(units: Sequence[Unit]) -> None:
    """Refuse units that have begun with something else than they would begin with now.

    Raises:
        StateError: names the unit and what differs.
        DataError: a record can't be read.
    """
    for unit in units:
        before = _read(unit.record)
        if not before or not (before.get("finished") or begun(unit.folder)):
            continue
        changed = changes(before["made_from"], unit.made_from)
        if changed and changed[0].endswith(" -> 'absent'") and "inputs." in changed[0]:
            missing = changed[0].partition("inputs.")[2].partition(": ")[0]
            raise StateError(
                f"{unit.name} was made with {missing!r}, which isn't here; bring it, or look at "
                "what is finished with --report"
            )
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise StateError(
                f"{unit.name} was made with another {changed[0]}{more}; {remedy(changed)}, or "
                f"delete {str(unit.record)!r} and {str(unit.folder)!r}"
            )


def remedy(changed: Sequence[str]) -> str:
    """What to do about changes (as `changes` has them) but to delete something."""
    if all("data.seed: " in change for change in changed):
        return "each seed had its own examples then: set same_examples = false to go on with that"
    return "give the changed arm another name, the comparison another output_dir"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What a unit is made from now that it wasn't then, `key: old -> new`.

    Keys that a later version added, with a value that changes nothing, are none.
    """
    old, new = (_read_ones(with_data_seeds(flatten(each))) for each in (before, after))
    added = {
        key: value for key, value in new.items() if key not in old and _is_as_before(key, value)
    }
    return differences({**old, **added}, new)


def _read_ones(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Without the options of schedulers that the run doesn't train with, and empty `inputs`."""

    def is_read(key: str) -> bool:
        if key.rpartition(".")[2] == "inputs":  # there are none
            return False
        before, section, option = _parted(key)
        if not section:
            return True
        schedule = f"{before}.schedule.".removeprefix(".")
        method = flat.get(f"{schedule}method", "")
        if section == "baseline":
            return reads(method, option)
        by_utility = method == "astor" and flat.get(f"{schedule}prompt_scheduling", False)
        return option != "epochs" or not (by_utility or method in PICKING)

    return {key: value for key, value in flat.items() if is_read(key)}


def _parted(key: str) -> tuple[str, str, str]:
    """What comes before a scheduler's section, the section and the option; else all empty."""
    for section in ("baseline", "schedule"):
        before, found, option = f".{key}".rpartition(f".{section}.")
        if found and option.isidentifier():
            return before, section, option
    return "", "", ""


def _is_as_before(key: str, value: Any) -> bool:
    defaults = {**_defaults(), **_BEFORE}
    of, _, rest = key.partition("/seed-")
    if of.startswith("of."):  # of.ARM/seed-0/TASK.key: what was merged
        key = rest.partition(".")[2]
    section, _, rest = key.partition(".")
    if section == "tasks":  # tasks.NAME.key
        key = f"tasks..{rest.partition('.')[2]}"
    return key in defaults and bool(defaults[key] == value)


@cache
def _defaults() -> dict[str, Any]:
    task = TaskConfig(name="0", task="io_prediction", source="jsonl:x")
    config = RunConfig(model="m", tasks=[task]).resolved()
    keys = flatten(json.loads(json.dumps(config)))
    return {key.replace("tasks.0.", "tasks..", 1): value for key, value in keys.items()}


def is_finished(unit: Unit) -> bool:
    """Whether there is nothing left to do."""
    record = _read(unit.record)
    there = "imported" in record or evaluation_file(unit, AFTER).is_file()
    return bool(record.get("finished")) and there


def evaluation_file(unit: Unit, name: str) -> Path:
    """Where a unit's evaluation is, or will be."""
    return unit.folder / "eval" / f"{name}.json"


def seconds_spent(unit: Unit) -> float:
    """Time that sessions of it took."""
    return float(_read(unit.record).get("seconds", 0.0))


def read(unit: Unit) -> dict[str, Any]:
    """What is remembered of a unit; empty before it began. Raises `DataError`."""
    return _read(unit.record)


def is_imported(unit: Unit) -> bool:
    """Whether only its result is here: it was made elsewhere."""
    return "imported" in _read(unit.record)


def begin(unit: Unit) -> None:
    """Note that a unit is about to be made, or taken up."""
    _write(unit, finished=False, seconds=seconds_spent(unit))


def end(unit: Unit, *, finished: bool, seconds: float) -> None:
    """Note how a session of a unit ended, and how long it took."""
    _write(unit, finished=finished, seconds=seconds_spent(unit) + seconds)


def adopt(
    unit: Unit, *, made_from: Mapping[str, Any], seconds: float, result: Mapping[str, Any]
) -> None:
    """Keep, in the record, the result of a unit that was made elsewhere: it is finished.

    In one stroke, and in no folder: nothing takes it for a run that could go on.

    Args:
        unit: which.
        made_from: what it was made from there.
        seconds: how long that took.
        result: what it found, JSON-ready.
    """
    _write(unit, finished=True, seconds=seconds, made_from=made_from, imported=result)


def _write(unit: Unit, *, finished: bool, seconds: float, **more: Any) -> None:
    write_json(
        unit.record,
        {
            "unit": unit.name,
            "finished": finished,
            "seconds": round(seconds, 3),
            "made_from": unit.made_from,
            **more,
        },
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} can't be read: {error}") from None
    if not isinstance(value, dict) or "made_from" not in value:
        raise DataError(f"{str(path)!r} is no record of a unit; delete it to make the unit again")
    return value


def last_line(path: Path) -> str:
    """The last line of a log that isn't blank; empty when there is none."""
    return next(_lines_from_end(path), "")


def _lines_from_end(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    yield from (line.strip() for line in reversed(text.splitlines()) if line.strip())
