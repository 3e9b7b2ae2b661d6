"""Commit-message rows from edits of real functions, each verified by execution."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from astor_rl.data.difficulty import estimate
from astor_rl.data.mining import edits_behaviour as behaviour
from astor_rl.data.mining import edits_structure as structure
from astor_rl.data.mining.edits import Change, Claim, Material, Operator
from astor_rl.data.mining.execution import Observation, Trial, run_trials
from astor_rl.data.mining.functions import Progress, Subject, seeded
from astor_rl.data.mining.phrasings import PHRASINGS
from astor_rl.data.rows import Row
from astor_rl.sandbox.api import SandboxPool
from astor_rl.syntax import parse

MAX_DIFF = 600
MAX_WORDS = 11
MAX_SUBJECT = 72
_CALLS = 6
_CONTEXT = 3

OPERATORS: Mapping[str, tuple[Operator, Claim]] = MappingProxyType(
    {
        "rename_variable": (structure.rename_variable, "same"),
        "rename_parameter": (structure.rename_parameter, "same"),
        "rename_function": (structure.rename_function, "same"),
        "add_docstring": (structure.add_docstring, "same"),
        "add_type_hints": (structure.add_type_hints, "same"),
        "extract_constant": (structure.extract_constant, "same"),
        "extract_variable": (structure.extract_variable, "same"),
        "inline_variable": (structure.inline_variable, "same"),
        "remove_unused_variable": (structure.remove_unused_variable, "same"),
        "loop_to_comprehension": (structure.loop_to_comprehension, "same"),
        "comprehension_to_loop": (structure.comprehension_to_loop, "same"),
        "drop_else_after_return": (structure.drop_else_after_return, "same"),
        "invert_condition": (structure.invert_condition, "same"),
        "use_augmented_assignment": (structure.use_augmented_assignment, "same"),
        "use_is_none": (structure.use_is_none, "same"),
        "add_cache": (structure.add_cache, "same"),
        "keyword_only": (structure.keyword_only, "same"),
        "merge_nested_if": (structure.merge_nested_if, "same"),
        "add_default": (behaviour.add_default, "same"),
        "add_deprecation": (behaviour.add_deprecation, "same"),
        "add_logging": (behaviour.add_logging, "same"),
        "improve_message": (behaviour.improve_message, "loads"),
        "change_default": (behaviour.change_default, "loads"),
        "add_guard": (behaviour.add_guard, "loads"),
        "add_none_check": (behaviour.add_none_check, "loads"),
        "add_type_check": (behaviour.add_type_check, "loads"),
        "remove_debug_print": (behaviour.remove_debug_print, "loads"),
        "change_exception": (behaviour.change_exception, "loads"),
        "change_constant": (behaviour.change_constant, "differs"),
        **{name: (operator, "differs") for name, operator in behaviour.FIXES.items()},
    }
)
"""Every operator by name, with what it claims about behaviour."""

HELD_OUT_OPERATORS = frozenset(
    {"use_is_none", "add_cache", "inline_variable", "change_exception", "fix_boolop", "fix_range"}
)
"""Operators whose rows appear in the test split only: does the skill reach beyond those seen?"""

# What an edit may mention that the function's own prelude doesn't bring.
_SUPPORT = (
    "import functools\nimport logging\nimport warnings\nlogger = logging.getLogger('edited')\n\n"
)


@dataclass(frozen=True, slots=True)
class _Edit:
    subject: Subject
    op: str
    claim: Claim
    change: Change


def commit_rows(
    subjects: Sequence[Subject],
    sandbox: SandboxPool,
    *,
    per_unit: int,
    seed: int,
    progress: Progress,
) -> Iterator[Row]:
    """Up to `per_unit` edits of every function whose diff is short, each by another operator."""
    groups: list[tuple[Subject, list[_Edit]]] = []
    for done, subject in enumerate(subjects, 1):
        progress("editing functions", done, len(subjects))
        if found := _edits(subject, per_unit, seed):
            groups.append((subject, found))
    tables = run_trials([_trial(subject, found) for subject, found in groups], sandbox)
    for done, ((_, found), table) in enumerate(zip(groups, tables, strict=True), 1):
        progress("checking edits", done, len(groups))
        if not table:
            continue
        for number, edit in enumerate(found):
            if _holds(edit.claim, table[2 * number], table[2 * number + 1]):
                row = _row(edit, number, seed)
                if row is not None:
                    yield row


def _edits(subject: Subject, per_unit: int, seed: int) -> list[_Edit]:
    rng = seeded(seed, "edits", subject.unit)
    found: list[_Edit] = []
    for place in rng.permutation(len(OPERATORS)).tolist():
        op = list(OPERATORS)[place]
        operator, claim = OPERATORS[op]
        change = operator(Material(subject.slice, subject.calls, rng))
        if change is not None and len(unified(subject, change)) <= MAX_DIFF and _parses(change):
            found.append(_Edit(subject, op, claim, change))
        if len(found) == per_unit:
            break
    return found


def _parses(change: Change) -> bool:
    try:
        trees = [ast.dump(parse(source)) for source in (change.before, change.after)]
    except (SyntaxError, ValueError):
        return False
    return trees[0] != trees[1]


def _trial(subject: Subject, found: Sequence[_Edit]) -> Trial:
    """Both versions of every edit, in one job."""
    sources = [
        _runnable(subject, source)
        for edit in found
        for source in (edit.change.before, edit.change.after)
    ]
    texts = tuple(call.input for call in subject.calls[:_CALLS])
    return Trial(tuple(sources), subject.slice.name, texts)


def _runnable(subject: Subject, source: str) -> str:
    """The version with what it needs; a renamed function keeps its old name as an alias."""
    names = [n.name for n in parse(source).body if isinstance(n, ast.FunctionDef)]
    alias = f"\n{subject.slice.name} = {names[-1]}\n" if names[-1] != subject.slice.name else "\n"
    return "\n".join([_SUPPORT, subject.slice.prelude, source, alias])


def _holds(claim: Claim, before: Sequence[Observation], after: Sequence[Observation]) -> bool:
    if not before or not after:
        return False
    same = [seen.same_as for seen in before] == [seen.same_as for seen in after]
    return claim == "loads" or same == (claim == "same")


def unified(subject: Subject, change: Change) -> str:
    """The change as `git diff` writes it, at the function's place in its file."""
    before, after = (source.splitlines() for source in (change.before, change.after))
    lines = list(difflib.unified_diff(before, after, n=_CONTEXT, lineterm=""))[2:]
    shown = [_placed(line, subject, before) if line.startswith("@@") else line for line in lines]
    path = subject.shown
    head = [f"diff --git a/{path} b/{path}", f"--- a/{path}", f"+++ b/{path}"]
    return "\n".join([*head, *shown]) + "\n"


def _placed(header: str, subject: Subject, before: Sequence[str]) -> str:
    """A hunk header with lines counted from the top of the file, and the function's `def` line
    where the hunk starts below it, as git shows it."""
    ranges = []
    for part in header.split()[1:3]:
        start, _, count = part[1:].partition(",")
        ranges.append(f"{part[0]}{int(start) + subject.slice.line - 1},{count or 1}")
    first = int(header.split()[1][1:].partition(",")[0])
    above = [line for line in before[: first - 1] if line.startswith("def ")]
    return f"@@ {' '.join(ranges)} @@{f' {above[-1][:80]}' if above else ''}"


def _row(edit: _Edit, number: int, seed: int) -> Row | None:
    subject = edit.subject
    rng = seeded(seed, "phrasing", subject.unit, edit.op)
    templates = PHRASINGS[edit.op]
    # The plainest phrasing is the commonest, as among people.
    chosen = min(int(rng.integers(len(templates))), int(rng.integers(len(templates))))
    words = {**edit.change.slots, "function": subject.slice.name}
    subject_line = templates[chosen].format(**words)
    if len(subject_line.split()) > MAX_WORDS or len(subject_line) > MAX_SUBJECT:
        return None
    identity = f"{subject.unit}#{edit.op}{number}"
    fields: dict[str, Any] = {
        "id": f"mine/{identity}",
        "source": f"mine:{subject.package}",
        "repo": subject.package,
        "diff": unified(subject, edit.change),
        "subject": subject_line,
        "body": "",
        "message": subject_line,
        "op": edit.op,
        "phrasing": chosen,
    }
    fields["difficulty"] = estimate("commit_message", fields)
    return Row(fields, f"mine:{identity}", subject.unit)
