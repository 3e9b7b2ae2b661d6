"""Results of finished units as one file: from machine to machine, or kept when the runs are gone.

One JSON object a line, so that two exports can be compared line by line. The first has what all
units have in common, every other line is a unit:

    {"format": "astor compare results", "version": 1, "units": 40, "made_from": {...}, ...}
    {"unit": "joint/seed-0", "made_from": {...}, "steps": [[1, 3412], ...], "evaluations": {...}}

Scores, the outcome of every test example and the tokens of each step are in it; weights,
completions and receipts are not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from astor_rl.compare import records
from astor_rl.compare.results import code_of
from astor_rl.compare.units import AFTER, BASE, BEFORE, LAST, Unit
from astor_rl.errors import DataError, StateError
from astor_rl.report.atomic import dumps, write_json, write_text
from astor_rl.report.closing import TOKENS
from astor_rl.report.run_folder import flatten, read_metrics

_DIGITS: Final = 6
"""Decimals of an example's outcome. Tasks' means keep all theirs."""

_Scores = dict[str, float]
_EvaluationName = Annotated[str, Field(pattern=rf"^({AFTER}|{BEFORE}|{LAST}|step_[0-9]+)$")]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Head(_Line):
    """The first line: what all units have in common."""

    format: Literal["astor compare results"] = "astor compare results"
    version: Literal[1] = 1
    units: int
    """How many lines follow: a file that was cut is noticed."""
    made_from: dict[str, Any]
    """Dotted keys and values that all of them have."""
    examples: dict[str, list[str]]
    """Keys of the test examples, by task."""


class _Made(_Line):
    """What another machine made of one unit."""

    unit: str
    seconds: Annotated[float, Field(ge=0)]
    code: str | None
    """The state of the code, as a hash."""
    made_from: dict[str, Any]
    """The dotted keys that not all units have with this value."""
    steps: list[tuple[int, Annotated[int, Field(ge=0)]]]
    """RL steps and the tokens that each sampled; of a merge or a start none."""
    evaluations: dict[_EvaluationName, _Scores]
    """Scores by the evaluation's name and the task."""
    outcomes: dict[str, list[float | None]]
    """By task, the outcome of each of the head's test examples; None where it has none."""


def export_results(units: Sequence[Unit], path: Path) -> int:
    """Write the results of all finished units to a file; returns how many there were.

    Raises:
        DataError: a result can't be read.
        CheckpointError: the file can't be written.
    """
    finished = [unit for unit in units if records.is_finished(unit)]
    made_from = {u.name: flatten(records.read(u)["made_from"]) for u in finished}
    judged = {u.name: _outcomes(u) for u in finished}
    common = _common(list(made_from.values()))
    examples = _examples(judged.values())
    head = _Head(units=len(finished), made_from=common, examples=examples)
    lines: list[_Line] = [head]
    for unit in finished:
        rest = {key: value for key, value in made_from[unit.name].items() if key not in common}
        outcomes = {
            task: [found.get(key) for key in examples[task]]
            for task, found in judged[unit.name].items()
        }
        lines.append(_packed(unit, rest, outcomes))
    write_text(path, "".join(f"{dumps(line.model_dump())}\n" for line in lines))
    return len(finished)


def _packed(
    unit: Unit, made_from: dict[str, Any], outcomes: dict[str, list[float | None]]
) -> _Made:
    metrics = read_metrics(unit.folder) if unit.kind == "run" else []
    return _Made(
        unit=unit.name,
        seconds=records.seconds_spent(unit),
        code=code_of(unit),
        made_from=made_from,
        steps=[(one["step"], int(one[TOKENS])) for one in metrics],
        evaluations={name: _scores(unit, name) for name in _names(unit)},
        outcomes=outcomes,
    )


def _names(unit: Unit) -> list[str]:
    """The evaluations that a comparison reads of a unit."""
    looks = sorted(
        (file.stem for file in (unit.folder / "eval").glob("step_*.json")),
        key=lambda name: int(name.removeprefix("step_")),
    )
    more = {"start": [BEFORE], "run": looks, "merge": [LAST]}
    return [AFTER, *more[unit.kind]]


def _evaluation(unit: Unit, name: str) -> dict[str, Any]:
    path = records.evaluation_file(unit, name)
    try:
        tasks: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["tasks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(path)!r} can't be read: {error!r}") from None
    return tasks


def _scores(unit: Unit, name: str) -> _Scores:
    return {task: found["outcome"] for task, found in _evaluation(unit, name).items()}


def _outcomes(unit: Unit) -> dict[str, _Scores]:
    return {
        task: {key: round(value, _DIGITS) for key, value in found["per_example"].items()}
        for task, found in _evaluation(unit, AFTER).items()
    }


def _common(made_from: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all have, with the same value."""
    first = made_from[0] if made_from else {}
    return {
        key: value
        for key, value in first.items()
        if all(key in one and one[key] == value for one in made_from)
    }


def _examples(judged: Iterable[Mapping[str, _Scores]]) -> dict[str, list[str]]:
    keys: dict[str, dict[str, None]] = {}
    for one in judged:
        for task, outcomes in one.items():
            keys.setdefault(task, {}).update(dict.fromkeys(outcomes))
    return {task: sorted(found) for task, found in keys.items()}


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: units that were taken, and those that were here already."""

    taken: int
    here: int


def import_results(path: Path, units: Sequence[Unit]) -> Imported:
    """Take up what a file has of a comparison's units: they count as finished from here on.

    Nothing is written unless all of the file can be taken up. A unit that is finished here stays
    as it is, if it scored the same.

    Args:
        path: what `export_results` wrote.
        units: of the comparison.

    Raises:
        DataError: the file can't be read, is none of ours, or has a unit that these are not.
        StateError: a unit was made from something else there than it would be here, has begun
            here, or is finished here with other scores.
    """
    head, lines = _read(path)
    known = {unit.name: unit for unit in units}
    taken: list[tuple[Unit, _Made]] = []
    here = 0
    for line in lines:
        unit = known.get(line.unit)
        if unit is None:
            raise DataError(
                f"{str(path)!r} has {line.unit!r}, and the comparison has no such unit; import "
                "it into one that has its arm and seed"
            )
        _check(path, unit, line, head)
        if records.is_finished(unit):
            here += 1
        else:
            taken.append((unit, line))
    for unit, line in taken:
        _unpack(unit, line, head)
    return Imported(len(taken), here)


def _read(path: Path) -> tuple[_Head, list[_Made]]:
    try:
        head, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{str(path)!r} can't be read: {error}") from None
    try:
        first = _Head.model_validate_json(head)
    except ValidationError:
        raise DataError(
            f"{str(path)!r} holds no results of a comparison; give a file that --export wrote"
        ) from None
    if first.units != len(lines):
        raise DataError(
            f"{str(path)!r} has {len(lines)} of its {first.units} units; copy it again, whole"
        )
    return first, [_made(path, number, line) for number, line in enumerate(lines, start=2)]


def _made(path: Path, number: int, line: str) -> _Made:
    try:
        return _Made.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the line"
        raise DataError(f"{path}:{number}: {where}: {first['msg']}; export it again") from None


def _check(path: Path, unit: Unit, line: _Made, head: _Head) -> None:
    last = max((step for step, _ in line.steps), default=0)
    wanted = {AFTER, {"start": BEFORE, "run": f"step_{last}", "merge": LAST}[unit.kind]}
    if missing := sorted(wanted - line.evaluations.keys()):
        raise DataError(f"{str(path)!r}: {unit.name} has no {missing[0]!r}; export it again")
    looks = {f"step_{step}" for step, _ in line.steps} | wanted | {"step_0"}
    if stray := sorted(line.evaluations.keys() - looks):
        raise DataError(
            f"{str(path)!r}: {unit.name} has {stray[0]!r} and no such step; export it again"
        )
    for task in line.evaluations[AFTER]:
        if len(line.outcomes.get(task, ())) != len(head.examples.get(task, ())):
            raise DataError(
                f"{str(path)!r}: {unit.name}: outcomes of {task!r} are not one an example; export "
                "it again"
            )
    if records.is_finished(unit):
        if _scores(unit, AFTER) != line.evaluations[AFTER]:
            raise StateError(
                f"{unit.name} is finished here, and {str(path)!r} has other scores of it; delete "
                f"{str(unit.record)!r} and {str(unit.folder)!r} to take the file's"
            )
        return
    if unit.record.exists():
        raise StateError(
            f"{unit.name} has begun here, and {str(path)!r} has its result; delete "
            f"{str(unit.record)!r} and {str(unit.folder)!r} to take that"
        )
    made_from = {**head.made_from, **line.made_from}
    changed = records.changes(_seen_here(made_from, unit.made_from), unit.made_from)
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise StateError(
            f"{str(path)!r}: {unit.name} was made with another {changed[0]}{more}; it is no "
            "result of this comparison"
        )


def _seen_here(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Without the digests of files that aren't on this machine: a report needs none of them."""
    present = flatten(ours)
    return {
        key: value
        for key, value in theirs.items()
        if "inputs" not in key.split(".") or key in present
    }


def _unpack(unit: Unit, line: _Made, head: _Head) -> None:
    """Leave the files that a comparison reads; the record, which says it is finished, is last."""
    for name, scores in line.evaluations.items():
        tasks: dict[str, dict[str, Any]] = {task: {"outcome": one} for task, one in scores.items()}
        if name == AFTER:
            for task, found in tasks.items():
                pairs = zip(head.examples[task], line.outcomes[task], strict=True)
                found["per_example"] = {key: one for key, one in pairs if one is not None}
        write_json(records.evaluation_file(unit, name), {"name": name, "tasks": tasks})
    if unit.kind == "run":
        write_json(unit.folder / "config.json", unit.config.resolved())
        write_json(unit.folder / "versions.json", {"code": line.code})
        steps = "".join(f"{dumps({'step': s, TOKENS: n})}\n" for s, n in line.steps)
        write_text(unit.folder / "metrics.jsonl", steps)
    made_from = {**head.made_from, **line.made_from}
    records.adopt(unit, made_from=made_from, seconds=line.seconds)


def check_whole(units: Sequence[Unit], to_do: Sequence[Unit]) -> None:
    """Refuse to make what needs the weights of a unit of which only the result is here.

    Raises:
        StateError: names both.
    """
    imported = {unit.name: unit for unit in units if records.is_imported(unit)}
    for unit in to_do:
        if records.is_finished(unit):
            continue
        for name in unit.needs:
            if name in imported and _needs_weights(unit, imported[name]):
                source = imported[name]
                raise StateError(
                    f"{unit.name} needs the weights of {name}, of which only the result was "
                    f"imported; import {unit.name}, too, or delete {str(source.record)!r} and "
                    f"{str(source.folder)!r} to train it here"
                )


def _needs_weights(unit: Unit, source: Unit) -> bool:
    """A merge does; a run does where there was a warm-up."""
    return unit.kind == "merge" or unit.config.model == str(source.folder / BASE)
