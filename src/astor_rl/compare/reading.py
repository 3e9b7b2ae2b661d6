"""What a finished unit found: from its folder, or from its record if it was made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from astor_rl.compare import records
from astor_rl.compare.packed import LOOK, Found, Packed
from astor_rl.compare.units import AFTER, BEFORE, LAST, Unit
from astor_rl.errors import DataError
from astor_rl.report.closing import TOKENS
from astor_rl.report.run_folder import flatten, read_evaluations, read_metrics

_Model = TypeVar("_Model", Found, Packed)
_OF_PLACE = ("code", "git", "base_dir")
"""What `versions.json` has besides the environment."""


def read_unit(unit: Unit) -> Found:
    """What a finished unit found.

    Raises:
        DataError: a file can't be read, a task has no judged example, or the last look is missing.
    """
    record = records.read(unit)
    if "imported" in record:
        return _parsed(unit, Found, record["imported"])
    evaluations = {name: _read(path) for name, path in _evaluations(unit).items()}
    steps = _steps(unit)
    if unit.kind == "run" and f"{LOOK}{max(steps, default=0)}" not in evaluations:
        raise DataError(f"{unit.name}: no look at the validation split after the last step")
    judged = {task: found["per_example"] for task, found in evaluations[AFTER]["tasks"].items()}
    packed = {
        "unit": unit.name,
        "kind": unit.kind,
        "seconds": float(record["seconds"]),
        "code": code_of(unit),
        "environment": None,
        "made_from": flatten(record["made_from"]),
        "steps": list(steps.items()),
        "evaluations": {name: _outcomes(found, unit, name) for name, found in evaluations.items()},
        "outcomes": {task: list(outcomes.values()) for task, outcomes in judged.items()},
    }
    versions = _versions(unit)
    environment = {key: versions[key] for key in versions if key not in _OF_PLACE}
    return Found(
        packed=_parsed(unit, Packed, packed),
        environment=environment or None,
        examples={task: list(outcomes) for task, outcomes in judged.items()},
    )


def code_of(unit: Unit) -> str | None:
    """The state of the code that a run was trained with; None where nobody knows.

    That of its last session. Of runs from before there was any it is the commit of the working
    folder.
    """
    imported = records.read(unit).get("imported")
    if imported is not None:
        code = imported["packed"]["code"]
    else:
        versions = _versions(unit)
        code = versions.get("code") or (versions.get("git") or {}).get("commit")
    return None if code is None else str(code)


def environments(units: Sequence[Unit]) -> list[dict[str, Any]]:
    """What finished units were made with: Python, platform, packages; each once."""
    found: list[dict[str, Any]] = []
    for unit in units:
        if records.is_finished(unit):
            environment = read_unit(unit).environment
            if environment is not None and environment not in found:
                found.append(environment)
    return found


def _parsed(unit: Unit, kind: type[_Model], value: Mapping[str, Any]) -> _Model:
    try:
        return kind.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{unit.name}: {where!r:.80}: {first['msg']}") from None


def _evaluations(unit: Unit) -> dict[str, Path]:
    """The files that a comparison reads of a unit, by the evaluation's name."""
    names = [AFTER, *{"start": [BEFORE], "run": [], "merge": [LAST]}[unit.kind]]
    if unit.kind == "run":
        names += [name for name in read_evaluations(unit.folder) if name.startswith(LOOK)]
    return {name: records.evaluation_file(unit, name) for name in names}


def _steps(unit: Unit) -> dict[int, int]:
    """Tokens that each RL step sampled."""
    metrics = read_metrics(unit.folder) if unit.kind == "run" else []
    return {record["step"]: int(record[TOKENS]) for record in metrics}


def _versions(unit: Unit) -> dict[str, Any]:
    file = unit.folder / "versions.json"
    return _read(file) if file.is_file() else {}


def _outcomes(evaluation: Mapping[str, Any], unit: Unit, name: str) -> dict[str, float]:
    scores = {task: found["outcome"] for task, found in evaluation["tasks"].items()}
    for task, score in scores.items():
        if score is None:
            raise DataError(f"{unit.name}: {name}: no sample of task {task!r} could be judged")
    return scores


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} can't be read: {error}") from None
    return value
