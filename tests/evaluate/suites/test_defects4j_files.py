"""Where an answer's Java test class is put."""

from __future__ import annotations

from pathlib import Path

import pytest

from astor_rl.evaluate.suites.defects4j import Bug, suite_files


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


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('class FooTest { String s = "public class Bar {}"; }', "org/lang/FooTest.java"),
        ("class FooTest { public class Inner {} }", "org/lang/FooTest.java"),
        ("class Help {} public class FooTest {}", "org/lang/FooTest.java"),
        ("@RunWith(JUnit4.class) class FooTest {}", "org/lang/FooTest.java"),
        ("/*\npackage evil;\n*/\nclass FooTest {}", "org/lang/FooTest.java"),
        (
            "```java\nclass FooTest { @Test void a() {} }\n```\n```java\nclass Help {}\n```",
            "org/lang/FooTest.java",
        ),
        (
            "<think>```java\npublic class Draft {}\n```</think>class FooTest {}",
            "org/lang/FooTest.java",
        ),
        ("<think>public class Draft {}</think>nothing", ""),
        (f"class {'A' * 400} {{}}", ""),
        ("class A { char c = '\"'; } /* class B {} */", "org/lang/A.java"),
    ],
)
def test_the_class_that_names_the_file(text: str, place: str):
    assert "".join(suite_files(text, Bug(Path(), "Lang-1f", "org.lang.Range", ""))) == place
