"""The wrapper of Defects4J, against a program that behaves as its commands are documented.

What is not tested here: Defects4J itself, which isn't on machines that run these tests.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from astor_rl.data.rows import Row
from astor_rl.errors import DataError, DependencyError
from astor_rl.evaluate.suites.base import Answer
from astor_rl.evaluate.suites.container import Ran, Unconfined, find_bubblewrap
from astor_rl.evaluate.suites.defects4j import Commands, Defects4JSuite
from astor_rl.types import Invalid, Score

PROGRAM = '''#!{python}
"""checkout -p -v -w; compile -w; export -p -w; test -w -s; coverage -w -s -i, as documented.

What it prints has the form of Defects4J 2 and 3, and of the Perl and the Ant below it.
"""
import getopt, os, pathlib, sys, tarfile

command, *rest = sys.argv[1:]
options = dict(getopt.getopt(rest, "p:v:w:s:i:t:ro:")[0])
work = pathlib.Path(options["-w"])
program = pathlib.Path(__file__)
home = program.parents[2]


def fail(message):
    print(message, "at " + str(program.parent / "d4j" / "d4j-") + command + " line 126.",
          file=sys.stderr)
    print("Compilation failed in require at " + str(program) + " line 195.", file=sys.stderr)
    sys.exit(2)


def ant(target, *log):
    title = ("Running ant (" + target + ")").ljust(75, ".")
    print(title, "FAIL" if log else "OK", file=sys.stderr)
    if log:
        print("Executed command:  cd " + str(work) + " && ant", target, "2>&1", file=sys.stderr)
        print("Buildfile: defects4j.build.xml", *log, sep="\\n", file=sys.stderr)
    return not log


if not (program.parents[1] / "core").is_dir():
    fail("Can't locate Constants.pm in @INC (@INC contains: /usr/share/perl5)")
libraries = [pathlib.Path(path) for path in os.environ.get("PERL5LIB", "").split(":") if path]
if not any((path / "Interpolate.pm").exists() for path in [home, *libraries]):
    fail("Can't locate String/Interpolate.pm in @INC (you may need to install it)")

if command == "checkout":
    projects = {{"Lang": "org.lang.Range", "Gson": "com.gson.$Gson$Types"}}
    if options["-p"] not in projects or not options["-v"].endswith("f"):
        fail("Cannot checkout!")
    modified = projects[options["-p"]]
    package, _, name = modified.rpartition(".")
    source = work / "src/main/java" / (modified.replace(".", "/") + ".java")
    source.parent.mkdir(parents=True)
    source.write_text("package " + package + ";\\n\\npublic class " + name + " {{}}\\n")
    (work / ".defects4j.config").write_text("pid=Lang\\nvid=" + options["-v"] + "\\n")
    (work / "modified").write_text(modified)
    with (home / "log").open("a") as log:
        log.write("checkout " + options["-v"] + "\\n")
elif not (work / ".defects4j.config").exists():
    print(work, "is not a valid working directory!", file=sys.stderr)
    sys.exit(1)
elif command == "compile":
    ant("compile")
elif command == "export":
    modified = (work / "modified").read_text() + "\\norg.lang.Other"
    print({{"classes.modified": modified, "dir.src.classes": "src/main/java"}}[options["-p"]])
else:
    archive = pathlib.Path(options["-s"])
    if archive.name != work.name + "-astor.1.tar.bz2":
        fail("Wrong archive name")
    files = {{}}
    with tarfile.open(archive, "r:bz2") as tar:
        for member in tar:
            files[member.name] = tar.extractfile(member).read().decode()
    ((name, text),) = files.items()
    with (home / "log").open("a") as log:
        log.write(command + " " + name + "\\n")
    focal = (work / "modified").read_text()
    folder = focal.rpartition(".")[0].replace(".", "/") + "/"
    if not ant("compile.gen.tests", *(
        ["compile.gen.tests:", "    [javac] T.java:3: error: cannot find symbol",
         "    [javac] 1 error", "", "BUILD FAILED",
         "build.xml:265: Compile failed; see the compiler error output for details."]
        if not name.startswith(folder) or text.count("{{") != text.count("}}") else []
    )):
        fail("Cannot compile extracted test suite!")
    if command == "coverage":
        assert ant("coverage.instrument")
    if not ant("run.gen.tests", *["BUILD FAILED"] * ("exit()" in text)):
        fail("Cannot run tests!")
    failing = text.count("fail(")
    if command == "test":
        print("Failing tests:", failing)
        for number in range(failing):
            print("  - org.lang.RangeTest::test", number, sep="")
    else:
        instrumented = pathlib.Path(options["-i"]).read_text()
        assert instrumented.startswith(focal.rpartition(".")[0]) and instrumented.endswith("\\n")
        with (home / "log").open("a") as log:
            log.write("instrument " + instrumented)
        if "no coverage" in text:
            fail("values not set")
        covered = text.count("@Test")
        branches = 0 if (home / "no branches").exists() else 4
        print("       Lines total: 10\\n     Lines covered:", covered)
        print("  Conditions total:", branches)
        print("Conditions covered:", min(branches, 1))
        print("     Line coverage: 10.0%\\nCondition coverage: 25.0%")
'''

TEST = "```java\npackage org.lang;\n\npublic class RangeTest {{ {} }}\n```"


@pytest.fixture
def program(tmp_path: Path, monkeypatch) -> Path:
    path = tmp_path / "home" / "framework" / "bin" / "defects4j"
    path.parent.mkdir(parents=True)
    (path.parents[1] / "core").mkdir()
    (path.parents[2] / "Interpolate.pm").touch()
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


def rows(*bugs: dict[str, object]) -> list[Row]:
    return [Row(dict(bug), f"bugs:{n}", str(n)) for n, bug in enumerate(bugs, 1)]


def answers(suite: Defects4JSuite, *texts: str):
    return asyncio.run(suite.judge([Answer(suite.questions[0], text) for text in texts]))


def test_commands_are_used_as_documented(program: Path, tmp_path: Path):
    commands = Commands(Unconfined())
    suite = Defects4JSuite(rows({"project": "Lang", "bug": 1}), commands, tmp_path / "versions")
    (question,) = suite.questions
    assert "public class Range {}" in question.messages[0]["content"]
    assert "`RangeAstorTest` in package `org.lang`" in question.messages[0]["content"]

    good, failing, broken, nothing, elsewhere = answers(
        suite,
        TEST.format("@Test void a() {} @Test void b() {}"),
        TEST.format("@Test void a() { fail(); }"),
        TEST.format("{"),
        "I would test everything.",
        "```java\npackage other;\nclass T {}\n```",
    )
    assert dict(good.metrics) == {
        "compile_rate": 1.0,
        "pass_rate": 1.0,
        "line_coverage": 0.2,
        "branch_coverage": 0.25,
    }
    assert (failing.metrics["compile_rate"], failing.metrics["pass_rate"]) == (1.0, 0.0)
    assert broken.reason == "doesn't compile: cannot find symbol"
    assert nothing.reason == "no test class"
    assert elsewhere.metrics["compile_rate"] == 0
    assert set(broken.metrics) == set(good.metrics)
    assert not any(broken.metrics.values())

    # A version is checked out and tried once, whatever is asked of it, and stays as it was.
    Defects4JSuite(rows({"project": "Lang", "bug": 1}), commands, tmp_path / "versions")
    log = (program.parents[2] / "log").read_text().splitlines()
    probe = "org/lang/AstorProbe.java"
    assert log[:3] == ["checkout 1f", f"test {probe}", f"coverage {probe}"]
    assert log[3] == "instrument org.lang.Range"
    assert log.count("checkout 1f") == log.count(f"test {probe}") == 1
    assert not list((tmp_path / "versions" / "Lang-1f").glob("*.tar.bz2"))


def test_versions_that_cannot_be_had_are_reported(program: Path, tmp_path: Path):
    commands = Commands(Unconfined())
    bugs = rows({"project": "Lang", "bug": 1}, {"project": "Chart", "bug": 2})
    suite = Defects4JSuite(bugs, commands, tmp_path / "versions")
    assert len(suite.questions) == 1
    not_run = suite.report([]).not_run
    assert list(not_run) == ["Chart-2"]
    assert "failed: Cannot checkout! at" in not_run["Chart-2"]
    with pytest.raises(DataError, match="Cannot checkout"):
        Defects4JSuite(bugs[1:], commands, tmp_path / "versions")
    with pytest.raises(DataError, match="field 'bug' is str"):
        Defects4JSuite(rows({"project": "Lang", "bug": "1"}), commands, tmp_path)


class Recording(Unconfined):
    """Remembers what it was asked for, and ends commands of some kinds as it is told."""

    def __init__(self, **ends: Ran) -> None:
        self.ends = ends
        self.readable: Sequence[Path] = ()
        self.environment: Mapping[str, str] = {}

    def run(self, command, *, folder, readable=(), environment, timeout_s) -> Ran:
        self.readable, self.environment = readable, environment
        for name, ran in self.ends.items():
            if any(f" {name} " in part for part in command):
                return ran
        return super().run(
            command,
            folder=folder,
            readable=readable,
            environment=environment,
            timeout_s=timeout_s,
        )


FAIL = "Running ant (compile.gen.tests)............................................ FAIL\n"
FAILED = "BUILD FAILED\nx.xml:1: Compile failed; see the compiler error output for details.\n"
NO_ANT = "/opt/major/bin/ant: line 12: /opt/java: No such file or directory\n"


@pytest.mark.parametrize(
    ("command", "ran", "said"),
    [
        ("test", Ran(None, f"{FAIL}compile.gen.tests:\n{FAILED}"), "test: timeout after 600 s"),
        ("test", Ran(2, "Cannot run tests! at d4j-test line 127."), "test: Cannot run tests!"),
        ("test", Ran(2, f"{FAIL}{NO_ANT}Cannot compile extracted test suite!"), "test: Cannot com"),
        ("test", Ran(2, f"{FAIL}\ncompile:\n{FAILED}It ended."), "test: It ended."),
        ("test", Ran(137, ""), "test: nothing"),
        ("test", Ran(0, "usage: defects4j"), "test: usage: defects4j"),
        ("coverage", Ran(None, ""), "coverage: timeout after 600 s"),
        ("coverage", Ran(2, "Could not create report at"), "coverage: Could not create report"),
        ("coverage", Ran(2, "  Lines total: 0\nIllegal division"), "coverage: Illegal division"),
        ("coverage", Ran(0, "?"), "coverage: ?"),
    ],
)
def test_what_is_not_the_compilers_word_is_no_verdict(
    program: Path, tmp_path: Path, command: str, ran: Ran, said: str
):
    container = Recording()
    row = rows({"project": "Lang", "bug": 1})
    suite = Defects4JSuite(row, Commands(container), tmp_path / "versions")
    container.ends[command] = ran
    (verdict,) = answers(suite, TEST.format("@Test void a() {}"))
    assert isinstance(verdict, Invalid)
    assert verdict.reason.startswith(f"defects4j {said}")

    # What befalls an empty test class, too, is a matter of the place: the bug isn't asked.
    with pytest.raises(DataError, match="Lang-1f: an empty test class doesn't run here: defects4j"):
        Defects4JSuite(row, Commands(container), tmp_path / "again")


def test_tests_that_compile_and_do_not_end_fail(program: Path, tmp_path: Path):
    container = Recording()
    row = rows({"project": "Lang", "bug": 1})
    suite = Defects4JSuite(row, Commands(container), tmp_path / "versions")
    container.ends["test"] = Ran(
        None, f"{FAIL.replace('FAIL', 'OK')}Running ant (run.gen.tests)..."
    )
    (verdict,) = answers(suite, TEST.format("@Test void a() { for (;;); }"))
    assert isinstance(verdict, Score)
    assert verdict.metrics == {
        "compile_rate": 1.0,
        "pass_rate": 0.0,
        "line_coverage": 0.0,
        "branch_coverage": 0.0,
    }


def test_what_answers_bring_about_is_no_verdict_unless_they_do_not_compile(
    program: Path, tmp_path: Path
):
    row = rows({"project": "Lang", "bug": 1})
    suite = Defects4JSuite(row, Commands(Unconfined()), tmp_path / "versions")
    ended, unmeasured = answers(
        suite, TEST.format("@Test void a() { exit(); }"), TEST.format("// no coverage")
    )
    assert isinstance(ended, Invalid)
    assert ended.reason.startswith("defects4j test: Cannot run tests! at")
    assert isinstance(unmeasured, Invalid)
    assert unmeasured.reason.startswith("defects4j coverage: values not set at")


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (
            Ran(
                2, f"{FAIL}compile.gen.tests:\n [javac] A.java:2: error: package org.junit {FAILED}"
            ),
            "doesn't compile: package org.junit",
        ),
        (Ran(0, "Failing tests: 1\n  - org.lang.AstorProbe::runs\n"), "its test fails"),
    ],
)
def test_a_bug_whose_tests_cannot_pass_here_is_not_asked(
    program: Path, tmp_path: Path, ends: Ran, said: str
):
    row = rows({"project": "Lang", "bug": 1})
    with pytest.raises(DataError, match=f"doesn't run here: {said}"):
        Defects4JSuite(row, Commands(Recording(test=ends)), tmp_path / "versions")


def test_perl_modules_of_the_user_are_found_in_the_container(
    program: Path, tmp_path: Path, monkeypatch
):
    (program.parents[2] / "Interpolate.pm").unlink()
    library = tmp_path / "perl5" / "lib"
    library.mkdir(parents=True)
    (library / "Interpolate.pm").touch()
    linked = tmp_path / "linked"
    linked.symlink_to(library)
    monkeypatch.setenv("PERL5LIB", f"{tmp_path / 'absent'}:{linked}")
    monkeypatch.setenv("PERL_LOCAL_LIB_ROOT", str(tmp_path / "perl5"))
    container = Recording()
    row = rows({"project": "Lang", "bug": 1})
    suite = Defects4JSuite(row, Commands(container), tmp_path / "versions")
    (score,) = answers(suite, TEST.format("@Test void a() {}"))
    assert score.metrics["compile_rate"] == 1
    assert container.environment["PERL_LOCAL_LIB_ROOT"] == str(tmp_path / "perl5")
    assert {linked, library, tmp_path / "perl5"} <= set(container.readable)
    assert tmp_path / "absent" not in container.readable

    # Were they not, it would be said of the bug, and of no answer.
    class Forgetful(Unconfined):
        def run(self, command, *, environment, **more) -> Ran:
            kept = {name: value for name, value in environment.items() if "PERL" not in name}
            return super().run(command, environment=kept, **more)

    with pytest.raises(
        DataError, match="doesn't run here: defects4j test: Can't locate String/Int"
    ):
        Defects4JSuite(row, Commands(Forgetful()), tmp_path / "again")


@pytest.mark.parametrize("link", ["current", "bin/java"])
def test_a_java_behind_a_link_is_found_in_the_container(
    program: Path, tmp_path: Path, monkeypatch, link: str
):
    real = tmp_path / "versions" / "11" / "bin" / "java"
    real.parent.mkdir(parents=True)
    (real.parents[1] / "lib").mkdir()
    real.write_text("#!/bin/sh\n")
    real.chmod(0o755)
    place = tmp_path / "manager" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(real.parents[1] if link == "current" else real)
    entry = place / "bin" if link == "current" else place.parent
    monkeypatch.setenv("PATH", f"{entry}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JAVA_HOME", str(real.parents[1]))
    container = Recording()
    row = rows({"project": "Lang", "bug": 1})
    Defects4JSuite(row, Commands(container), tmp_path / "checked-out")

    def seen(path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in container.readable)

    inside = [Path(entry) / "java" for entry in container.environment["PATH"].split(os.pathsep)]
    java = next(path for path in inside if path.exists() and seen(path))
    assert java == real
    assert seen(java.parents[1] / "lib")
    assert container.environment["JAVA_HOME"] == str(real.parents[1])


def test_a_script_called_java_does_not_show_the_folder_above_it(
    program: Path, tmp_path: Path, monkeypatch
):
    script = tmp_path / "somebody" / "bin" / "java"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    container = Recording()
    row = rows({"project": "Lang", "bug": 1})
    Defects4JSuite(row, Commands(container), tmp_path / "versions")
    assert script.parents[1] not in container.readable


def test_a_link_to_the_program_is_followed(program: Path, tmp_path: Path, monkeypatch):
    link = tmp_path / "links" / "defects4j"
    link.parent.mkdir()
    link.symlink_to(program)
    monkeypatch.setenv("PATH", os.environ["PATH"].replace(str(program.parent), str(link.parent)))
    container = Recording()
    row = rows({"project": "Lang", "bug": 1})
    suite = Defects4JSuite(row, Commands(container), tmp_path / "versions")
    (score,) = answers(suite, TEST.format("@Test void a() {}"))
    assert score.metrics["line_coverage"] == 0.1
    assert program.parents[2] in container.readable


def test_classes_with_a_dollar_in_their_own_name(program: Path, tmp_path: Path):
    bugs = rows({"project": "Gson", "bug": 14})
    suite = Defects4JSuite(bugs, Commands(Unconfined()), tmp_path / "versions")
    prompt = suite.questions[0].messages[0]["content"]
    assert "public class $Gson$Types {}" in prompt
    assert "`$Gson$TypesAstorTest` in package `com.gson`" in prompt
    (score,) = answers(
        suite, "```java\npublic class $Gson$TypesAstorTest { @Test void a() {} }\n```"
    )
    assert score.metrics["line_coverage"] == 0.1
    assert "test com/gson/$Gson$TypesAstorTest.java" in (program.parents[2] / "log").read_text()


@pytest.mark.parametrize(
    ("name", "file"), [("Range$Inner$Deeper", "Range"), ("$A$B$Inner", "$A$B"), ("$A$B", "$A$B")]
)
def test_nested_classes_are_in_the_file_of_the_one_around_them(
    program: Path, tmp_path: Path, name: str, file: str
):
    commands = Commands(Unconfined())
    bug = {"project": "Lang", "bug": 1}
    Defects4JSuite(rows(bug), commands, tmp_path / "versions")
    sources = tmp_path / "versions/Lang-1f/src/main/java/org/lang"
    (sources / f"{file}.java").write_text(f"class {file} {{ /* this one */ }}")
    nested = rows(bug | {"class": f"org.lang.{name}"})
    suite = Defects4JSuite(nested, commands, tmp_path / "versions")
    assert f"class {file} {{ /* this one */ }}" in suite.questions[0].messages[0]["content"]
    assert f"instrument org.lang.{name}\n" in (program.parents[2] / "log").read_text()

    missing = rows(bug | {"class": "org.lang.$None"})
    with pytest.raises(DataError, match=r"can't read class 'org\.lang\.\$None'"):
        Defects4JSuite(missing, commands, tmp_path / "versions")


def test_branches_are_a_matter_of_the_bug(program: Path, tmp_path: Path):
    (program.parents[2] / "no branches").touch()
    bugs = rows({"project": "Lang", "bug": 1})
    suite = Defects4JSuite(bugs, Commands(Unconfined()), tmp_path / "versions")
    verdicts = answers(suite, TEST.format("@Test void a() {}"), TEST.format("{"), "None.")
    assert [verdict.metrics["compile_rate"] for verdict in verdicts] == [1, 0, 0]
    assert all("branch_coverage" not in verdict.metrics for verdict in verdicts)
    # That is kept with the version: it isn't tried again.
    again = Defects4JSuite(bugs, Commands(Unconfined()), tmp_path / "versions")
    (uncompiled,) = answers(again, TEST.format("{"))
    assert set(uncompiled.metrics) == {"compile_rate", "pass_rate", "line_coverage"}


def test_tests_run_in_a_container_where_there_is_one(program: Path, tmp_path: Path):
    container = find_bubblewrap()
    if isinstance(container, str):
        pytest.skip(container)
    if not Path(sys.executable).resolve().is_relative_to("/usr"):
        pytest.skip("the stand-in for defects4j needs a Python among the system's folders")
    suite = Defects4JSuite(
        rows({"project": "Lang", "bug": 1}), Commands(container), tmp_path / "versions"
    )
    (score,) = answers(suite, TEST.format("@Test void a() {}"))
    assert score.metrics["line_coverage"] == 0.1


def test_a_missing_program_is_one_line(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyError, match="needs the program defects4j on the PATH"):
        Commands(Unconfined())


def test_a_program_elsewhere_would_show_what_is_beside_it(monkeypatch, tmp_path: Path):
    script = tmp_path / "bin" / "defects4j"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    with pytest.raises(DependencyError, match="isn't framework/bin/defects4j of a checkout"):
        Commands(Unconfined())
