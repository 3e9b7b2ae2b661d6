"""Choosing calls to show and to test by, and writing them as docstrings and asserts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np

from astor_rl.code.doctests import summary
from astor_rl.code.slicing import FunctionSlice
from astor_rl.data.mining.functions import Call, Subject

MAX_CALL = 70


def short_calls(subject: Subject, *, max_chars: int = MAX_CALL) -> list[Call]:
    """Calls short enough to stand on one line of a prompt; none whose output is its input."""
    return [
        call
        for call in subject.calls
        if len(call.input) + len(call.output) <= max_chars and "\\" not in call.output
    ]


def pick(calls: Sequence[Call], count: int, rng: np.random.Generator) -> list[Call]:
    """`count` calls (or all there are), shorter ones likelier, different outputs first."""
    noise = rng.random(len(calls))
    weighed = [
        (len(c.input) + len(c.output) + 40 * x, place)
        for place, (c, x) in enumerate(zip(calls, noise, strict=True))
    ]
    ordered = [calls[place] for _, place in sorted(weighed)]
    first: dict[str, Call] = {}
    for call in ordered:
        first.setdefault(call.output, call)
    rest = [call for call in ordered if first[call.output] is not call]
    return [*first.values(), *rest][:count]


def expression(name: str, call: Call) -> str:
    """The call as source."""
    return f"{name}({call.input})"


def asserts(name: str, calls: Sequence[Call]) -> list[str]:
    """One assert statement a call."""
    return [f"assert {expression(name, call)} == {call.output}" for call in calls]


def description(part: FunctionSlice) -> str:
    """The docstring's first sentence, else what the name says."""
    found = summary(part.docstring)
    if len(found.split()) >= 3 and '"""' not in found and "\\" not in found:
        return found
    words = part.name.strip("_").replace("_", " ")
    return f"Implement `{words}`."


def documented(part: FunctionSlice, calls: Sequence[Call], *, note: str) -> tuple[str, str]:
    """(head, body): the `def` line with a docstring that shows the calls, and the statements."""
    lines = part.function.splitlines()
    start = part.head_lines
    shown = [line for call in calls for line in (f">>> {expression(part.name, call)}", call.output)]
    docstring = "\n".join([f'"""{note}', "", *shown, '"""'])
    head = "\n".join([*lines[:start], textwrap.indent(docstring, "    ")])
    return head, "\n".join(lines[start:])
