"""I/O prediction rows: a function, its arguments, and what it returned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from astor_rl.data.difficulty import estimate
from astor_rl.data.mining.functions import Call, Subject, seeded
from astor_rl.data.rows import Row

MAX_CODE = 600
MAX_LINES = 18
MAX_INPUT = 40
MAX_OUTPUT = 30


def io_rows(subjects: Sequence[Subject], *, per_unit: int, seed: int) -> Iterator[Row]:
    """Up to `per_unit` input and output pairs of every short function.

    Short pairs come first; one output makes up at most half of a function's rows, so that a
    constant answer is never enough.
    """
    for subject in subjects:
        code = subject.slice.code
        if len(code) > MAX_CODE or code.count("\n") >= MAX_LINES:
            continue
        for number, call in enumerate(_chosen(subject, per_unit, seed)):
            fields: dict[str, Any] = {
                "id": f"mine/{subject.unit}#{number}",
                "source": f"mine:{subject.package}",
                "entry_point": subject.slice.name,
                "code": code,
                "input": call.input,
                "output": call.output,
            }
            fields["difficulty"] = estimate("io_prediction", fields)
            yield Row(fields, f"mine:{subject.unit}#{number}", subject.unit)


def _chosen(subject: Subject, count: int, seed: int) -> list[Call]:
    fitting = [
        call
        for call in subject.calls
        if len(call.input) <= MAX_INPUT
        and len(call.output) <= MAX_OUTPUT
        and call.input
        and "b'" not in call.output
        and '"\\' not in call.output
    ]
    noise = seeded(seed, "io", subject.unit).random(len(fitting))
    sized = [
        (len(c.input) + len(c.output) + 20 * x, c) for c, x in zip(fitting, noise, strict=True)
    ]
    ordered = [call for _, call in sorted(sized, key=lambda pair: (pair[0], pair[1].input))]
    distinct = len({call.output for call in ordered})
    seen: Counter[str] = Counter()
    chosen = []
    for call in ordered:
        if seen[call.output] < max(1, count // max(2, distinct)):
            seen[call.output] += 1
            chosen.append(call)
    return chosen[:count] if distinct > 1 else []
