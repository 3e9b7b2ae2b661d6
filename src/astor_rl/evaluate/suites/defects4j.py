"""Defects4J (Just et al. 2014): test classes that the model writes for real Java classes.

A row names a bug, `{"project": "Lang", "bug": 1}`, and optionally the `class` under test (by
default the first that its fix changed). The *fixed* version is checked out and compiled once; the
model is shown the class and writes a JUnit 4 test class, which Defects4J compiles, runs, measures:

    compile_rate       `defects4j test -s SUITE` compiled the tests
    pass_rate          and reported no failing test
    line_coverage, branch_coverage
                       of the class, as `defects4j coverage -s SUITE -i CLASSES` reports, failing
                       tests included; 0 for tests that don't compile; the second only for bugs
                       whose class has branches

Figures are means over bugs. Only what the compiler says against the tests, and that they don't end,
is held against them; where the commands end in any other way, nothing is known of the answer, and
it is `Invalid`. An empty test class tells once for each bug whether the commands work here at all.

Written against Defects4J 2 and 3, on a copy of the checked-out folder for each answer, in a
container without network (`container`).
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
from dataclasses import dataclass, replace
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
from astor_rl.tasks.parsing import after_thinking, fenced, fences
from astor_rl.tasks.validation import optional, require
from astor_rl.types import Example, Invalid, Score

FIGURES = ("compile_rate", "pass_rate", "line_coverage", "branch_coverage")

_CHECKOUT_S = 900.0
_TEST_S = 600.0
_PATHS = ("JAVA_HOME", "PERL5LIB", "PERL_LOCAL_LIB_ROOT")
"""Variables that say where Java and Perl's modules lie; each may hold several paths."""
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
"""What every container has."""
_PROBE = """\
public class AstorProbe {
    @org.junit.Test
    public void runs() {}
}
"""
_UNCOMPILED = re.compile(
    r"^Running ant \(compile\.gen\.tests\)[. ]*FAIL$"
    r".*^\S*compile\.gen\.tests:$.*Compile failed; see the compiler",
    re.MULTILINE | re.DOTALL,
)
_COMPILED = re.compile(r"^Running ant \(compile\.gen\.tests\)[. ]*OK$", re.MULTILINE)
_JAVAC = re.compile(r"\[javac\] .*\.java:\d+: error: (.*)")
_PERL_CHAIN = re.compile(r"(BEGIN failed--compilation aborted|Compilation failed in require) at ")
_FAILING = re.compile(r"^Failing tests: (\d+)", re.MULTILINE)
_COUNT = re.compile(r"^[ \t]*(Lines|Conditions) (total|covered): (\d+)", re.MULTILINE)
_PACKAGE = re.compile(r"^[ \t]*package[ \t]+([\w.]+)[ \t]*;", re.MULTILINE)
_NO_CODE = re.compile(
    r"//[^\n]*|/\*.*?(?:\*/|\Z)|\"(?:[^\"\\\n]|\\.)*+\"|'(?:[^'\\\n]|\\.)*+'", re.DOTALL
)
"""Comments and texts of Java."""
_CLASS = re.compile(r"(?<![\w$.])class[ \t]+([\w$]+)|[{}]")
_PUBLIC = re.compile(r"\bpublic\b")
_LONGEST_NAME = 120
"""Characters of a class's name; its file's must fit a folder's entry."""


@dataclass(frozen=True, slots=True)
class Bug:
    """A checked-out, compiled version.

    Attributes:
        folder: where it is.
        version: as Defects4J names it, `Lang-1f`.
        focal: full name of the class under test.
        source: of that class.
        branches: whether that class has any.
    """

    folder: Path
    version: str
    focal: str
    source: str
    branches: bool = True


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
        # It looks for its modules beside the path it is called by, so a link to it fails.
        self._program = Path(program).resolve()
        self._container = container
        if self._program.parts[-3:-1] != ("framework", "bin"):
            raise DependencyError(
                f"{str(self._program)!r} isn't framework/bin/defects4j of a checkout of Defects4J; "
                "put the folder framework/bin of one on the PATH"
            )
        # The checkout is what the program needs to read, and what the tests can read then.
        self._environment, self._readable = _surroundings(self._program.parents[2])

    def check_out(self, row: Mapping[str, Any], folder: Path) -> Bug:
        """Check a fixed version out, compile it and try it, unless that was done in this folder.

        Raises:
            DataError: Defects4J refuses, or tests can't run here; says what it said last.
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
        try:
            source = _file_of(focal, sources).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise DataError(f"{version}: can't read class {focal!r}: {error}") from None
        bug = Bug(place, version, focal, source)
        tried = folder / f"{version}.{focal}.tried".replace("/", ".")
        found = tried.read_text(encoding="utf-8") if tried.exists() else ""
        if not found:
            found = "branches" if self._has_branches(bug) else "no branches"
            tried.write_text(found, encoding="utf-8")
        return replace(bug, branches=found == "branches")

    def _has_branches(self, bug: Bug) -> bool:
        """Whether a class has branches, as a test class says that compiles and passes anywhere."""
        try:
            found = self.measure(bug, suite_files(_PROBE, bug))
        except OSError as error:
            found = str(error)
        if isinstance(found, Invalid):
            reason = found.reason
        elif isinstance(found, str):
            reason = found
        elif not found["pass_rate"]:
            reason = "its test fails"
        else:
            return "branch_coverage" in found
        raise DataError(f"{bug.version}: an empty test class doesn't run here: {reason}")

    def _export(self, name: str, place: Path) -> str:
        return self._say("export", "-p", name, "-w", str(place))

    def _say(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [str(self._program), *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_CHECKOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DataError(f"defects4j {arguments[0]} took over {_CHECKOUT_S:g} s") from None
        if done.returncode != 0:
            said = _said(done.stderr.strip() or done.stdout)
            raise DataError(f"defects4j {' '.join(arguments)} failed: {said}")
        return done.stdout

    def measure(self, bug: Bug, tests: Mapping[str, str]) -> dict[str, float] | str | Invalid:
        """Run test files (path -> source) on a version.

        Returns:
            `FIGURES`, branches only if the class has any (all 0 but the first for tests that were
            compiled and don't end); or why the tests don't compile; or
            `Invalid`, when the commands failed for another reason.

        Raises:
            OSError: the version can't be copied, or the container not be started.
        """
        with scratch_folder("astor-defects4j-") as root:
            folder = root / bug.version
            shutil.copytree(bug.folder, folder, symlinks=True)
            archive = f"{bug.version}-astor.1.tar.bz2"
            (folder / archive).write_bytes(_packed(tests))
            ran = self._run(f'test -w "$PWD" -s "$PWD/{archive}"', folder)
            failing = _FAILING.search(ran.output)
            if ran.code and (error := _compile_error(ran.output)):
                return f"doesn't compile: {error}"[:200]
            if ran.code is None and _COMPILED.search(ran.output):
                return dict.fromkeys(FIGURES, 0.0) | {"compile_rate": 1.0}
            if ran.code != 0 or failing is None:
                return _unknown("test", ran)
            (folder / "astor.classes").write_text(f"{bug.focal}\n", encoding="utf-8")
            covered = self._run(
                f'coverage -w "$PWD" -s "$PWD/{archive}" -i "$PWD/astor.classes"', folder
            )
            coverage = _coverage(covered.output)
            if covered.code != 0 or "line_coverage" not in coverage:
                return _unknown("coverage", covered)
            return {"compile_rate": 1.0, "pass_rate": float(failing[1] == "0"), **coverage}

    def _run(self, arguments: str, folder: Path) -> Ran:
        return self._container.run(
            ["sh", "-c", f'exec "$0" {arguments}', str(self._program)],
            folder=folder,
            readable=self._readable,
            environment=self._environment,
            timeout_s=_TEST_S,
        )


def _surroundings(home: Path) -> tuple[dict[str, str], list[Path]]:
    """Environment of what runs in the container, and what it may read beside system folders.

    There it finds the Java, the Perl and the Perl modules that checking out and compiling found.

    Args:
        home: of Defects4J.
    """
    named = {
        name: [Path(part).absolute() for part in os.environ[name].split(os.pathsep) if part]
        for name in _PATHS
        if name in os.environ
    }
    found = [Path(path) for name in ("java", "javac", "perl") if (path := shutil.which(name))]
    # A version manager puts links on the PATH. Java looks for its libraries beside the path it was
    # found by, so that a link's folder alone is no use: the real one is searched first.
    own = [
        path.resolve() for path in found if not (_of_system(path) and _of_system(path.resolve()))
    ]
    first = dict.fromkeys(str(path.parent) for path in own)
    # Without lib it isn't an installation: a script in ~/bin must not show the home folder.
    homes = [path.parents[1] for path in own if (path.parents[1] / "lib").is_dir()]
    places = [home, *homes, *(path for paths in named.values() for path in paths)]
    both = dict.fromkeys(path for place in places for path in (place, place.resolve()))
    environment = {
        **{name: os.pathsep.join(map(str, paths)) for name, paths in named.items()},
        "PATH": os.pathsep.join([*first, os.environ.get("PATH", "")]),
        "HOME": TEMPORARY,
        # Test files are UTF-8, which javac reads as ASCII where no language is set.
        "LC_ALL": "C.UTF-8",
        # Defects4J's documents ask for this time zone.
        "TZ": "America/Los_Angeles",
    }
    readable = [path for path in both if path.exists() and not _of_system(path)]
    return environment, [*readable, *Path("/etc").glob("java*")]


def _of_system(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _SYSTEM)


def _file_of(focal: str, sources: Path) -> Path:
    """Where a class is: in the file of its name, or of a class around it (`Outer$Inner`)."""
    parts = focal.split("$")
    # The longest name first: a $ may be part of a class's own name, as in Gson's $Gson$Types.
    names = ["$".join(parts[:end]) for end in range(len(parts), 0, -1)]
    files = [sources / f"{name.replace('.', '/')}.java" for name in names]
    return next((file for file in files if file.is_file()), files[0])


def _compile_error(output: str) -> str:
    """What the compiler says against the tests, or empty if it isn't what ended the command.

    Tests are built by an Ant target of their own. It fails, too, where Ant or Java don't work or
    the project doesn't compile: that it came to the tests, and that it was for their source, is in
    Ant's log.
    """
    if not _UNCOMPILED.search(output):
        return ""
    error = _JAVAC.search(output)
    return error[1] if error else _said(output)


def _unknown(command: str, ran: Ran) -> Invalid:
    said = f"timeout after {_TEST_S:g} s" if ran.code is None else _said(ran.output)
    return Invalid(f"defects4j {command}: {said}"[:200])


def _said(output: str) -> str:
    """The last line of an output; of Perl's, which ends in where it was loaded from, the cause."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    own = [line for line in lines if not _PERL_CHAIN.match(line)]
    return (own or lines or ["nothing"])[-1][:200]


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
    """By figure; without what the class has none of, or what the output doesn't tell."""
    counts = {(what, which): int(number) for what, which, number in _COUNT.findall(output)}
    return {
        name: min(1.0, counts.get((what, "covered"), 0) / total)
        for what, name in (("Lines", "line_coverage"), ("Conditions", "branch_coverage"))
        if (total := counts.get((what, "total"), 0))
    }


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
        found: dict[str, float] | str | Invalid = "no test class"
        if tests:
            found = await asyncio.to_thread(self._commands.measure, bug, tests)
        if isinstance(found, Invalid):
            return found
        # By the bug, not by the answer: else those that fail would put bugs into a mean.
        figures = [name for name in FIGURES if bug.branches or name != "branch_coverage"]
        if isinstance(found, str):
            return failure(found, dict.fromkeys(figures, 0.0))
        return Score(found["line_coverage"], 1.0, {name: found[name] for name in figures}, "")

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
    said = after_thinking(text)
    blocks = [block.code for block in fences(said) if block.language in ("", "java")]
    blocks = blocks or ([] if "```" in said else [said])
    named = [(code, name) for code in blocks if (name := _class_name(code))]
    # The last one with tests: a helper class may follow.
    tests = [each for each in named if "@Test" in each[0]] or named
    if not tests:
        return {}
    source, name = tests[-1]
    package = bug.focal.rpartition(".")[0]
    declared = _PACKAGE.search(_NO_CODE.sub(" ", source))
    if declared is None and package:
        source = f"package {package};\n\n{source}"
    elif declared is not None:
        package = declared[1]
    return {f"{package.replace('.', '/')}/{name}.java".lstrip("/"): source}


def _class_name(source: str) -> str:
    """The class that names the file, as Java wants it: the public one, else the first; or empty.

    Of those at the top: classes inside of others don't count.
    """
    code = _NO_CODE.sub(" ", source)
    depth, first, start = 0, "", 0
    for found in _CLASS.finditer(code):
        if not found[1]:
            depth += 1 if found[0] == "{" else -1
        elif depth == 0 and len(found[1]) <= _LONGEST_NAME:
            first = first or found[1]
            if _PUBLIC.search(code[start : found.start()].rpartition(";")[2]):
                return found[1]
        start = found.end()
    return first


def _prompt(bug: Bug) -> str:
    simple = bug.focal.rpartition(".")[2]
    package = bug.focal.rpartition(".")[0]
    return (
        f"{fenced(bug.source, 'java')}\n\n"
        f"Write a JUnit 4 test class `{simple}AstorTest` in package `{package}` for the class "
        f"`{simple}`. Its tests must compile, pass, and reach as many lines and branches as they "
        "can. Answer with the whole test class in one ```java block."
    )
