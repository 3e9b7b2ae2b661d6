"""Unit-test rows: a function to test, a few reference asserts, and mutants that they kill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from astor_rl.code.mutants import Mutant, mutate
from astor_rl.code.slicing import FunctionSlice
from astor_rl.data.difficulty import estimate
from astor_rl.data.mining.examples import asserts, description, documented, pick, short_calls
from astor_rl.data.mining.execution import Observation, Trial, run_trials
from astor_rl.data.mining.functions import MAX_OUTPUT, Call, Progress, Subject, seeded
from astor_rl.data.rows import Row
from astor_rl.sandbox.api import SandboxPool

MODULE = "focal.py"
MAX_CODE = 600
MAX_MUTANTS = 5
_TRIED_MUTANTS = 18
_POOL = 12
_REFERENCE = 4
_SHOWN = 2
_MIN_KILLED = 2


@dataclass(frozen=True, slots=True)
class _Draft:
    subject: Subject
    calls: tuple[Call, ...]
    mutants: tuple[Mutant, ...]
    trial: Trial


def target_rows(
    subjects: Sequence[Subject],
    sandbox: SandboxPool,
    *,
    per_unit: int,
    seed: int,
    progress: Progress,
) -> Iterator[Row]:
    """Up to `per_unit` targets a function, with different examples shown and mutants to kill.

    Reference tests are two to four asserts: first the examples that the docstring shows (as an
    engineer would begin, and a small model can), then calls chosen to kill the most mutants that
    are left. Only mutants that they kill are stored. A mutant is killed when a reference call
    returns something else, raises, or doesn't end.
    """
    drafts: list[_Draft] = []
    for done, subject in enumerate(subjects, 1):
        progress("making mutants", done, len(subjects))
        if (draft := _draft(subject, seed)) is not None:
            drafts.append(draft)
    tables = run_trials([draft.trial for draft in drafts], sandbox)
    for done, (chosen, table) in enumerate(zip(drafts, tables, strict=True), 1):
        progress("running mutants", done, len(drafts))
        if table:
            yield from _rows(chosen, table, per_unit=per_unit, seed=seed)


def _draft(subject: Subject, seed: int) -> _Draft | None:
    part = subject.slice
    calls = tuple(pick(short_calls(subject), _POOL, seeded(seed, "tests", subject.unit)))
    if len(calls) < _REFERENCE or len(part.code) > MAX_CODE:
        return None
    found = mutate(part.code, entry_point=part.name, seed=seed, limit=_TRIED_MUTANTS)
    sources = (part.code, *(mutant.code for mutant in found))
    texts = tuple(call.input for call in calls)
    trial = Trial(sources, part.name, texts, max_text=4 * MAX_OUTPUT)
    return _Draft(subject, calls, tuple(found), trial)


def _rows(
    draft: _Draft, table: Sequence[Sequence[Observation]], *, per_unit: int, seed: int
) -> Iterator[Row]:
    truth = [("value", call.output) for call in draft.calls]
    if [seen.same_as for seen in table[0]] != truth:
        return
    kills = [
        {place for place, seen in enumerate(row) if seen.same_as != truth[place]}
        if row
        else set(range(len(truth)))
        for row in table[1:]
    ]
    killable = [place for place, by in enumerate(kills) if by]
    killers = sorted(set().union(*kills))
    if not killers:
        return
    rng = seeded(seed, "mutants", draft.subject.unit)
    used: set[tuple[int, ...]] = set()
    for number in range(per_unit):
        # An example that tells nothing apart would make tests that repeat it worth nothing.
        first = int(rng.choice(killers))
        others = [place for place in rng.permutation(len(truth)).tolist() if place != first]
        places = tuple(sorted([first, *others[: _SHOWN - 1]]))
        wanted = sorted(rng.permutation(killable)[: MAX_MUTANTS + 1].tolist())
        reference = _extended(places, [kills[place] for place in wanted], len(truth))
        killed = [draft.mutants[m] for m in wanted if kills[m] & set(reference)][:MAX_MUTANTS]
        if len(killed) >= _MIN_KILLED and places not in used:
            used.add(places)
            shown = [draft.calls[place] for place in places]
            tests = [draft.calls[place] for place in reference]
            yield _row(draft.subject, number, shown, tests, killed)


def _row(
    subject: Subject,
    number: int,
    shown: Sequence[Call],
    tests: Sequence[Call],
    killed: Sequence[Mutant],
) -> Row:
    part = subject.slice
    identity = f"{subject.unit}#{number}"
    body = "\n".join(f"    {line}" for line in asserts(part.name, tests))
    document = _Documenter(part, shown)
    fields: dict[str, Any] = {
        "id": f"mine/{identity}",
        "source": f"mine:{subject.package}",
        "module": MODULE,
        "entry_point": part.name,
        "code": document.code(part.code),
        "description": description(part),
        "reference_tests": f"from focal import {part.name}\n\n\ndef test_reference():\n{body}\n",
        "mutants": [
            {"op": m.op, "line": document.line(m.line), "code": document.code(m.code)}
            for m in killed
        ],
    }
    fields["difficulty"] = estimate("unit_test_generation", fields)
    return Row(fields, f"mine:{identity}", subject.unit)


class _Documenter:
    """Puts a docstring into a function's source and into its mutants, which differ in one line."""

    def __init__(self, part: FunctionSlice, shown: Sequence[Call]) -> None:
        head, _ = documented(part, shown, note=description(part))
        before = part.code.count("\n") - part.function.count("\n")
        self._docstring = head.splitlines()[part.head_lines :]
        self._place = before + part.head_lines

    def code(self, source: str) -> str:
        lines = source.splitlines()
        return "\n".join([*lines[: self._place], *self._docstring, *lines[self._place :]])

    def line(self, line: int) -> int:
        return line if line <= self._place else line + len(self._docstring)


def _extended(shown: Sequence[int], kills: Sequence[set[int]], calls: int) -> list[int]:
    """The calls shown, and up to four in all that kill the most of what is left, best first.

    Args:
        shown: places of the calls to begin with.
        kills: for each mutant, the places of the calls that kill it.
        calls: how many calls there are; of equal ones the earlier is taken.
    """
    chosen = list(shown)
    left = [by for by in kills if not by & set(chosen)]
    while left and len(chosen) < min(_REFERENCE, calls):
        gains = [sum(place in by for by in left) for place in range(calls)]
        best = max(range(calls), key=lambda place: (gains[place], -place))
        if not gains[best]:
            break
        chosen.append(best)
        left = [by for by in left if best not in by]
    return chosen
