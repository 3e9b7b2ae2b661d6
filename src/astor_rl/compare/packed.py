"""The results of finished units as one file, and what is remembered of a unit that came by one.

One JSON object a line, so that two exports can be compared line by line. The first has what all
units have in common, every other line is a unit:

    {"format": "astor compare results", "version": 1, "units": 40, "made_from": {...}, ...}
    {"unit": "joint/seed-0", "made_from": {...}, "steps": [[1, 3412], ...], "evaluations": {...}}

Scores, the outcome of every test example and the tokens of each step are in it; weights,
completions and receipts are not.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from astor_rl.compare.units import AFTER, BEFORE, LAST
from astor_rl.complaints import one_line
from astor_rl.errors import DataError

LOOK: Final = "step_"
"""What names of evaluations of the validation split begin with; the step follows."""
DIGITS: Final = 6
"""Decimals of an example's outcome. Tasks' means keep all theirs."""
_VERSION: Final = 1
_OF: Final = "of."
"""What keys begin with that a merge has of its sources."""

_Outcome = Annotated[float, Field(ge=0, le=1)]
Scores = dict[str, _Outcome]
_Name = Annotated[str, Field(pattern=rf"^({AFTER}|{BEFORE}|{LAST}|{LOOK}(0|[1-9][0-9]{{0,8}}))$")]
_Count = Annotated[int, Field(ge=0, le=10**15)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Packed(_Line):
    """What was made of one unit."""

    unit: str
    kind: Literal["start", "run", "merge"]
    seconds: Annotated[float, Field(ge=0, le=10**12)]
    code: str | None
    """The state of this package's code that it was trained with, as a hash; of merges None."""
    environment: Annotated[int, Field(ge=0)] | None
    """Which of the head's environments it was made in; None where nobody knows."""
    made_from: dict[str, Any]
    """Dotted keys; in a file only those that the head doesn't have, and no sources'."""
    of: list[str] = []
    """In a file: units of it, of which a merge's `made_from` has all keys after `of.UNIT.`."""
    steps: list[tuple[Annotated[int, Field(ge=1)], _Count]]
    """RL steps, in order, and the tokens that each sampled; of a merge or a start none."""
    evaluations: dict[_Name, Scores]
    """Scores by the evaluation's name and the task."""
    outcomes: dict[str, list[_Outcome | None]]
    """By task, the outcome of each of the head's test examples; None where it has none."""

    @model_validator(mode="after")
    def _consistent(self) -> Packed:
        steps = [step for step, _ in self.steps]
        if any(later <= step for step, later in itertools.pairwise(steps)):
            raise ValueError("steps are not in order")
        tasks = {tuple(sorted(scores)) for scores in self.evaluations.values()}
        if tasks != {tuple(sorted(self.outcomes))} or not self.outcomes:
            raise ValueError("evaluations are not all of the same tasks")
        if stray := sorted(self.looks.keys() - {0, *steps}):
            raise ValueError(f"there is a look at step {stray[0]}, and no such step")
        return self

    @property
    def looks(self) -> dict[int, Scores]:
        """Scores on the validation split by step, in order."""
        found = {
            int(name.removeprefix(LOOK)): scores
            for name, scores in self.evaluations.items()
            if name.startswith(LOOK)
        }
        return dict(sorted(found.items()))


class Head(_Line):
    """The first line: what all units have in common."""

    format: Literal["astor compare results"] = "astor compare results"
    version: Literal[1] = _VERSION
    units: Annotated[int, Field(ge=0)]
    """How many lines follow: a file that was cut is noticed."""
    made_from: dict[str, dict[str, Any]]
    """By kind, the dotted keys and values that all of its units have."""
    environments: list[dict[str, Any]]
    """Python, platform and packages that units were made with."""
    examples: dict[str, list[str]]
    """Keys of the test examples, by task."""

    @model_validator(mode="after")
    def _consistent(self) -> Head:
        if any(len(set(keys)) < len(keys) for keys in self.examples.values()):
            raise ValueError("an example is there twice")
        return self


class Found(_Line):
    """What one finished unit found, wherever it was made."""

    packed: Packed
    """Complete: `made_from` has all keys, and `environment` stands beside it."""
    environment: dict[str, Any] | None
    examples: dict[str, list[str]]
    """Keys of the outcomes, by task."""

    def outcomes(self, task: str) -> dict[str, float]:
        """Outcomes of a task's test examples, by their keys."""
        pairs = zip(self.examples[task], self.packed.outcomes[task], strict=True)
        return {key: outcome for key, outcome in pairs if outcome is not None}


def read_file(path: Path) -> list[Found]:
    """The units of a file that `dump_file` made.

    Raises:
        DataError: it can't be read, isn't one, or isn't whole; one line that says which.
    """
    try:
        first, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{str(path)!r} can't be read: {error}") from None
    head = _head(path, first)
    if head.units != len(lines):
        raise DataError(
            f"{str(path)!r} has {len(lines)} of its {head.units} units; copy it again, whole"
        )
    found: dict[str, Found] = {}
    for number, line in enumerate(lines, start=2):
        one = _unit(path, number, line, head, found)
        if one.packed.unit in found:
            raise DataError(f"{path}:{number}: {one.packed.unit!r:.80} is there twice")
        found[one.packed.unit] = one
    return list(found.values())


def _head(path: Path, line: str) -> Head:
    try:
        value = json.loads(line)
        version = value["version"] if value["format"] == Head.model_fields["format"].default else 0
    except (ValueError, TypeError, KeyError):
        version = 0
    if not version:
        raise DataError(
            f"{str(path)!r} holds no results of a comparison; give a file that --export wrote"
        )
    if version != _VERSION:
        raise DataError(
            f"{str(path)!r} has version {version!r:.20} of the format, and this release reads "
            f"{_VERSION}; export it again with this one"
        )
    try:
        return Head.model_validate_json(line)
    except ValidationError as error:
        raise DataError(f"{path}:1: {_told(error, line, Head)}") from None


def _unit(path: Path, number: int, line: str, head: Head, before: Mapping[str, Found]) -> Found:
    try:
        packed = Packed.model_validate_json(line)
    except ValidationError as error:
        raise DataError(f"{path}:{number}: {_told(error, line, Packed)}") from None
    for task, outcomes in packed.outcomes.items():
        if len(outcomes) != len(head.examples.get(task, ())):
            raise DataError(
                f"{path}:{number}: outcomes of {task!r:.80} are not one an example; export it again"
            )
    place = packed.environment
    if place is not None and place >= len(head.environments):
        raise DataError(f"{path}:{number}: there is no environment {place}; export it again")
    made_from = {**head.made_from.get(packed.kind, {}), **packed.made_from}
    for name in packed.of:
        if name not in before:
            raise DataError(f"{path}:{number}: {name!r:.80} is not above; export it again")
        made_from |= _as_source(before[name])
    return Found(
        packed=packed.model_copy(update={"made_from": made_from, "environment": None, "of": []}),
        environment=None if place is None else head.environments[place],
        examples={task: head.examples[task] for task in packed.outcomes},
    )


def _told(error: ValidationError, line: str, model: type[_Line]) -> str:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):  # what is wrong with it then, the error says
        raw = None
    return f"{one_line(error, raw, model)}; export it again"


def rounded(one: Found) -> Found:
    """With outcomes of examples as a file keeps them."""
    outcomes = {task: _spread(one, task, keys) for task, keys in one.examples.items()}
    return one.model_copy(update={"packed": one.packed.model_copy(update={"outcomes": outcomes})})


def dump_file(units: Sequence[Found]) -> str:
    """The text of a file with these units; what a merge is of stands before it.

    Keys are in order: the same units give the same text, whichever files they came from.
    """
    kinds: dict[str, None] = dict.fromkeys(one.packed.kind for one in units)
    common = {kind: _common([one for one in units if one.packed.kind == kind]) for kind in kinds}
    examples = _united([one.examples for one in units])
    environments = [one.environment for one in units if one.environment is not None]
    distinct = [one for n, one in enumerate(environments) if one not in environments[:n]]
    head = Head(units=len(units), made_from=common, environments=distinct, examples=examples)
    lines: list[_Line] = [head]
    for place, one in enumerate(units):
        sources = [source for source in units[:place] if _is_source(source, one)]
        known = {**common[one.packed.kind]}
        for source in sources:
            known |= _as_source(source)
        made_from = one.packed.made_from
        changes = {
            "made_from": {key: made_from[key] for key in sorted(made_from) if key not in known},
            "of": [source.packed.unit for source in sources],
            "environment": None if one.environment is None else distinct.index(one.environment),
            "outcomes": {task: _spread(one, task, examples[task]) for task in one.examples},
        }
        lines.append(one.packed.model_copy(update=changes))
    return "".join(f"{line.model_dump_json()}\n" for line in lines)


def _as_source(one: Found) -> dict[str, Any]:
    """What a merge of it has of what it was made from."""
    return {f"{_OF}{one.packed.unit}.{key}": value for key, value in one.packed.made_from.items()}


def _is_source(source: Found, one: Found) -> bool:
    return one.packed.kind == "merge" and _as_source(source).items() <= one.packed.made_from.items()


def _spread(one: Found, task: str, keys: Sequence[str]) -> list[float | None]:
    found = {key: round(outcome, DIGITS) for key, outcome in one.outcomes(task).items()}
    return [found.get(key) for key in keys]


def _common(units: Sequence[Found]) -> dict[str, Any]:
    """What all were made from, with the same value, but for what merges have of their sources."""
    first, *others = (one.packed.made_from for one in units)
    return {
        key: value
        for key, value in sorted(first.items())
        if not key.startswith(_OF) and all(key in one and one[key] == value for one in others)
    }


def _united(examples: Iterable[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    keys: dict[str, set[str]] = {}
    for one in examples:
        for task, found in one.items():
            keys.setdefault(task, set()).update(found)
    return {task: sorted(found) for task, found in keys.items()}
