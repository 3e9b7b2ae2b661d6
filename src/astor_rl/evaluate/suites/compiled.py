"""Exercises whose language has a toolchain: the prompt, the answer's files, and the verdict."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from astor_rl.data.rows import Row
from astor_rl.errors import DataError
from astor_rl.evaluate.suites.base import Answer, Question, failure
from astor_rl.evaluate.suites.container import Container, Ran, scratch_folder
from astor_rl.evaluate.suites.toolchains import Files, Toolchain
from astor_rl.tasks.example_key import content_key
from astor_rl.tasks.guard import guarded_async
from astor_rl.tasks.parsing import Fence, fenced, fences
from astor_rl.tasks.validation import require
from astor_rl.types import Example, Invalid, Score

TIMEOUT_S = 180.0
"""Aider's deadline of one build and test, wall-clock seconds."""

_SHOWN_LINES = 50
"""Lines of the tests' output that the second try is shown, as with Aider."""


class Compiled:
    """Exercises of one language.

    What a pass is, the reference tells: as many tests as it passes. If it fails here (it may use a
    crate that isn't there), tests are counted in their source, provided that they can be reached at
    all with the untouched stub; else the exercise says nothing of the model, and answers are
    invalid.

    Args:
        language: as in the rows.
        toolchain: how to build and test.
        container: where.
        timeout_s: deadline of one build and test.
    """

    def __init__(
        self,
        language: str,
        toolchain: Toolchain,
        container: Container,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._language = language
        self._toolchain = toolchain
        self._container = container
        self._timeout_s = timeout_s
        self._wanted: dict[str, int | str] = {}
        self._told: dict[tuple[str, str], str] = {}

    def question(self, row: Row) -> Question:
        """A row as a question.

        Raises:
            DataError: a field is missing or of the wrong type.
        """
        fields: dict[str, Any] = {
            "language": self._language,
            "slug": require(row.fields, "slug", str, row.origin),
            "prompt": require(row.fields, "prompt", str, row.origin),
        }
        if fields["slug"] in ("", "..") or PurePosixPath(fields["slug"]).name != fields["slug"]:
            raise DataError(f"{row.origin}: field 'slug' is {fields['slug']!r}; it names a folder")
        for name in ("files", "reference", "support_files"):
            fields[name] = _texts(row, name)
        fields["tests"] = _tests(row)
        if not fields["files"]:
            raise DataError(f"{row.origin}: field 'files' is empty; it must name what to write")
        example = Example(content_key("exercise", fields), fields, row.origin, row.unit)
        return Question(example, ({"role": "user", "content": _prompt(fields)},))

    async def judge(self, answers: Sequence[Answer]) -> list[Score | Invalid]:
        """A verdict for each answer; equal answers to a question run once."""
        distinct = {(a.question.example.key, a.text): a for a in answers}
        # A build uses all cores by itself; as many at a time as there are cores is enough.
        turns = asyncio.Semaphore(os.cpu_count() or 1)
        examples = {a.question.example.key: a.question.example for a in answers}
        # Each reference once, before all answers to its question ask for it at the same time. What
        # raises here raises again for each answer, and is judged there.
        await asyncio.gather(
            *(guarded_async(self._language, self._learn(e, turns)) for e in examples.values())
        )
        verdicts = await asyncio.gather(
            *(guarded_async(self._language, self._judge(a, turns)) for a in distinct.values())
        )
        found = dict(zip(distinct, verdicts, strict=True))
        return [found[a.question.example.key, a.text] for a in answers]

    async def follow_up(self, answer: Answer) -> str | None:
        """The tests' output, cut as Aider cuts it."""
        told = self._told.get((answer.question.example.key, answer.text))
        if told is None:
            return None
        names = ", ".join(f"`{name}`" for name in answer.question.example.fields["files"])
        return (
            f"The tests fail:\n{told}\n\nThe tests are right. Correct {names}: answer with each "
            "file that changes, whole, its name on a line of its own before its block."
        )

    async def _judge(self, answer: Answer, turns: asyncio.Semaphore) -> Score | Invalid:
        row = answer.question.example.fields
        key = answer.question.example.key
        wanted = await self._learn(answer.question.example, turns)
        if isinstance(wanted, str):
            return Invalid(f"{answer.question.example.origin}: {wanted}")
        files = answered_files(row["files"], answer.text)
        if not files:
            self._told[key, answer.text] = "no file was found in the answer"
            return failure("no code")
        ran = await self._run(row, {**row["files"], **files}, turns)
        fault = self._fault(ran, wanted)
        if not fault:
            return Score(1.0, 1.0, {}, "right")
        self._told[key, answer.text] = "\n".join(ran.output.splitlines()[:_SHOWN_LINES]) or fault
        return failure(fault)

    async def _learn(self, example: Example, turns: asyncio.Semaphore) -> int | str:
        if example.key not in self._wanted:
            self._wanted[example.key] = await self._tests_wanted(example.fields, turns)
        return self._wanted[example.key]

    async def _tests_wanted(self, row: Mapping[str, Any], turns: asyncio.Semaphore) -> int | str:
        """How many tests a right answer passes, or why none can be told from a wrong one."""
        tool = self._toolchain
        gold = await self._run(row, self._gold(row), turns)
        if gold.code == 0:
            return tool.passed(gold.output) or "its tests report no result"
        stub = await self._run(row, row["files"], turns)
        if not tool.started(stub.output):
            return f"the reference fails here: {self._fault(gold, 1)}"
        tests = tool.prepare(dict(row["tests"])).values()
        return max(1, sum(map(tool.tests, tests)))

    async def _run(
        self, row: Mapping[str, Any], files: Mapping[str, str], turns: asyncio.Semaphore
    ) -> Ran:
        async with turns:
            return await asyncio.to_thread(self._build, row, files)

    def _build(self, row: Mapping[str, Any], files: Mapping[str, str]) -> Ran:
        tool = self._toolchain
        with scratch_folder("astor-exercise-") as root:
            folder = root / row["slug"]
            # Tests last: an answer can't replace them.
            for name, text in tool.prepare(
                {**row["support_files"], **files, **row["tests"]}
            ).items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", errors="replace")
            for name, target in tool.links.items():
                link = folder / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target)
            return self._container.run(
                tool.command,
                folder=folder,
                readable=tool.readable,
                environment=tool.environment,
                timeout_s=self._timeout_s,
            )

    def _fault(self, ran: Ran, wanted: int) -> str:
        """Why the tests haven't passed, empty if they have."""
        if ran.code is None:
            return f"timeout after {self._timeout_s:g} s"
        if ran.code:
            last = [line for line in ran.output.splitlines() if line.strip()][-1:]
            return f"exit code {ran.code}: {' '.join(last)[:150]}"
        passed = self._toolchain.passed(ran.output)
        return "" if passed >= wanted else f"{passed} tests were reported as passed of {wanted}"

    def _gold(self, row: Mapping[str, Any]) -> Files:
        """The reference's files under the names of those to write."""
        files: Files = dict(row["files"])
        for path, text in row["reference"].items():
            files[_place(path, files)] = text
        return files


def _place(path: str, files: Mapping[str, str]) -> str:
    """Where a file of the reference belongs: Exercism keeps it below `.meta` by another name."""
    name, suffix = PurePosixPath(path).name, PurePosixPath(path).suffix
    if ".meta/src/reference/java/" in path:
        return f"src/main/java/{name}"
    return next((one for one in files if one.endswith(suffix)), name)


def answered_files(files: Mapping[str, str], text: str) -> Files:
    """The files that an answer gives, of those that were asked for.

    A block belongs to the file that the line before it names, or else, if it is the only block, to
    the first file of the task.
    """
    blocks = list(fences(text))
    found: Files = {}
    for block in blocks:
        if name := _named(block, files):
            found[name] = block.code
    if not found and blocks:
        found[next(iter(files))] = blocks[-1].code if len(blocks) == 1 else ""
    return {name: code for name, code in found.items() if code.strip()}


def _named(block: Fence, files: Mapping[str, str]) -> str:
    words = block.before.replace("`", " ").replace("*", " ").replace(":", " ").split()
    for name in files:
        if name in words or PurePosixPath(name).name in words:
            return name
    return ""


def _prompt(row: Mapping[str, Any]) -> str:
    stubs = "\n\n".join(
        f"{name}\n{fenced(text, row['language'])}" for name, text in row["files"].items()
    )
    return (
        f"{row['prompt'].strip()}\n\n"
        f"Write these files, which begin as:\n\n{stubs}\n\n"
        "Keep the names of what they define: tests use them. Use the standard library only. "
        "Answer with each file that changes, whole, in a fenced block, its name on a line of its "
        "own before the block."
    )


def _texts(row: Row, name: str) -> Files:
    values = row.fields.get(name) or {}
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise DataError(f"{row.origin}: field {name!r} must map file names to texts")
    for path in values:
        _check_path(path, row.origin)
    return dict(values)


def _tests(row: Row) -> Files:
    found = {}
    for test in require(row.fields, "tests", list, row.origin):
        if not isinstance(test, dict) or not all(
            isinstance(test.get(name), str) for name in ("path", "content")
        ):
            raise DataError(f"{row.origin}: field 'tests' must hold {{path, content}}")
        _check_path(test["path"], row.origin)
        found[test["path"]] = test["content"]
    return found


def _check_path(path: str, origin: str) -> None:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise DataError(f"{origin}: file name {path!r} leads out of the exercise's folder")
