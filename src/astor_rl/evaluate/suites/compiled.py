"""Exercises whose language has a toolchain: the prompt, the answer's files, and the verdict."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from astor_rl.data.rows import Row
from astor_rl.errors import DataError
from astor_rl.evaluate.suites.base import Answer, Question, failure
from astor_rl.evaluate.suites.container import INSIDE, Container, Ran, scratch_folder
from astor_rl.evaluate.suites.toolchains import Files, Toolchain
from astor_rl.tasks.example_key import content_key
from astor_rl.tasks.guard import guarded_async
from astor_rl.tasks.parsing import Fence, after_thinking, fenced, fences
from astor_rl.tasks.validation import require
from astor_rl.types import Example, Invalid, Score

TIMEOUT_S = 180.0
"""Aider's deadline of one build and test, wall-clock seconds."""

BUILD_FILES = ("Cargo.toml", "CMakeLists.txt")
"""What Exercism counts among a solution's files and Aider doesn't let a model edit."""

_SHOWN_HEAD, _SHOWN_TAIL = 8_000, 4_000
"""Characters of the tests' output that the second try is shown, from its start and its end.

About 4,000 tokens: with two answers of the suite's 4,096 and the longest exercise's 4,000 or so
they fit the 16,384 that a talk may have. One that doesn't fit all the same is a failed second try.
"""
_TIMES = re.compile(
    r"\b(?:in|after) (?:\d+m )?\d+(?:\.\d+)? ?m?s\b|\(\d+(?:\.\d+)? ?m?s\)"
    r"|^Time: +[\d.]+ m?s.*$|\t\d+\.\d+s$",
    re.MULTILINE,
)
"""How long something took, as test runners and build tools say it."""
_LARGEST_OWN_CODE = 128
"""Exit codes above are the shell's word for a signal."""

_OPENING = re.compile(r" {0,3}(?:`{3,}([^`]*)|~{3,}(.*))$")
"""A line that opens a fenced block, with its info string; the same lines as `parsing.fences`."""
_SHELLS = {"bash", "console", "output", "powershell", "sh", "shell", "shell-session", "zsh"}
"""Languages of blocks that show commands or their output, and a file only if labelled as one."""
_MENTIONED = 3
"""How plainly a block is a file that the line before it mentions: less than by any label."""
_SOURCES = {"c", "cc", "cpp", "cxx", "go", "h", "hpp", "java", "js", "py", "rs", "ts"}
_DATA = {"json", "md", "mod", "toml", "txt", "xml", "yaml", "yml"}
"""Suffixes of words that are taken for a file's name though it wasn't asked for."""
_COMMENT = re.compile(r"\s*(?://|/\*|#)")
_WORD = re.compile(r"[\w./+-]+")
_LABELS = {"file", "filename", "path"}


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
        for name in BUILD_FILES:
            if name in fields["files"]:
                fields["support_files"][name] = fields["files"].pop(name)
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

    async def follow_up(self, answer: Answer) -> str | Invalid | None:
        """The tests' output, its middle left out when it is long."""
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
        self._told[key, answer.text] = bounded(self._shown(ran, fault))
        return failure(fault)

    def _shown(self, ran: Ran, fault: str) -> str:
        """What the tests printed, headed by what it doesn't say itself.

        Times differ from run to run; without them a resumed evaluation asks the same again.
        """
        output = _TIMES.sub("", self._toolchain.shown(ran.output)).strip()
        speaks = ran.code is not None and 0 < ran.code <= _LARGEST_OWN_CODE
        return output if speaks and output else f"{fault}\n\n{output}".strip()

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
            ran = self._container.run(
                tool.command,
                folder=folder,
                readable=tool.readable,
                environment=tool.environment,
                timeout_s=self._timeout_s,
            )
            output = ran.output
            for place in (folder, INSIDE / folder.name):
                output = output.replace(str(place), folder.name)
            return replace(ran, output=output)

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


def bounded(text: str) -> str:
    """A text that a model can be shown: its middle is left out when it is long.

    The runner's output may have lost some of its middle already, so the count is a least one.
    """
    left_out = len(text) - _SHOWN_HEAD - _SHOWN_TAIL
    if left_out <= 0:
        return text
    note = f"... at least {left_out} characters left out ..."
    return f"{text[:_SHOWN_HEAD]}\n{note}\n{text[-_SHOWN_TAIL:]}"


def _place(path: str, files: Mapping[str, str]) -> str:
    """Where a file of the reference belongs: Exercism keeps it below `.meta` by another name."""
    name, suffix = PurePosixPath(path).name, PurePosixPath(path).suffix
    if ".meta/src/reference/java/" in path:
        return f"src/main/java/{name}"
    return next((one for one in files if one.endswith(suffix)), name)


def answered_files(files: Mapping[str, str], text: str) -> Files:
    """The files that an answer gives, of those that were asked for.

    A block is the file that it is labelled with: by the line before it, its info string, or a
    comment in its first line. Without a label it is the file that the line before it mentions. A
    file's block is the one that says so most plainly, and of equals the first, as with Aider: later
    ones show how to use it. If no block is any file, the only block is the first file, and the
    first block that isn't labelled as something else is the only file.

    Args:
        files: by name, at least one.
        text: the answer.
    """
    found: dict[str, tuple[int, str]] = {}
    unlabelled: list[str] = []
    codes: list[str] = []
    for block, info in _blocks(after_thinking(text)):
        rank, word = _named(block, info, files)
        if not block.code.strip() or (block.language in _SHELLS and rank == _MENTIONED):
            continue
        codes.append(block.code)
        name = _asked(word, files)
        rank = 2 * rank + (word != name)  # of equals, a file's whole path before its name alone
        if name and (name not in found or rank < found[name][0]):
            found[name] = rank, block.code
        elif not word:
            unlabelled.append(block.code)
    if found:
        return {name: code for name, (_, code) in found.items()}
    if len(codes) == 1:
        return {next(iter(files)): codes[0]}
    return {next(iter(files)): unlabelled[0]} if unlabelled and len(files) == 1 else {}


def _blocks(text: str) -> Iterator[tuple[Fence, str]]:
    """The fenced blocks of a text, each with its info string."""
    lines = iter(text.splitlines())
    for block in fences(text):
        opening = next(match for line in lines if (match := _OPENING.match(line)))
        yield block, opening[1] or opening[2] or ""
        # Past the block's lines and the one that closes it.
        next(islice(lines, block.code.count("\n"), None), None)


def _named(block: Fence, info: str, files: Mapping[str, str]) -> tuple[int, str]:
    """What file a block is said to be, and how plainly: 0 is the plainest.

    The name may be one that wasn't asked for; it is empty if nothing is said.
    """
    first = block.code.partition("\n")[0]
    labels = (
        _label(block.before),
        next(filter(_is_file, _words(info)), ""),
        _label(first) if _COMMENT.match(first) else "",
    )
    for rank, word in enumerate(labels):
        if _asked(word, files) or _is_file(word):
            return rank, word
    mentioned = (word for word in _words(block.before) if _asked(word, files))
    return _MENTIONED, next(mentioned, "")


def _asked(word: str, files: Mapping[str, str]) -> str:
    """The file that a word names, perhaps in another folder; empty if it was not asked for."""
    if word in files:
        return word
    name = PurePosixPath(word).name
    return next((one for one in files if name and PurePosixPath(one).name == name), "")


def _words(line: str) -> list[str]:
    bare = (word.lstrip("/+-").rstrip("./+-") for word in _WORD.findall(line))
    return [word for word in bare if word]


def _label(line: str) -> str:
    """The only word of a line, beside what says that it is a file."""
    words = [word for word in _words(line) if word.lower() not in _LABELS]
    return words[0] if len(words) == 1 else ""


def _is_file(word: str) -> bool:
    return PurePosixPath(word).suffix.lower().removeprefix(".") in _SOURCES | _DATA


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
