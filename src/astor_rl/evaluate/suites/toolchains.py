"""How exercises in C++, Go, Java, JavaScript and Rust are built and tested.

The commands are Aider's, offline: what they would download has to be there. A pass is believed when
the command succeeds *and* its runner reports at least as many passed tests as it does for the
reference: an early `exit(0)` reports none. Tests and solution share a process and a folder, so a
solution that prints the runner's report itself, or patches the test framework, isn't told from one
that earns it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from astor_rl.errors import ConfigError
from astor_rl.evaluate.suites.container import TEMPORARY

Files = dict[str, str]
"""Text by relative path."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What runs one language's exercises.

    Attributes:
        command: builds and tests, in a folder that is called like the exercise.
        readable: what it needs beside system folders.
        environment: of the command.
        prepare: changes the files before they are written: switched-off tests are switched on.
        links: name in the folder -> path that a symbolic link there leads to.
        passed: how many tests passed, by the command's output.
        started: whether tests were reached at all, by the command's output.
        tests: how many tests a test file has, by its source.
        shown: the part of the command's output that a model is shown.
    """

    command: tuple[str, ...]
    readable: tuple[Path, ...]
    environment: Mapping[str, str]
    passed: Callable[[str], int]
    started: Callable[[str], int]
    tests: Callable[[str], int]
    prepare: Callable[[Files], Files] = dict
    links: Mapping[str, Path] = field(default_factory=dict)
    shown: Callable[[str], str] = str


def find_toolchain(language: str, extra: Path | None) -> Toolchain | str:
    """The toolchain of a language, or what of it is missing, as a clause.

    Args:
        language: `cpp`, `go`, `java`, `javascript` or `rust`.
        extra: folder with what a language needs beside its tools, see `EXTRAS`.

    Raises:
        ConfigError: `extra` is no folder, or doesn't hold what it should.
    """
    if extra is not None and not extra.is_dir():
        raise ConfigError(f"--toolchain {language}={str(extra)!r}: no such folder")
    extra = extra.resolve() if extra else None
    return _FINDERS[language](extra)


EXTRAS: Mapping[str, str] = {
    "cpp": "a folder with Catch2's single header, catch.hpp",
    "go": "a GOROOT, if go isn't on the PATH",
    "java": "a folder with the jars of JUnit 5 (with its console), AssertJ and Byte Buddy",
    "javascript": "a folder with node_modules that holds jest and the exercises' Babel preset",
    "rust": "a Cargo home with the crates that exercises use (optional)",
}
"""What `--toolchain LANGUAGE=FOLDER` gives, by language."""


def parse_toolchains(options: Sequence[str]) -> dict[str, Path]:
    """`LANGUAGE=FOLDER` options as folders by language.

    Raises:
        ConfigError: an option isn't of that form, or names no language.
    """
    found = {}
    for option in options:
        language, separator, folder = option.partition("=")
        if language not in EXTRAS or not separator or not folder:
            raise ConfigError(
                f"--toolchain {option!r}: write it as LANGUAGE=FOLDER, with one of "
                f"{', '.join(EXTRAS)}"
            )
        found[language] = Path(folder).expanduser()
    return found


def _missing(*programs: str) -> str:
    absent = [program for program in programs if shutil.which(program) is None]
    return f"{', '.join(absent)} not found" if absent else ""


def _needs(language: str) -> str:
    return f"give --toolchain {language}=FOLDER, {EXTRAS[language]}"


def _path(*programs: str) -> tuple[str, tuple[Path, ...]]:
    """A PATH with the programs' folders, and those folders that aren't the system's.

    Behind links first: Java looks for its libraries beside the folder that it was found in.
    """
    found = [Path(shutil.which(program) or program) for program in programs]
    folders = dict.fromkeys(place.parent for place in (*map(Path.resolve, found), *found))
    own = tuple(folder for folder in folders if not folder.is_relative_to("/usr"))
    return os.pathsep.join([*map(str, folders), "/usr/bin", "/bin"]), own


def _cpp(extra: Path | None) -> Toolchain | str:
    if absent := _missing("cmake", "make", "c++"):
        return absent
    places = [extra / "catch.hpp"] if extra else []
    places.append(Path("/usr/include/catch2/catch.hpp"))
    header = next((place for place in places if place.is_file()), None)
    if header is None:
        return f"catch.hpp not found: {_needs('cpp')}"
    path, readable = _path("cmake", "make", "c++")
    build = "cmake -S . -B build -DEXERCISM_RUN_ALL_TESTS=1 && cmake --build build"
    return Toolchain(
        ("sh", "-c", build),
        (*readable, header),
        {"PATH": path, "HOME": TEMPORARY},
        passed=_first(r"All tests passed \([\d,]+ assertions? in (\d{1,9}) test cases?\)"),
        started=_count(r"^test cases:"),
        tests=_count(r"^\s*TEST_CASE\("),
        links={"test/catch.hpp": header},
    )


def _go(extra: Path | None) -> Toolchain | str:
    program = str(extra / "bin" / "go") if extra else shutil.which("go")
    if program is None or not Path(program).is_file():
        return f"go not found: {_needs('go')}"
    root = extra or Path(program).resolve().parent.parent
    environment = {
        "PATH": f"{root / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "HOME": TEMPORARY,
        "GOROOT": str(root),
        "GOCACHE": f"{TEMPORARY}/go",
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
    }
    return Toolchain(
        ("go", "test", "-v", "./..."),
        tuple(dict.fromkeys([root, *_targets(root)])),
        environment,
        passed=_count(r"^--- PASS: Test"),
        started=_count(r"^(--- |=== RUN)"),
        tests=_count(r"^func Test\w*\("),
        # What `-v` adds for the count above; Aider runs without it.
        shown=_without(r"^[ \t]*(=== (RUN|PAUSE|CONT|NAME)\b|--- PASS: ).*\n?"),
    )


def _targets(root: Path) -> list[Path]:
    """Where symbolic links right below a folder lead."""
    return [path.resolve() for path in root.iterdir() if path.is_symlink()]


def _java(extra: Path | None) -> Toolchain | str:
    if absent := _missing("java", "javac"):
        return absent
    jars = sorted(extra.glob("*.jar")) if extra else []
    if not any("console" in jar.name for jar in jars):
        return f"no JUnit console: {_needs('java')}"
    path, readable = _path("java", "javac")
    classes = os.pathsep.join(str(jar) for jar in jars)
    build = (
        f"javac -nowarn -encoding UTF-8 -cp '{classes}' -d out "
        "$(find src/main src/test -name '*.java') && "
        f"java -Xmx1g -cp 'out:{classes}' org.junit.platform.console.ConsoleLauncher "
        "--scan-class-path out --disable-banner --disable-ansi-colors --details=summary"
    )
    homes = [Path(shutil.which("java") or "java").resolve().parent.parent]
    return Toolchain(
        ("sh", "-c", build),
        (*readable, *homes, *Path("/etc").glob("java*"), *((extra,) if extra else ())),
        {"PATH": path, "HOME": TEMPORARY},
        passed=_first(r"\[ *(\d{1,9}) tests successful\s*\]"),
        started=_count(r"tests started\s*\]"),
        tests=_count(r"^\s*@(Test|ParameterizedTest)\b"),
        prepare=_edit(".java", r"@Disabled(\([^)]*\))?[ \t]*\n", ""),
    )


def _javascript(extra: Path | None) -> Toolchain | str:
    if absent := _missing("node"):
        return absent
    modules = extra / "node_modules" if extra else None
    if modules is None or not (modules / "jest" / "bin" / "jest.js").is_file():
        return f"jest not found: {_needs('javascript')}"
    path, readable = _path("node")
    return Toolchain(
        ("node", "node_modules/jest/bin/jest.js", "--ci", "--runInBand", "--cache=false"),
        (*readable, modules),
        {"PATH": path, "HOME": TEMPORARY},
        passed=_first(r"^Tests:.*?\b(\d{1,9}) passed"),
        started=_count(r"^Tests:"),
        tests=_count(r"^\s*(test|it)(\.each)?\("),
        prepare=_edit(".spec.js", r"\bx(test|it)\(", r"\1("),
        links={"node_modules": modules},
    )


def _rust(extra: Path | None) -> Toolchain | str:
    if absent := _missing("cargo", "rustc"):
        return absent
    path, readable = _path("cargo", "rustc", "cc")
    environment = {
        "PATH": path,
        "HOME": TEMPORARY,
        "CARGO_HOME": str(extra or f"{TEMPORARY}/cargo"),
    }
    homes = [Path(os.environ.get("RUSTUP_HOME", Path.home() / ".rustup"))]
    if homes[0].is_dir():
        environment["RUSTUP_HOME"] = str(homes[0])
    return Toolchain(
        ("cargo", "test", "--offline", "--", "--include-ignored"),
        (*readable, *(home for home in homes if home.is_dir()), *((extra,) if extra else ())),
        environment,
        passed=_passed_of_exercise,
        started=_count(r"^test result:"),
        tests=_count(r"^\s*#\[test\]"),
    )


_FINDERS: Mapping[str, Callable[[Path | None], Toolchain | str]] = {
    "cpp": _cpp,
    "go": _go,
    "java": _java,
    "javascript": _javascript,
    "rust": _rust,
}


def _count(pattern: str) -> Callable[[str], int]:
    compiled = re.compile(pattern, re.MULTILINE)
    return lambda text: sum(1 for _ in compiled.finditer(text))


def _first(pattern: str) -> Callable[[str], int]:
    compiled = re.compile(pattern, re.MULTILINE)
    return lambda text: int(match[1]) if (match := compiled.search(text)) else 0


_CARGO_RUNS = re.compile(r"^ +(?:Running|Doc-tests) (?P<what>.*)$", re.MULTILINE)
_CARGO_TESTS = re.compile(r"tests/[\w-]+\.rs\b")
_CARGO_RESULT = re.compile(r"^test result: ok\. (\d{1,9}) passed; 0 failed", re.MULTILINE)


def _passed_of_exercise(output: str) -> int:
    """Tests passed in `tests/`. Those of `src/` and of documents are the solution's own."""
    passed = 0
    places = [*_CARGO_RUNS.finditer(output)]
    ends = [place.start() for place in places[1:]] + [len(output)]
    for place, end in zip(places, ends, strict=True):
        if _CARGO_TESTS.match(place["what"]):
            results = _CARGO_RESULT.finditer(output, place.end(), end)
            passed += sum(int(result[1]) for result in results)
    return passed


def _without(pattern: str) -> Callable[[str], str]:
    compiled = re.compile(pattern, re.MULTILINE)
    return lambda text: compiled.sub("", text)


def _edit(suffix: str, pattern: str, replacement: str) -> Callable[[Files], Files]:
    compiled = re.compile(pattern)

    def prepare(files: Files) -> Files:
        return {
            name: compiled.sub(replacement, text) if name.endswith(suffix) else text
            for name, text in files.items()
        }

    return prepare
