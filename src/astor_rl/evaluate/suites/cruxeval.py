"""CRUXEval (Gu et al. 2024, arXiv 2401.03065): what does `f` return, or what was it called with?

The rules are its harness's. The model completes an assertion between [ANSWER] and [/ANSWER]; the
side of its `==` that was asked for is taken, and right means that Python's `assert output == side`
holds. Answers may be expressions.

What differs: the prompt's words and examples are this project's own. Values are compared outside
the process that computed them. An output is evaluated where there is no `f` to call. An input must
be a call of `f` and nothing else (`f(1) or "banana"` passes in the published harness), whose
arguments can't reach what `f` uses: constants, displays, lambdas, comprehensions, pure builtins and
methods of builtin types. A `==` inside a literal doesn't confuse the reading.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
from collections.abc import Sequence
from typing import Literal

from astor_rl.data.rows import Row
from astor_rl.evaluate.suites.base import Answer, Graded, Question, Report, SingleTry, failure
from astor_rl.evaluate.suites.statistics import pass_metrics
from astor_rl.sandbox.api import CallJob, CallResult, Limits, Outcome, SandboxPool
from astor_rl.tasks.guard import guarded_async
from astor_rl.tasks.io_prediction import IOPredictionTask
from astor_rl.tasks.literals import (
    MAX_CHARS,
    LiteralError,
    loosely_equal,
    parse_argument_list,
    parse_literal,
    shown,
)
from astor_rl.tasks.parsing import parse_quietly
from astor_rl.types import Example, Invalid, Message, Score

Side = Literal["input", "output"]

_LIMITS = Limits(cpu_s=3.0, wall_s=12.0)
"""The harness's 3 s, of CPU time."""

_PROMPTS: dict[Side, str] = {
    "output": """\
Below is a Python function and an assertion with a call of it. Replace the ?? by the value that \
the call returns, even if the function looks wrong or unfinished. Write that value as a literal, \
without calling anything. Give the whole assertion between [ANSWER] and [/ANSWER], as in the \
examples, and nothing else.

[PYTHON]
def f(items):
    return items[::-1]
assert f([1, 2, 3]) == ??
[/PYTHON]
[ANSWER]
assert f([1, 2, 3]) == [3, 2, 1]
[/ANSWER]

[PYTHON]
def f(word, times):
    return word.upper() * times
assert f("ab", 2) == ??
[/PYTHON]
[ANSWER]
assert f("ab", 2) == "ABAB"
[/ANSWER]

[PYTHON]
{code}
assert f({input}) == ??
[/PYTHON]
[ANSWER]
""",
    "input": """\
Below is a Python function and an assertion about what a call of it returns. Replace the ?? by \
arguments that make the assertion true; if several would, give one. Give the whole assertion \
between [ANSWER] and [/ANSWER], as in the examples, and nothing else.

[PYTHON]
def f(items):
    return max(items) - min(items)
assert f(??) == 4
[/PYTHON]
[ANSWER]
assert f([3, 1, 5]) == 4
[/ANSWER]

[PYTHON]
def f(first, second):
    return first.strip() + second
assert f(??) == "tea!"
[/PYTHON]
[ANSWER]
assert f(" tea ", "!") == "tea!"
[/ANSWER]

[PYTHON]
{code}
assert f(??) == {output}
[/PYTHON]
[ANSWER]
""",
}


class CruxEvalSuite(SingleTry):
    """One direction of CRUXEval.

    Args:
        side: what is asked for.
        rows: `code`, `input`, `output`, as published.
        sandbox: where answers and functions run.

    Raises:
        DataError: a row lacks a field or holds something else.
    """

    stop = ("[/ANSWER]",)

    def __init__(self, side: Side, rows: Sequence[Row], sandbox: SandboxPool) -> None:
        self.name = f"cruxeval-{side}"
        self.max_tokens = 256
        self._side: Side = side
        self._sandbox = sandbox
        task = IOPredictionTask(direction=side)
        examples = [task.example(row.fields, origin=row.origin, unit=row.unit) for row in rows]
        self.questions = [Question(example, self._ask(example)) for example in examples]

    def _ask(self, example: Example) -> tuple[Message, ...]:
        row = example.fields
        text = _PROMPTS[self._side].format(
            code=row["code"], input=row["input"], output=row["output"]
        )
        return ({"role": "user", "content": text},)

    async def judge(self, answers: Sequence[Answer]) -> list[Score | Invalid]:
        """Right or wrong, by the module's docstring; equal answers to a question run once."""
        distinct = {(a.question.example.key, a.text): a for a in answers}
        verdicts = await asyncio.gather(
            *(guarded_async(self.name, self._judge(answer)) for answer in distinct.values())
        )
        found = dict(zip(distinct, verdicts, strict=True))
        return [found[a.question.example.key, a.text] for a in answers]

    def report(self, graded: Sequence[Graded]) -> Report:
        """`pass@k`, unbiased over the samples."""
        return Report(pass_metrics([one.outcomes() for one in graded]))

    async def _judge(self, answer: Answer) -> Score | Invalid:
        example = answer.question.example
        try:
            side = read_side(answer.text, self._side)
            if self._side == "output":
                job = _output_job(side)
            else:
                job = CallJob(example.fields["code"], (_call(side, example),), limits=_LIMITS)
        except LiteralError as error:
            return failure(f"answer {error}")
        except (ValueError, RecursionError, MemoryError) as error:
            # `ast.unparse` of thousands of digits or signs. The answer did that, so it has failed:
            # one that counted nowhere would be a way out of hard questions.
            return failure(f"answer can't be read ({type(error).__name__})")
        outcome = _value_of(side) if job is None else await self._sandbox.submit(job)
        return _compared(outcome, example)


def read_side(text: str, side: Side) -> str:
    """The asked side of the assertion that a completion gives.

    Args:
        text: the completion, with its [/ANSWER] or cut before it.
        side: `output`: the right side, `input`: the left one.
    """
    if "[ANSWER]" in text:
        text = text.split("[ANSWER]")[1]
    text = text.split("[/ANSWER]")[0].strip()
    match _statement(text):
        case ast.Assert(test=ast.Compare(left=left, ops=[ast.Eq()], comparators=[right])):
            return ast.unparse(right if side == "output" else left)
        case _:
            pass
    if side == "output":
        return text.split("==")[1].strip() if "==" in text else text
    text = text.split("==")[0].strip()
    return text.split("assert")[1].strip() if "assert" in text else text


def _statement(text: str) -> ast.stmt | None:
    if len(text) > MAX_CHARS:
        return None
    try:
        module = parse_quietly(text)
    except SyntaxError:
        return None
    return module.body[0] if len(module.body) == 1 else None


def _output_job(expression: str) -> CallJob | None:
    """How to evaluate an output: None for a literal, whose value is known without running it."""
    try:
        parse_literal(expression)
    except LiteralError:
        pass
    else:
        return None
    if len(expression) > MAX_CHARS:
        raise LiteralError(f"longer than {MAX_CHARS} characters")
    # Neither the function nor its output is there: a value can only be computed from the answer.
    return CallJob("", (f"({expression}\n)",), limits=_LIMITS)


def _value_of(literal: str) -> Outcome:
    return Outcome("ok", (CallResult("value", parse_literal(literal)),))


def _call(expression: str, example: Example) -> str:
    """The call that an input answer makes, checked.

    Raises:
        LiteralError: it is no call of `f`, or an argument could reach more than its own value.
    """
    statement = _statement(expression)
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Name(id=name)) as call) if (
            name == example.fields["entry_point"]
        ):
            pass
        case _:
            raise LiteralError("isn't a call of the function")
    own = parse_argument_list(example.fields["input"])
    if _arguments(call) != _arguments(own):
        for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
            _check_reach(argument, name)
    return ast.unparse(call)


def _arguments(call: ast.Call) -> str:
    return ast.unparse(ast.Call(ast.Name("_", ast.Load()), call.args, call.keywords))


_BUILTIN_TYPES = (str, bytes, int, float, complex, bool, list, tuple, set, frozenset, dict, range)
_METHODS = frozenset(
    name for kind in _BUILTIN_TYPES for name in dir(kind) if not name.startswith("_")
)
_PURE = (
    *(abs, all, any, ascii, bin, chr, divmod, enumerate, filter, format, hash, hex, len, map),
    *(max, min, oct, ord, pow, repr, reversed, round, slice, sorted, sum, zip),
)
_FUNCTIONS = {function.__name__ for function in (*_BUILTIN_TYPES, *_PURE)}
_OTHER_BUILTINS = vars(builtins).keys() - _FUNCTIONS


def _check_reach(argument: ast.expr, entry_point: str) -> None:
    """Refuse what could change the function or what it uses, instead of being an input.

    Raises:
        LiteralError: names what it is.
    """
    nodes = list(ast.walk(argument))
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    # A parameter called `globals` would let the builtin through elsewhere.
    known = (bound - _OTHER_BUILTINS) | _FUNCTIONS | {entry_point}
    for node in nodes:
        match node:
            case ast.NamedExpr() | ast.Await() | ast.Yield() | ast.YieldFrom():
                raise LiteralError(f"has a {type(node).__name__} in an argument")
            case ast.Name(id=name) if name not in known:
                raise LiteralError(f"uses {name!r} in an argument")
            case ast.Attribute(attr=name) if name not in _METHODS:
                raise LiteralError(f"uses .{name} in an argument")
            case _:
                pass


def _compared(outcome: Outcome, example: Example) -> Score | Invalid:
    if outcome.status == "infra_error":
        return Invalid(outcome.message or "the sandbox failed")
    if outcome.status != "ok":
        return failure(f"{outcome.status}: {outcome.message}")
    (result,) = outcome.calls
    if result.kind != "value":
        return failure(f"{result.kind} {result.error}: {result.message}")
    if loosely_equal(result.value, parse_literal(example.fields["output"])):
        return Score(1.0, 1.0, {}, "right")
    return failure(f"gives {shown(result.value, 60)}")
