"""Code I/O prediction: what does this call return, or what must it be called with?

The skill CRUXEval measures (arXiv 2401.03065). A row holds a function, the text of a call's
arguments and the literal it returns; the *output* direction asks for the literal, the *input*
direction for any arguments that give it.
"""

from __future__ import annotations

import ast
import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal, Self

from astor_rl.errors import ConfigError, DataError, SandboxError
from astor_rl.sandbox.api import CallJob, Outcome, SandboxPool
from astor_rl.tasks import validation
from astor_rl.tasks.base import Pair, ValidationReport
from astor_rl.tasks.example_key import content_key
from astor_rl.tasks.guard import guarded, guarded_async
from astor_rl.tasks.literals import (
    LiteralError,
    parse_argument_list,
    parse_arguments,
    parse_literal,
    shown,
    strictly_equal,
)
from astor_rl.tasks.parsing import defined_names, parse_python, tagged
from astor_rl.types import Example, Invalid, Message, Score

Direction = Literal["output", "input"]

_ASK: dict[str, str] = {
    "output": "What does this call return? Answer with the value as a Python literal",
    "input": "Find arguments that make this true. Answer with the arguments as Python literals",
}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What could be read of a completion: `text` or, when nothing could, `fault`."""

    text: str
    format: float
    fault: str = ""


class IOPredictionTask:
    """Predict a call's output, or find its input.

    Row: `code` (source that defines `entry_point`), `entry_point` (null or absent: `f`), `input`
    (argument text as in `[1, 2], k=3`, may be empty), `output` (a literal, `parse_literal`), and
    optionally `direction`. Other fields are ignored.

    Options:
        direction: `output`, `input`, or `both` (default: each row gets one, its own `direction`
            field's or else one drawn from a hash of the row, so it never changes).
        reasoning: ask for reasoning before the answer, as large models do well with.
        timeout_s: CPU limit of one call, seconds (`validation.time_limits`).

    Answer form: `<answer>...</answer>`, nothing else (with `reasoning`: nothing after it). The
    format reward is 1 when the completion is that and what is inside can be read, else 0.

    Outcome: 1 or 0. What is judged is the inside of the only answer tag; a completion without any
    tag is judged as a whole, so a bare literal can still be right. Two answers, or one tag never
    closed, are refused.

    - Output: the literal equals the true value by `strictly_equal`: types count at every level,
      `nan` is `nan`, `0.0` isn't `-0.0`, set and dict order don't matter. Nothing is executed; an
      answer that calls the function is refused.
    - Input: arguments must be literals (or the row's own arguments, which may be expressions).
      The call is built here and run in the sandbox; the value that comes back is compared here.

    Verdict: unforgeable. The sandboxed process runs only the row's function on literals, and never
    holds the value that is asked for.
    """

    kind = "io_prediction"
    verdict = "unforgeable"

    def __init__(
        self,
        sandbox: SandboxPool | None = None,
        *,
        direction: str = "both",
        reasoning: bool = False,
        timeout_s: float = 4.0,
    ) -> None:
        validation.require_choice(self.kind, "direction", direction, ("output", "input", "both"))
        if not 0 < timeout_s <= 600:
            raise ConfigError(
                f"option 'timeout_s' of task {self.kind!r} is {timeout_s!r}; it must be in (0, 600]"
            )
        self._sandbox = sandbox
        self._direction = direction
        self._reasoning = reasoning
        self._limits = validation.time_limits(timeout_s)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], sandbox: SandboxPool | None) -> Self:
        """Build from `[tasks.options]`; see the class for the options.

        Raises:
            ConfigError: an unknown option or a bad value.
        """
        return cls(
            sandbox, **validation.read_options(cls.kind, config, validation.defaults_of(cls))
        )

    def example(self, row: Mapping[str, Any], *, origin: str, unit: str | None = None) -> Example:
        """Check a row; its unit is the function's name and source unless given.

        Raises:
            DataError: a field is missing, of the wrong type, or can't be read.
        """
        code = validation.require(row, "code", str, origin)
        entry = validation.optional(row, "entry_point", str, origin, "f")
        fields: dict[str, Any] = {
            "code": code,
            "entry_point": entry,
            "input": validation.require(row, "input", str, origin),
            "output": validation.require(row, "output", str, origin),
        }
        module = parse_python(code)
        if module is None:
            raise DataError(f"{origin}: field 'code' isn't Python; it must define {entry!r}")
        if entry not in defined_names(module):
            raise DataError(f"{origin}: field 'code' doesn't define the entry point {entry!r}")
        for name, read in (("input", parse_argument_list), ("output", parse_literal)):
            try:
                read(fields[name])
            except LiteralError as error:
                raise DataError(f"{origin}: field {name!r} {error}: {fields[name]!r:.80}") from None
        fields["direction"] = self._row_direction(row, fields, origin)
        unit = unit or content_key("function", {"code": code, "entry_point": entry})
        return Example(content_key(self.kind, fields), fields, origin, unit)

    def _row_direction(
        self, row: Mapping[str, Any], fields: Mapping[str, Any], origin: str
    ) -> Direction:
        if self._direction != "both":
            return "output" if self._direction == "output" else "input"
        wanted = validation.optional(row, "direction", str, origin, "")
        if wanted not in ("", "output", "input"):
            raise DataError(
                f"{origin}: field 'direction' is {wanted!r}; it must be output or input"
            )
        if wanted:
            return "output" if wanted == "output" else "input"
        return "output" if int(content_key(self.kind, fields)[-1], 16) % 2 == 0 else "input"

    def prompt(self, example: Example) -> list[Message]:
        """One user message: the function, and an assertion with `??` where the answer goes."""
        row = example.fields
        outputs = row["direction"] == "output"
        arguments = row["input"] if outputs else "??"
        value = "??" if outputs else row["output"]
        think = "Think step by step first. " if self._reasoning else ""
        end = "at the end in" if self._reasoning else "only, in"
        text = (
            f"{think}{_ASK[row['direction']]} {end} <answer></answer>.\n\n"
            f"```python\n{row['code'].strip()}\n\n"
            f"assert {row['entry_point']}({arguments}) == {value}\n```"
        )
        return [{"role": "user", "content": text}]

    def answer(self, example: Example) -> str:
        """The row's own output or arguments, in the tag."""
        return f"<answer>{example.fields[example.fields['direction']]}</answer>"

    def broken(self, example: Example) -> Mapping[str, str]:
        """Wrong answers in the right form; see `Task.broken`."""
        row = example.fields
        call = f"{row['entry_point']}({row['input']})"
        gold = self.answer(example)
        variants = {
            "empty": "",
            "calls the function": f"<answer>{call}</answer>",
            "two answers": f"{gold}\n{gold}",
            "hostile expression": "<answer>__import__('os')._exit(0)</answer>",
        }
        if row["direction"] == "output":
            value = parse_literal(row["output"])
            variants["other type"] = f"<answer>{_other_type(value)}</answer>"
            variants["other value"] = f"<answer>{_other_value(value)}</answer>"
        elif not _takes_any_arguments(row["code"], row["entry_point"]):
            variants["too many arguments"] = f"<answer>{', '.join(['0'] * 64)}</answer>"
        return variants

    def ceiling(self, example: Example) -> float:
        """1: every row has a right answer."""
        return 1.0

    async def score(self, pairs: Sequence[Pair]) -> list[Score | Invalid]:
        """Judge; equal arguments for one example run once.

        `metrics`: `output_accuracy` or `input_accuracy`, by the example's direction.

        Raises:
            SandboxError: an input-direction example and no sandbox.
        """
        results: dict[int, Score | Invalid] = {}
        waiting: dict[tuple[str, str], list[tuple[int, float]]] = {}
        examples: dict[str, Example] = {}
        for place, (example, rollout) in enumerate(pairs):
            read = guarded(self.kind, self._read_or_judge, example, rollout.text)
            if isinstance(read, _Answer):
                examples[example.key] = example
                waiting.setdefault((example.key, read.text), []).append((place, read.format))
            else:
                results[place] = read
        jobs = [
            guarded_async(self.kind, self._run(examples[key], arguments))
            for key, arguments in waiting
        ]
        outcomes = await asyncio.gather(*jobs)
        for (key, _), places, outcome in zip(waiting, waiting.values(), outcomes, strict=True):
            for place, form in places:
                results[place] = (
                    outcome
                    if isinstance(outcome, Invalid)
                    else guarded(self.kind, _judge_input, examples[key], form, outcome)
                )
        return [results[place] for place in range(len(pairs))]

    def _read_or_judge(self, example: Example, text: str) -> _Answer | Score:
        """The arguments to run, or the score of what needs no run."""
        read = self._read(example, text)
        if read.fault:
            return _scored(example, False, read.format, read.fault)
        return _judge_output(example, read) if example.fields["direction"] == "output" else read

    async def _run(self, example: Example, arguments: str) -> Outcome:
        if self._sandbox is None:
            raise SandboxError("task 'io_prediction' can't run code without a sandbox")
        row = example.fields
        call = f"{row['entry_point']}({arguments})"
        return await self._sandbox.submit(CallJob(row["code"], (call,), limits=self._limits))

    def _read(self, example: Example, text: str) -> _Answer:
        """The candidate answer of a completion, normalised, and its format reward."""
        found = tagged(text, "answer")
        markers = text.count("<answer>") + text.count("</answer>")
        if markers != 2 * len(found) or len(found) > 1:
            return _Answer("", 0.0, "several answers" if found else "answer tag isn't closed")
        inside = found[0] if found else text.strip()
        if not (found or inside):
            return _Answer("", 0.0, "no answer")
        try:
            if example.fields["direction"] == "output":
                parse_literal(inside)
                answer = inside
            else:
                answer = _arguments(example, inside)
        except LiteralError as error:
            return _Answer("", 0.0, f"answer {error}")
        return _Answer(answer, float(bool(found) and self._in_form(text)))

    def _in_form(self, text: str) -> bool:
        stripped = text.strip()
        return stripped.endswith("</answer>") and (
            self._reasoning or stripped.startswith("<answer>")
        )

    async def respond(self, example: Example, messages: Sequence[Message]) -> list[Message] | None:
        """None: one turn."""
        return None

    async def validate(self, examples: Sequence[Example]) -> ValidationReport:
        """See `tasks.validation.validate`; also runs the code of rows that ask for the output.

        Raises:
            SandboxError: there is no sandbox.
        """
        found = await validation.validate(self, examples)
        # An answer to them is compared with the row's own, which is right by definition.
        outputs = [example for example in examples if example.fields["direction"] == "output"]
        verdicts = await asyncio.gather(*map(self._judge_row, outputs))
        judged = [(e.origin, v) for e, v in zip(outputs, verdicts, strict=True)]
        low = [
            (origin, verdict.outcome, f"the row's input: {verdict.reason}")
            for origin, verdict in judged
            if isinstance(verdict, Score) and verdict.outcome < 1.0
        ]
        invalid = [
            (origin, verdict.reason) for origin, verdict in judged if isinstance(verdict, Invalid)
        ]
        return replace(
            found,
            gold_below_ceiling=(*found.gold_below_ceiling, *low),
            invalid=(*found.invalid, *invalid),
        )

    async def _judge_row(self, example: Example) -> Score | Invalid:
        """Whether the row's input gives its output."""
        outcome = await guarded_async(self.kind, self._run(example, example.fields["input"]))
        if isinstance(outcome, Invalid):
            return outcome
        return guarded(self.kind, _judge_input, example, 1.0, outcome)


def _arguments(example: Example, text: str) -> str:
    """Literal arguments, normalised. The row's own may be expressions: they are trusted."""
    own: str = example.fields["input"]
    try:
        return parse_arguments(text)
    except LiteralError:
        if _same_tree(parse_argument_list(text), parse_argument_list(own)):
            return own
        raise


def _same_tree(left: ast.AST, right: ast.AST) -> bool:
    """Whether two trees are equal; however deep one is, nothing here recurses."""
    # Breadth first, a tree is told by its nodes and how many children each has.
    return all(
        _node(one) == _node(other) for one, other in zip_longest(ast.walk(left), ast.walk(right))
    )


def _node(node: ast.AST | None) -> object:
    """A node without what is in its children."""
    return type(node), node and [(name, _part(part)) for name, part in ast.iter_fields(node)]


def _part(part: object) -> object:
    if isinstance(part, list):
        return [_part(inner) for inner in part]
    return ast.AST if isinstance(part, ast.AST) else (type(part), part)


def _scored(example: Example, right: bool, form: float, reason: str) -> Score:
    outcome = float(right)
    return Score(outcome, form, {f"{example.fields['direction']}_accuracy": outcome}, reason)


def _judge_output(example: Example, read: _Answer) -> Score:
    predicted, true = parse_literal(read.text), parse_literal(example.fields["output"])
    if strictly_equal(predicted, true):
        return _scored(example, True, read.format, "right")
    wrong = "value" if type(predicted) is type(true) else "type"
    return _scored(example, False, read.format, f"wrong {wrong}: {shown(predicted, 60)}")


def _judge_input(example: Example, form: float, outcome: Outcome) -> Score | Invalid:
    if outcome.status == "infra_error":
        return Invalid(outcome.message or "the sandbox failed")
    if outcome.status == "error":
        # The code is the row's, not the model's: nobody could have answered.
        return Invalid(f"{example.origin}: field 'code' can't be loaded: {outcome.message}")
    if outcome.status != "ok":
        return _scored(example, False, form, outcome.status)
    result = outcome.calls[0]
    if result.kind != "value":
        return _scored(example, False, form, f"{result.kind} {result.error}".strip())
    right = strictly_equal(result.value, parse_literal(example.fields["output"]))
    return _scored(example, right, form, "right" if right else f"gives {shown(result.value, 60)}")


def _other_type(value: Any) -> str:
    """A literal that looks like the value and is of another type."""
    match value:
        case bool():
            return str(int(value))
        case int():
            return f"{value}.0"
        case list():
            return repr(tuple(value))
        case tuple():
            return repr(list(value))
        case str():
            return repr([value])
        case _:
            return repr(repr(value))


def _other_value(value: Any) -> str:
    """A literal of the same type, where the type has another value."""
    match value:
        case bool():
            return repr(not value)
        case int() | float():
            return repr(value + 1) if math.isfinite(value) and value + 1 != value else "0.5"
        case str():
            return repr(f"{value}x")
        case bytes():
            return repr(value + b"x")
        case list():
            return repr([*value, 0])
        case tuple():
            return repr((*value, 0))
        case dict():
            return repr({**value, "another": 0})
        case set() | frozenset():
            return repr({*value, "another"})
        case _:
            return "'another'"


def _takes_any_arguments(code: str, entry: str) -> bool:
    """Whether the entry point has `*args`, or isn't a plain function."""
    module = parse_python(code)
    functions = [n for n in module.body if isinstance(n, ast.FunctionDef)] if module else []
    found = [f for f in functions if f.name == entry]
    return not found or found[-1].args.vararg is not None
