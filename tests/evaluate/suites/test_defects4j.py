"""The wrapper of Defects4J, against a program that behaves as its commands are documented.

What is not tested here: Defects4J itself, which isn't on machines that run these tests.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from astor_rl.data.rows import Row
from astor_rl.errors import DataError, DependencyError
from astor_rl.evaluate.suites.base import Answer
from astor_rl.evaluate.suites.container import Unconfined, find_bubblewrap
from astor_rl.evaluate.suites.defects4j import Bug, Commands, Defects4JSuite, suite_files

PROGRAM = '''#!{python}
"""checkout -p -v -w; compile -w; export -p -w; test -w -s; coverage -w -s -i, as documented."""
import getopt, pathlib, sys, tarfile

command, *rest = sys.argv[1:]
options = dict(getopt.getopt(rest, "p:v:w:s:i:t:ro:")[0])
work = pathlib.Path(options["-w"])


def fail(message):
    print(message, file=sys.stderr)
    sys.exit(1)


if command == "checkout":
    if options["-p"] != "Lang" or not options["-v"].endswith("f"):
        fail("Cannot checkout!")
    source = work / "src/main/java/org/lang/Range.java"
    source.parent.mkdir(parents=True)
    source.write_text("package org.lang;\\n\\npublic class Range {{}}\\n")
    (work / ".defects4j.config").write_text("pid=Lang\\nvid=" + options["-v"] + "\\n")
    with (pathlib.Path(__file__).parent / "log").open("a") as log:
        log.write("checkout " + options["-v"] + "\\n")
elif not (work / ".defects4j.config").exists():
    fail(str(work) + " is not a valid working directory!")
elif command == "compile":
    print("Running ant (compile)... OK", file=sys.stderr)
elif command == "export":
    modified = "org.lang.Range\\norg.lang.Other"
    print({{"classes.modified": modified, "dir.src.classes": "src/main/java"}}[options["-p"]])
else:
    archive = pathlib.Path(options["-s"])
    if archive.name != "Lang-1f-astor.1.tar.bz2":
        fail("Wrong archive name")
    files = {{}}
    with tarfile.open(archive, "r:bz2") as tar:
        for member in tar:
            files[member.name] = tar.extractfile(member).read().decode()
    ((name, text),) = files.items()
    if not name.startswith("org/lang/") or text.count("{{") != text.count("}}"):
        print("Running ant (compile.gen.tests)... FAIL", file=sys.stderr)
        fail("Cannot compile test suite!")
    failing = text.count("fail(")
    if command == "test":
        print("Failing tests:", failing)
        for number in range(failing):
            print("  - org.lang.RangeTest::test", number, sep="")
    else:
        assert pathlib.Path(options["-i"]).read_text() == "org.lang.Range\\n"
        if "no coverage" in text:
            fail("it was kept from measuring")
        covered = text.count("@Test")
        print("       Lines total: 10\\n     Lines covered:", covered)
        print("  Conditions total: 4\\nConditions covered: 1")
        print("     Line coverage: 10.0%\\nCondition coverage: 25.0%")
'''

TEST = "```java\npackage org.lang;\n\npublic class RangeTest {{ {} }}\n```"


@pytest.fixture
def program(tmp_path: Path, monkeypatch) -> Path:
    path = tmp_path / "home" / "framework" / "bin" / "defects4j"
    path.parent.mkdir(parents=True)
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
    (unmeasured,) = answers(suite, TEST.format("@Test void a() {} // no coverage"))
    assert unmeasured.metrics["compile_rate"] == 1
    assert (unmeasured.metrics["line_coverage"], unmeasured.metrics["branch_coverage"]) == (0, 0)
    assert dict(good.metrics) == {
        "compile_rate": 1.0,
        "pass_rate": 1.0,
        "line_coverage": 0.2,
        "branch_coverage": 0.25,
    }
    assert (failing.metrics["compile_rate"], failing.metrics["pass_rate"]) == (1.0, 0.0)
    assert broken.reason == "doesn't compile: Cannot compile test suite!"
    assert nothing.reason == "no test class"
    assert elsewhere.metrics["compile_rate"] == 0
    assert set(broken.metrics) == set(good.metrics)
    assert not any(broken.metrics.values())

    # A version is checked out once, whatever is asked of it, and stays as it was.
    Defects4JSuite(rows({"project": "Lang", "bug": 1}), commands, tmp_path / "versions")
    assert (program.parent / "log").read_text() == "checkout 1f\n"
    assert not list((tmp_path / "versions" / "Lang-1f").glob("*.tar.bz2"))


def test_versions_that_cannot_be_had_are_reported(program: Path, tmp_path: Path):
    commands = Commands(Unconfined())
    bugs = rows({"project": "Lang", "bug": 1}, {"project": "Chart", "bug": 2})
    suite = Defects4JSuite(bugs, commands, tmp_path / "versions")
    assert len(suite.questions) == 1
    not_run = suite.report([]).not_run
    assert list(not_run) == ["Chart-2"]
    assert not_run["Chart-2"].endswith("failed: Cannot checkout!")
    with pytest.raises(DataError, match="Cannot checkout"):
        Defects4JSuite(bugs[1:], commands, tmp_path / "versions")
    with pytest.raises(DataError, match="field 'bug' is str"):
        Defects4JSuite(rows({"project": "Lang", "bug": "1"}), commands, tmp_path)


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


def test_test_classes_go_where_their_package_says():
    bug = Bug(Path(), "Lang-1f", "org.lang.Range", "")
    assert suite_files("class A {}", bug) == {
        "org/lang/A.java": "package org.lang;\n\nclass A {}",
    }
    assert list(suite_files("```java\npackage a.b;\nclass C {}\n```", bug)) == ["a/b/C.java"]
    assert suite_files("```python\nclass A: pass\n```", bug) == {}
    assert suite_files("```java\n// the class Range\nint x;\n```", bug) == {}
    for source in (
        "/** Test class for Range. */\npublic class RangeTest {}",
        "// This class tests Range.\n@RunWith(JUnit4.class)\npublic final class RangeTest {}",
        "class Helper {}\n\npublic class RangeTest { public static class Inner {} }",
        "/*\n * class Other\n */\nabstract class RangeTest {}",
    ):
        assert list(suite_files(f"```java\n{source}\n```", bug)) == ["org/lang/RangeTest.java"]
    assert list(suite_files("class A {}", Bug(Path(), "X-1f", "Range", ""))) == ["A.java"]
