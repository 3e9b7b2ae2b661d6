"""Defects4J (Just et al. 2014): test classes that the model writes for real Java classes.

A row names a bug, `{"project": "Lang", "bug": 1}`, and optionally the `class` under test (by
default the first that its fix changed). The *fixed* version is checked out and compiled once; the
model is shown the class and writes a JUnit 4 test class, which Defects4J compiles, runs, measures:

    compile_rate       `defects4j test -s SUITE` ran, which it doesn't if the tests don't compile
    pass_rate          and reported no failing test
    line_coverage, branch_coverage
                       of the class, as `defects4j coverage -s SUITE -i CLASSES` reports; 0 for
                       tests that don't compile; branches where there are any

Figures are means over bugs. Written against the documented commands of Defects4J 2 and 3, on a copy
of the checked-out folder for each answer, in a container without network (`container`).
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astor_rl.data.rows import Row
from astor_rl.errors import DataError, DependencyError
from astor_rl.evaluate.suites.base import (
    Answer,
    Graded,
    Question,
    Report,
    SingleTry,
    failure,
    mean_of_metric,
)
from astor_rl.evaluate.suites.container import (
    TEMPORARY,
    Container,
    Ran,
    scratch_folder,
)
from astor_rl.evaluate.suites.statistics import mean_metric
from astor_rl.tasks.example_key import content_key
from astor_rl.tasks.guard import guarded_async
from astor_rl.tasks.parsing import fenced, fences
from astor_rl.tasks.validation import optional, require
from astor_rl.types import Example, Invalid, Score

FIGURES = ("compile_rate", "pass_rate", "line_coverage", "branch_coverage")

_CHECKOUT_S = 900.0
_TEST_S = 600.0
_NOTHING = {"compile_rate": 0.0, "pass_rate": 0.0, "line_coverage": 0.0}
_FAILING = re.compile(r"^Failing tests: (\d+)", re.MULTILINE)
_COUNT = re.compile(r"^\s*(Lines|Conditions) (total|covered): (\d+)", re.MULTILINE)
_PACKAGE = re.compile(r"^\s*package\s+([\w.]+)\s*;", re.MULTILINE)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_CLASS = re.compile(r"^\s*(?:@\w+\s+)*(?:(?:final|abstract)\s+)*class\s+(\w+)", re.MULTILINE)
_PUBLIC = re.compile(r"\bpublic\s+(?:(?:final|abstract)\s+)*class\s+(\w+)")


@dataclass(frozen=True, slots=True)
class Bug:
    """A checked-out, compiled version.

    Attributes:
        folder: where it is.
        version: as Defects4J names it, `Lang-1f`.
        focal: full name of the class under test.
        source: of that class.
    """

    folder: Path
    version: str
    focal: str
    source: str


class Commands:
    """The `defects4j` program.

    Args:
        container: where tests run that the model wrote. What Defects4J itself brings (checking out
            and compiling a project's own code) runs as this user.

    Raises:
        DependencyError: it isn't on the PATH, or isn't that of a checkout.
    """

    def __init__(self, container: Container) -> None:
        program = shutil.which("defects4j")
        if program is None:
            raise DependencyError(
                "suite 'defects4j' needs the program defects4j on the PATH, with its Java: see "
                "https://github.com/rjust/defects4j"
            )
        self._program = program
        self._container = container
        # The checkout is what the program needs to read, and what the tests can read then.
        place = Path(program).resolve()
        if place.parts[-3:-1] != ("framework", "bin"):
            raise DependencyError(
                f"{str(place)!r} isn't framework/bin/defects4j of a checkout of Defects4J; put "
                "that, or a link to it, on the PATH"
            )
        self._home = place.parents[2]

    def check_out(self, row: Mapping[str, Any], folder: Path) -> Bug:
        """Check a fixed version out and compile it, unless that has been done in this folder.

        Raises:
            DataError: Defects4J refuses; says what it said last.
        """
        version = f"{row['project']}-{row['bug']}f"
        place = folder / version
        done = folder / f"{version}.done"
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            where = ("-w", str(place))
            self._say("checkout", "-p", row["project"], "-v", f"{row['bug']}f", *where)
            self._say("compile", *where)
            done.touch()
        focal = row["class"] or self._export("classes.modified", place).split()[0]
        sources = place / self._export("dir.src.classes", place).strip()
        file = sources / Path(*focal.split("$")[0].split(".")).with_suffix(".java")
        try:
            source = file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise DataError(f"{version}: can't read class {focal!r}: {error}") from None
        return Bug(place, version, focal, source)

    def _export(self, name: str, place: Path) -> str:
        return self._say("export", "-p", name, "-w", str(place))

    def _say(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._program, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_CHECKOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DataError(f"defects4j {arguments[0]} took over {_CHECKOUT_S:g} s") from None
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
            raise DataError(f"defects4j {' '.join(arguments)} failed: {said[-1][:200]}")
        return done.stdout

    def measure(self, bug: Bug, tests: Mapping[str, str]) -> dict[str, float] | str:
        """Run test files (path -> source) on a version: `FIGURES`, or why they could not run."""
        with scratch_folder("astor-defects4j-") as root:
            folder = root / bug.version
            shutil.copytree(bug.folder, folder, symlinks=True)
            archive = f"{bug.version}-astor.1.tar.bz2"
            (folder / archive).write_bytes(_packed(tests))
            ran = self._run(f'test -w "$PWD" -s "$PWD/{archive}"', folder)
            failing = _FAILING.search(ran.output)
            if ran.code is None:
                return f"timeout after {_TEST_S:g} s"
            if ran.code or failing is None:
                said = [line.strip() for line in ran.output.splitlines() if line.strip()]
                return f"doesn't compile: {' '.join(said[-1:])}"[:200]
            (folder / "astor.classes").write_text(f"{bug.focal}\n", encoding="utf-8")
            covered = self._run(
                f'coverage -w "$PWD" -s "$PWD/{archive}" -i "$PWD/astor.classes"', folder
            )
            return {
                "compile_rate": 1.0,
                "pass_rate": float(failing[1] == "0"),
                **_coverage(covered.output),
            }

    def _run(self, arguments: str, folder: Path) -> Ran:
        kept = {name: os.environ[name] for name in ("PATH", "JAVA_HOME") if name in os.environ}
        java = shutil.which("java")
        homes = [Path(java).resolve().parents[1]] if java else []
        return self._container.run(
            ["sh", "-c", f'exec "{self._program}" {arguments}'],
            folder=folder,
            readable=[self._home, *homes, *Path("/etc").glob("java*")],
            # Defects4J's documents ask for this time zone.
            environment={**kept, "HOME": TEMPORARY, "TZ": "America/Los_Angeles"},
            timeout_s=_TEST_S,
        )


def _packed(tests: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as archive:
        for path, source in tests.items():
            data = source.encode("utf-8", "replace")
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _coverage(output: str) -> dict[str, float]:
    counts = {(what, which): int(number) for what, which, number in _COUNT.findall(output)}
    found = {"line_coverage": 0.0}
    if not counts:
        # Tests that keep their coverage from being measured have none, in every figure.
        found["branch_coverage"] = 0.0
    for what, name in (("Lines", "line_coverage"), ("Conditions", "branch_coverage")):
        total = counts.get((what, "total"), 0)
        if total:
            found[name] = min(1.0, counts.get((what, "covered"), 0) / total)
    return found


class Defects4JSuite(SingleTry):
    """Test classes for the classes that bugs' fixes changed.

    Args:
        rows: see the module's docstring.
        commands: the program.
        folder: where versions are checked out and kept.

    Raises:
        DataError: a row lacks a field; or no version could be checked out.
    """

    name = "defects4j"
    max_tokens = 2048

    def __init__(self, rows: Sequence[Row], commands: Commands, folder: Path) -> None:
        self._commands = commands
        self._bugs: dict[str, Bug] = {}
        self._failed: dict[str, str] = {}
        self.questions: Sequence[Question] = [
            question for row in rows if (question := self._question(row, folder))
        ]
        if rows and not self.questions:
            raise DataError(next(iter(self._failed.values())))

    def _question(self, row: Row, folder: Path) -> Question | None:
        fields = {
            "project": require(row.fields, "project", str, row.origin),
            "bug": require(row.fields, "bug", int, row.origin),
            "class": optional(row.fields, "class", str, row.origin, ""),
        }
        try:
            bug = self._commands.check_out(fields, folder)
        except DataError as error:
            self._failed[f"{fields['project']}-{fields['bug']}"] = str(error)
            return None
        fields |= {"focal": bug.focal, "source": bug.source}
        example = Example(content_key(self.name, fields), fields, row.origin, row.unit)
        self._bugs[example.key] = bug
        return Question(example, ({"role": "user", "content": _prompt(bug)},))

    async def judge(self, answers: Sequence[Answer]) -> list[Score | Invalid]:
        """What Defects4J says of each; one after the other, as each run uses several processes."""
        return [await guarded_async(self.name, self._judge(answer)) for answer in answers]

    async def _judge(self, answer: Answer) -> Score | Invalid:
        bug = self._bugs[answer.question.example.key]
        tests = suite_files(answer.text, bug)
        found: dict[str, float] | str = "no test class"
        if tests:
            found = await asyncio.to_thread(self._commands.measure, bug, tests)
        if isinstance(found, str):
            return failure(found, {**_NOTHING, "branch_coverage": 0.0})
        return Score(found["line_coverage"], 1.0, found, "")

    def report(self, graded: Sequence[Graded]) -> Report:
        """Each of `FIGURES`."""
        found = {name: mean_of_metric(graded, name) for name in FIGURES}
        return Report(
            {name: mean_metric(values) for name, values in found.items() if values},
            notes=("tests of the fixed versions, one class each; means over bugs",),
            not_run=self._not_run(),
        )

    def _not_run(self) -> dict[str, str]:
        if not self._failed:
            return {}
        name, reason = next(iter(self._failed.items()))
        more = f" (and {len(self._failed) - 1} more bugs)" if len(self._failed) > 1 else ""
        return {f"{name}{more}": reason}


def suite_files(text: str, bug: Bug) -> dict[str, str]:
    """The test class of an answer, as a file where its package says; empty if there is none."""
    blocks = [block.code for block in fences(text) if block.language in ("", "java")]
    blocks = blocks or ([] if "```" in text else [text])
    source = next((code for code in reversed(blocks) if _class_name(code)), "")
    name = _class_name(source)
    if not name:
        return {}
    package = bug.focal.rpartition(".")[0]
    declared = _PACKAGE.search(source)
    if declared is None and package:
        source = f"package {package};\n\n{source}"
    elif declared is not None:
        package = declared[1]
    return {f"{package.replace('.', '/')}/{name}.java".lstrip("/"): source}


def _class_name(source: str) -> str:
    """The class that names the file, as Java wants it: the public one, else the first; or empty."""
    code = _COMMENT.sub(" ", source)
    found = _PUBLIC.search(code) or _CLASS.search(code)
    return found[1] if found else ""


def _prompt(bug: Bug) -> str:
    simple = bug.focal.rpartition(".")[2]
    package = bug.focal.rpartition(".")[0]
    return (
        f"{fenced(bug.source, 'java')}\n\n"
        f"Write a JUnit 4 test class `{simple}AstorTest` in package `{package}` for the class "
        f"`{simple}`. Its tests must compile, pass, and reach as many lines and branches as they "
        "can. Answer with the whole test class in one ```java block."
    )
