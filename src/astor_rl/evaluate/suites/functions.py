"""HumanEval (Chen et al. 2021, arXiv 2107.03374) and MBPP (Austin et al. 2021, arXiv 2108.07732).

A solution is right when every test of its row passes; `pass@k` is the unbiased estimate over the
samples. Tests are judged as in training (`CodeGenerationTask`): what they expect never enters the
process that runs the solution.

HumanEval's harness runs prompt + completion. A chat model rather answers with the whole function in
a fence, so both are read: code that defines the function is taken as it is; other code continues
the prompt, up to the first of the harness's stop sequences.

MBPP's published prompt shows the row's tests and three solved examples. Here the tests are shown
(those of at most 400 characters) and no examples: a chat model is asked, not shown. The test split
is the rows with ids 11 to 510.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from astor_rl.data.rows import Row
from astor_rl.errors import DataError
from astor_rl.evaluate.suites.base import Answer, Graded, Question, Report, SingleTry
from astor_rl.evaluate.suites.statistics import pass_metrics
from astor_rl.sandbox.api import SandboxPool
from astor_rl.tasks.code_generation import CodeGenerationTask
from astor_rl.tasks.parsing import defined_names, fenced, fences, parse_python
from astor_rl.tasks.validation import rollout_of
from astor_rl.types import Invalid, Score

_STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\n```")
_MBPP_TEST = range(11, 511)


class FunctionSuite(SingleTry):
    """Rows of which each asks for one function.

    Args:
        name: of the suite.
        rows: in `CodeGenerationTask`'s form, tier `function`.
        sandbox: where solutions run.
        shown_tests: how many tests a prompt shows.

    Raises:
        DataError: a row lacks a field or holds something else.
    """

    def __init__(
        self, name: str, rows: Sequence[Row], sandbox: SandboxPool, *, shown_tests: int
    ) -> None:
        self.name = name
        self.max_tokens = 1024
        self._task = CodeGenerationTask(sandbox, shown_tests=shown_tests)
        examples = [
            self._task.example(row.fields, origin=row.origin, unit=row.unit) for row in rows
        ]
        self.questions = [
            Question(example, tuple(self._task.prompt(example))) for example in examples
        ]

    async def judge(self, answers: Sequence[Answer]) -> list[Score | Invalid]:
        """The task's verdicts on the answers as whole functions."""
        return await self._task.score(
            [
                (a.question.example, rollout_of(whole_function(a.question.example.fields, a.text)))
                for a in answers
            ]
        )

    def report(self, graded: Sequence[Graded]) -> Report:
        """`pass@k`, unbiased over the samples."""
        return Report(pass_metrics([one.outcomes() for one in graded]))


def whole_function(row: Mapping[str, Any], text: str) -> str:
    """An answer whose code only continues the row's prompt, as one that holds it all.

    Args:
        row: with `prompt` and `entry_point`.
        text: the completion. It comes back as it is if its code defines the entry point, or if
            nothing in it makes a function of the prompt.
    """
    entry: str = row["entry_point"]
    blocks = [block.code for block in fences(text) if block.is_python]
    blocks = blocks or ([] if "```" in text else [text])
    if any(_defines(block, entry) for block in blocks):
        return text
    for block in reversed(blocks):
        cut = min((at for stop in _STOPS if (at := block.find(stop)) >= 0), default=len(block))
        whole = row["prompt"] + block[:cut]
        if _defines(whole, entry) and not _is_empty(whole, entry):
            return fenced(whole)
    return text


def _defines(code: str, entry: str) -> bool:
    module = parse_python(code)
    return module is not None and entry in defined_names(module)


def _is_empty(code: str, entry: str) -> bool:
    """Whether the function is its docstring and nothing else: the prompt alone, not an answer."""
    module = parse_python(code)
    found = [
        node
        for node in (module.body if module else ())
        if isinstance(node, ast.FunctionDef) and node.name == entry
    ]
    return bool(found) and len(found[-1].body) == 1 and ast.get_docstring(found[-1]) is not None


def humaneval_rows(rows: Sequence[Row]) -> list[Row]:
    """HumanEval's rows, as published or as `CodeGenerationTask` has them, in the latter form.

    Raises:
        DataError: a row is neither.
    """
    return [_row(row, {"reference": "canonical_solution", "tests": "test"}) for row in rows]


def mbpp_rows(rows: Sequence[Row]) -> list[Row]:
    """The test split of MBPP's rows, in `CodeGenerationTask`'s form.

    Takes the published files (`text` or `prompt`, `code`, `test_list`, `test_setup_code` or
    `test_imports`, `task_id`) and the task's own form. Names of functions are read off the tests,
    as in the published prompt nothing else tells them.

    Raises:
        DataError: a row is neither.
    """
    names = {"prompt": "text", "reference": "code", "tests": "test_list"}
    found = []
    for row in rows:
        number = row.fields.get("task_id")
        if isinstance(number, int) and number not in _MBPP_TEST:
            continue
        read = _row(row, names)
        fields = dict(read.fields)
        fields["signature"] = ""
        imports = fields.get("test_imports") or []
        if not isinstance(imports, list) or not all(isinstance(line, str) for line in imports):
            raise DataError(f"{row.origin}: field 'test_imports' must be a list of texts")
        fields["setup"] = fields.get("setup") or fields.get("test_setup_code") or "\n".join(imports)
        fields["entry_point"] = fields.get("entry_point") or _tested(fields, row.origin)
        found.append(replace(read, fields=fields))
    return found


def _row(row: Row, names: Mapping[str, str]) -> Row:
    fields = dict(row.fields)
    for name, published in names.items():
        if fields.get(name) is None and published in fields:
            fields[name] = fields[published]
    if isinstance(fields.get("tests"), str):
        fields["tests"] = [fields["tests"]]
    fields.setdefault("id", str(fields.get("task_id", row.unit)))
    return replace(row, fields=fields)


def _tested(fields: Mapping[str, Any], origin: str) -> str:
    """The function of the reference that the first test calls."""
    module = parse_python(str(fields.get("reference", "")))
    test = parse_python("\n".join(map(str, fields.get("tests", [])[:1])))
    defined = defined_names(module) if module else frozenset()
    for node in ast.walk(test) if test else ():
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in defined:
                return name
            case _:
                pass
    raise DataError(f"{origin}: no function of field 'code' is called in the first test")
