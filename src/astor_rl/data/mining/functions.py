"""Functions worth asking about: sliced out of packages and observed in the sandbox."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from astor_rl.code.doctests import doctest_calls
from astor_rl.code.eager import make_eager
from astor_rl.code.fingerprint import fingerprint
from astor_rl.code.slicing import FunctionSlice, ModuleSlicer
from astor_rl.data.mining.arguments import first_tries, variations
from astor_rl.data.mining.execution import Observation, Trial, run_trials
from astor_rl.data.mining.packages import Package
from astor_rl.sandbox.api import SandboxPool
from astor_rl.syntax import parse

MAX_INPUT = 60
MAX_OUTPUT = 60
MIN_DISTINCT = 3
MIN_VALUES = 5
_FIRST_TRIES = 40
_MAX_SLICE_CHARS = 1600

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that was made, with its result.

    Attributes:
        input: arguments as they stand between the parentheses.
        output: the result as a literal.
        lines: source lines executed.
    """

    input: str
    output: str
    lines: int


@dataclass(frozen=True, slots=True)
class Subject:
    """A function that can be asked about.

    Attributes:
        slice: its self-contained code; eager (a list instead of an iterator) where it was lazy.
        unit: `package.module.qualname`, what splits keep together.
        package: name of the package.
        shown: path of its file, for diffs.
        calls: verified calls, each with a distinct input.
    """

    slice: FunctionSlice
    unit: str
    package: str
    shown: str
    calls: tuple[Call, ...] = ()


def candidates(packages: Sequence[Package], progress: Progress) -> list[Subject]:
    """Every sliceable function of the packages, one of each identifier-blind shape, in order."""
    found: dict[str, Subject] = {}
    total = sum(len(package.files) for package in packages)
    done = 0
    for package in packages:
        for file in package.files:
            source = file.path.read_text(encoding="utf-8", errors="replace")
            for part in ModuleSlicer(source, max_chars=_MAX_SLICE_CHARS).slices():
                shape = fingerprint(part.code)
                if shape is not None and part.parameters:
                    unit = f"{file.module}.{part.qualname}"
                    found.setdefault(shape, Subject(part, unit, package.name, file.shown))
            done += 1
            progress("reading", done, total)
    return list(found.values())


def seeded(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends on the seed and the names only, not on what was mined before."""
    text = "\0".join([str(seed), *names])
    return np.random.default_rng(
        int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
    )


def observe(
    found: Sequence[Subject], sandbox: SandboxPool, *, seed: int, tries: int, progress: Progress
) -> list[Subject]:
    """Call every candidate on examples and guesses, then on variations of what worked.

    Kept are functions with at least `MIN_VALUES` calls that returned a literal, at least
    `MIN_DISTINCT` different ones, and that never printed, changed their arguments or behaved
    differently the second time or after other calls.

    Args:
        found: candidates.
        sandbox: where they run.
        seed: decides the variations.
        tries: how many variations of each function's arguments are tried.
        progress: told about every function.
    """
    first = []
    for subject in found:
        calls = doctest_calls(subject.slice.docstring, subject.slice.name)
        texts = first_tries(subject.slice, calls, limit=_FIRST_TRIES)
        if texts:
            sources = (subject.slice.code,)
            first.append((subject, Trial(sources, subject.slice.name, tuple(texts))))
    second = []
    results = run_trials([trial for _, trial in first], sandbox)
    for done, ((subject, trial), table) in enumerate(zip(first, results, strict=True), 1):
        progress("trying functions", done, 2 * len(first))
        prepared = _second_round(subject, trial, table, seed=seed, tries=tries)
        if prepared is not None:
            second.append(prepared)
    kept = []
    results = run_trials([trial for _, trial in second], sandbox)
    for done, ((subject, trial), table) in enumerate(zip(second, results, strict=True), 1):
        progress("trying functions", len(first) + done * len(first) // len(second), 2 * len(first))
        calls_made = _agreed(trial, table, subject.slice)
        if _is_telling(calls_made):
            kept.append(replace(subject, calls=calls_made))
    return kept


def _second_round(
    subject: Subject,
    trial: Trial,
    table: Sequence[Sequence[Observation]],
    *,
    seed: int,
    tries: int,
) -> tuple[Subject, Trial] | None:
    """The function (made eager if it was lazy) and the calls to make of it, or None to drop it."""
    if not table or any(o.verdict in ("printed", "mutated", "endless") for o in table[0]):
        return None
    worked = [
        (text, seen)
        for text, seen in zip(trial.texts, table[0], strict=False)
        if seen.verdict == "value" and seen.text != "None"
    ]
    if not worked:
        return None
    part = subject.slice
    # Two versions, called in opposite orders: they must agree.
    sources = (part.code, part.code)
    if any(seen.lazy for _, seen in worked):
        eager = make_eager(part.function)
        if eager is None:
            return None
        part = replace(part, function=eager, is_generator=False)
        sources = (subject.slice.code, part.code)
    good = [text for text, _ in worked]
    rng = seeded(seed, subject.unit)
    more = variations(good, part.parameters, count=tries, rng=rng)
    texts = [text for text in [*good, *more] if len(text) <= MAX_INPUT]
    # What is kept from here on is taken for deterministic: this round runs twice.
    return replace(subject, slice=part), Trial(
        sources, part.name, tuple(texts), max_text=MAX_OUTPUT, repeat=2
    )


def _agreed(
    trial: Trial, table: Sequence[Sequence[Observation]], part: FunctionSlice
) -> tuple[Call, ...]:
    """Calls whose value every version of the function agrees on."""
    if not table or any(not row for row in table):
        return ()
    if any(o.verdict in ("printed", "mutated", "endless") or o.lazy for o in table[-1]):
        return ()
    if any(len({o.same_as for o in seen}) > 1 for seen in zip(*table, strict=True)):
        return ()  # not the same list, or it remembers
    unordered = _uses_sets(part.code)
    return tuple(
        Call(text, seen.text, seen.lines)
        for text, seen in zip(trial.texts, table[-1], strict=True)
        if seen.verdict == "value"
        and seen.text != "None"
        and " at 0x" not in seen.text
        and not (unordered and _order_matters(seen.text))
    )


def _is_telling(calls: Sequence[Call]) -> bool:
    if len(calls) < MIN_VALUES or len({call.output for call in calls}) < MIN_DISTINCT:
        return any(call.output == "True" for call in calls) and any(
            call.output == "False" for call in calls
        )
    return any(call.output != call.input for call in calls)


def _uses_sets(code: str) -> bool:
    return any(
        isinstance(node, ast.Set | ast.SetComp)
        or (isinstance(node, ast.Name) and node.id in ("set", "frozenset"))
        for node in ast.walk(parse(code))
    )


def _order_matters(output: str) -> bool:
    """Whether a literal has text in an ordered container of two or more: the order may be a
    set's, which for text depends on the hash seed."""
    value = ast.literal_eval(output)
    return (
        isinstance(value, list | tuple | dict)
        and len(value) > 1
        and any(
            isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
            for node in ast.walk(parse(output))
        )
    )
