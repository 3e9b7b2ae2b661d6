"""Code-generation rows: write a function, or only its last statements, from a docstring.

A row is kept when its reference passes its tests and every trivial completion fails at least
one of them, both by execution.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astor_rl.code.slicing import FunctionSlice
from astor_rl.data.difficulty import estimate
from astor_rl.data.mining.examples import asserts, description, documented, pick, short_calls
from astor_rl.data.mining.execution import Observation, Trial, run_trials
from astor_rl.data.mining.functions import MAX_OUTPUT, Call, Progress, Subject, seeded
from astor_rl.data.rows import Row
from astor_rl.sandbox.api import SandboxPool

MAX_FUNCTION = 420
MAX_HIDDEN = 260
MAX_PROMPT = 800
_TESTS = 4
_ROUNDS = 3
_SHOWN = 2
_TRIVIAL = ("pass", "return None", "return 0", "return []", "return True", "return ''")


@dataclass(frozen=True, slots=True)
class _Draft:
    """A row to check.

    Attributes:
        row: as it will be if its check succeeds.
        calls: what its tests call.
        trivial: sources of trivial completions, none of which may pass.
    """

    row: Row
    calls: tuple[Call, ...]
    trivial: tuple[str, ...]


def code_rows(
    subjects: Sequence[Subject],
    sandbox: SandboxPool,
    *,
    per_unit: int,
    seed: int,
    progress: Progress,
) -> Iterator[Row]:
    """Up to `per_unit` problems a function: all of the body hidden, or its last statements."""
    checked: list[tuple[list[_Draft], Trial]] = []
    for done, subject in enumerate(subjects, 1):
        progress("writing problems", done, len(subjects))
        if drafts := list(_drafts(subject, per_unit, seed)):
            checked.append((drafts, _trial(subject, drafts)))
    tables = run_trials([trial for _, trial in checked], sandbox)
    for done, ((drafts, trial), table) in enumerate(zip(checked, tables, strict=True), 1):
        progress("checking problems", done, len(checked))
        if not table:
            continue
        seen = {
            source: dict(zip(trial.texts, row, strict=False))
            for source, row in zip(trial.sources, table, strict=True)
        }
        reference = trial.sources[0]
        for draft in drafts:
            if _passes(draft, seen[reference]) and not any(
                _passes(draft, seen[source]) for source in draft.trivial
            ):
                yield draft.row


def _passes(draft: _Draft, seen: Mapping[str, Observation]) -> bool:
    return bool(seen) and all(
        seen[call.input].same_as == ("value", call.output) for call in draft.calls
    )


def _trial(subject: Subject, drafts: Sequence[_Draft]) -> Trial:
    sources = dict.fromkeys(source for draft in drafts for source in draft.trivial)
    texts = dict.fromkeys(call.input for draft in drafts for call in draft.calls)
    return Trial(
        (subject.slice.code, *sources), subject.slice.name, tuple(texts), max_text=MAX_OUTPUT
    )


def _drafts(subject: Subject, per_unit: int, seed: int) -> Iterator[_Draft]:
    part = subject.slice
    node = part.node
    rng = seeded(seed, "code", subject.unit)
    calls = short_calls(subject)
    if len(calls) < _TESTS or node.decorator_list or len(part.function) > MAX_FUNCTION:
        return
    lines = part.function.splitlines()
    starts = _cuts(node)
    made = 0
    # The shortest hidden part first: it is the easiest. Later rounds show other examples.
    for number in range(_ROUNDS * len(starts)):
        start = starts[number % len(starts)]
        chosen = tuple(pick(calls, _TESTS, rng))
        hidden = "\n".join(lines[start - 1 :])
        begun = lines[part.head_lines : start - 1]
        head, _ = documented(part, chosen[:_SHOWN], note=description(part))
        prompt = f"{part.prelude}\n\n\n{head}" if part.prelude else head
        if len(hidden) > MAX_HIDDEN or len(prompt) + len("\n".join(begun)) > MAX_PROMPT:
            continue
        if made >= per_unit:
            return
        given = "\n".join([head, *begun]) if begun else ""
        row = _row(subject, made, prompt=prompt, given=given, hidden=hidden, calls=chosen)
        yield _Draft(row, chosen, tuple(_trivial(part, start)))
        made += 1


def _cuts(node: ast.FunctionDef) -> list[int]:
    """Lines where the hidden part may start, the last first: any statement of the body, and of
    blocks that end the body, so that hiding from there to the end leaves valid code to continue."""
    found: list[int] = []
    body = node.body
    while body:
        found += [statement.lineno for statement in body]
        last = body[-1]
        orelse = getattr(last, "orelse", None)
        if orelse and not (len(orelse) == 1 and isinstance(orelse[0], ast.If)):
            body = orelse
        elif isinstance(last, ast.For | ast.While | ast.With | ast.If) and not orelse:
            body = last.body
        else:
            body = []
    return sorted(set(found), reverse=True)


def _trivial(part: FunctionSlice, start: int) -> Iterator[str]:
    """Versions whose hidden part is a constant, a do-nothing, or an echo of an argument."""
    lines = part.function.splitlines()
    prelude = f"{part.prelude}\n\n" if part.prelude else ""
    indent = " " * (len(lines[start - 1]) - len(lines[start - 1].lstrip()))
    names = [p.name for p in part.parameters if p.kind == "positional"]
    hidden = textwrap.dedent("\n".join(lines[start - 1 :])).strip()
    for body in (*_TRIVIAL, *(f"return {name}" for name in names[:2])):
        # A reference that is that short is what is asked for, not a way around it.
        if body != hidden:
            yield prelude + "\n".join([*lines[: start - 1], indent + body])


def _row(
    subject: Subject, number: int, *, prompt: str, given: str, hidden: str, calls: Sequence[Call]
) -> Row:
    part = subject.slice
    fields: dict[str, Any] = {
        "id": f"mine/{subject.unit}#{number}",
        "source": f"mine:{subject.package}",
        "prompt": prompt + "\n",
        "entry_point": part.name,
        "signature": part.function.splitlines()[0],
        "reference": part.code,
        "tests": asserts(part.name, calls),
        "setup": "",
        "given": given,
    }
    fields["difficulty"] = estimate("code_generation", {**fields, "reference": hidden})
    return Row(fields, f"mine:{subject.unit}#{number}", subject.unit)
