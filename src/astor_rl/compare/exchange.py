"""Results that go from machine to machine, or outlive their runs (`packed` has the format)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astor_rl.compare import records
from astor_rl.compare.packed import LOOK, Found, dump_file, read_file, rounded
from astor_rl.compare.reading import read_unit
from astor_rl.compare.units import AFTER, BASE, BEFORE, LAST, Unit
from astor_rl.errors import DataError, StateError
from astor_rl.report.atomic import write_text, writing
from astor_rl.report.run_folder import flatten

_INPUTS = "inputs"


def check_export(path: Path) -> None:
    """Find out before hours of training whether a file can be written, and may be.

    Raises:
        DataError: there is something else than an export.
        CheckpointError: its folder can't be written.
    """
    if path.exists():
        read_file(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.probe")
        probe.touch()
        probe.unlink()


def export_results(units: Sequence[Unit], path: Path) -> int:
    """Write the results of all finished units to a file; returns how many there were.

    Raises:
        DataError: a result can't be read, there is none, or the file is there and has one that is
            not among them.
        CheckpointError: the file can't be written.
    """
    found = [read_unit(unit) for unit in units if records.is_finished(unit)]
    if not found:
        raise DataError(f"no unit is finished: there is nothing to export to {str(path)!r}")
    names = {one.packed.unit for one in found}
    if path.exists():
        for one in read_file(path):
            if one.packed.unit not in names:
                raise DataError(
                    f"{str(path)!r} has {one.packed.unit!r:.80}, which isn't finished here; "
                    "--import it first, or export to another file"
                )
    write_text(path, dump_file(found))
    return len(found)


@dataclass(frozen=True, slots=True)
class Taken:
    """What an import did: units that were taken up, and those that were here already."""

    new: int
    here: int


def import_results(path: Path, units: Sequence[Unit], *, inputs: bool = True) -> Taken:
    """Take up what a file has of a comparison's units: they count as finished from here on.

    Nothing is written unless all of the file can be taken up. A unit that is finished here stays
    as it is, if it found the same.

    Args:
        path: what `export_results` wrote.
        units: of the comparison.
        inputs: whether data and model must be those that are here. Those that aren't here are
            passed over: a report needs none.

    Raises:
        DataError: the file can't be read, is none of ours, or has a unit that these are not.
        StateError: a unit was made from something else there than it would be here, has begun
            here, or is finished here with another result.
    """
    known = {unit.name: unit for unit in units}
    new: list[tuple[Unit, Found]] = []
    here: set[str] = set()
    for found in read_file(path):
        name = found.packed.unit
        unit = known.get(name)
        if unit is None:
            raise DataError(
                f"{str(path)!r} has {name!r:.80}, and the comparison has no such unit; import it "
                "into one that has its arm and seed"
            )
        _check(path, unit, found, inputs=inputs)
        if records.is_finished(unit):
            here.add(name)
        else:
            new.append((unit, found))
    for unit, found in new:
        records.adopt(
            unit,
            made_from=found.packed.made_from,
            seconds=found.packed.seconds,
            result=found.model_dump(),
        )
    return Taken(len(new), len(here))


def _check(path: Path, unit: Unit, found: Found, *, inputs: bool) -> None:
    where = f"{str(path)!r}: {unit.name}"
    if found.packed.kind != unit.kind:
        raise DataError(f"{where} is a {found.packed.kind} there and a {unit.kind} here")
    last = max((step for step, _ in found.packed.steps), default=0)
    wanted = {AFTER, {"start": BEFORE, "run": f"{LOOK}{last}", "merge": LAST}[unit.kind]}
    if missing := sorted(wanted - found.packed.evaluations.keys()):
        raise DataError(f"{where} has no {missing[0]!r}; export it again")
    tasks = sorted(task.name for task in unit.config.tasks)
    if sorted(found.packed.outcomes) != tasks:
        raise DataError(f"{where} is not of the tasks {', '.join(tasks)}")
    changed = _differences(found.packed.made_from, unit.made_from, inputs=inputs)
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        hint = (
            records.remedy(changed)
            if "data.seed: " in changed[0]
            else "it is no result of this comparison"
        )
        raise StateError(f"{where} was made with another {changed[0]}{more}; {hint}")
    delete = f"delete {str(unit.record)!r} and {str(unit.folder)!r} to take the file's"
    if records.is_finished(unit):
        if not _same(read_unit(unit), found):
            raise StateError(
                f"{unit.name} is finished here, and {str(path)!r} has another result of it; "
                f"{delete}"
            )
    elif unit.record.exists() or unit.folder.exists():
        raise StateError(f"{unit.name} has begun here, and {str(path)!r} has its result; {delete}")


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], *, inputs: bool) -> list[str]:
    """What a unit was made from there and isn't here, in lines that a terminal can show."""
    there, here = flatten(theirs), flatten(ours)
    for key in [key for key in {**there, **here} if _INPUTS in key.split(".")]:
        if not inputs or key not in here:
            there.pop(key, None)
            here.pop(key, None)
    return [f"{line!r:.200}"[1:].removesuffix("'") for line in records.changes(there, here)]


def _same(one: Found, other: Found) -> bool:
    """Whether two machines found the same, but for the time and the place."""
    mine, theirs = (rounded(found) for found in (one, other))
    return all(
        getattr(mine.packed, part) == getattr(theirs.packed, part)
        for part in ("steps", "evaluations")
    ) and all(mine.outcomes(task) == theirs.outcomes(task) for task in mine.examples)


def check_one_making(units: Sequence[Unit]) -> None:
    """Refuse results in one report that were made from different data, models or keys.

    Raises:
        StateError: names the unit and what differs.
    """
    digests: dict[str, tuple[Any, str]] = {}
    for unit in units:
        if not records.is_finished(unit):
            continue
        made_from = flatten(records.read(unit)["made_from"])
        if changed := _differences(made_from, unit.made_from, inputs=False):
            raise StateError(
                f"{unit.name} was made with another {changed[0]}; {records.remedy(changed)}"
            )
        for key, digest in _of_inputs(made_from):
            before, name = digests.setdefault(key, (digest, unit.name))
            if before != digest:
                raise StateError(
                    f"{unit.name} and {name} were made from different {key!r:.120}: they don't "
                    "compare; make one of them again"
                )


def _of_inputs(made_from: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Digests by the input's name; a merge has those of what it is of, too."""
    for key, digest in made_from.items():
        parts = key.split(".")
        if _INPUTS in parts[:-1]:
            yield ".".join(parts[parts.index(_INPUTS) + 1 :]), digest


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
                raise StateError(
                    f"{unit.name} needs the weights of {name}, of which only the result was "
                    f"imported; import {unit.name}, too, or delete "
                    f"{str(imported[name].record)!r} to train it here"
                )


def _needs_weights(unit: Unit, source: Unit) -> bool:
    """A merge does; a run does where there was a warm-up."""
    return unit.kind == "merge" or unit.config.model == str(source.folder / BASE)
