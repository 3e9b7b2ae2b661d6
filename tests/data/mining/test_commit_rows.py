from __future__ import annotations

import ast
import re
import string
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from astor_rl.code.slicing import ModuleSlicer
from astor_rl.data.mining.commit_rows import (
    HELD_OUT_OPERATORS,
    MAX_DIFF,
    MAX_SUBJECT,
    MAX_WORDS,
    OPERATORS,
    commit_rows,
    unified,
)
from astor_rl.data.mining.edits import Change, Material
from astor_rl.data.mining.functions import Call, Subject
from astor_rl.data.mining.phrasings import PHRASINGS
from astor_rl.data.rows import Row
from astor_rl.sandbox.pool import ProcessPool


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress nobody looks at."""


@pytest.fixture(scope="module")
def rows(subjects: list[Subject], sandbox: ProcessPool) -> list[Row]:
    return list(commit_rows(subjects, sandbox, per_unit=8, seed=0, progress=silent))


def edit(op: str, source: str, *inputs: tuple[str, str], seed: int = 0) -> Change | None:
    part = next(iter(ModuleSlicer(source).slices()))
    calls = tuple(Call(text, output, 1) for text, output in inputs or [("1", "1")])
    return OPERATORS[op][0](Material(part, calls, np.random.default_rng(seed)))


def test_every_operator_has_phrasings() -> None:
    assert set(OPERATORS) == set(PHRASINGS)
    assert set(OPERATORS) > HELD_OUT_OPERATORS
    for templates in PHRASINGS.values():
        assert len(set(templates)) == len(templates) >= 2


def hunks(diff: str) -> list[tuple[int, list[str]]]:
    """(first line in the old file, lines with their sign) of every hunk."""
    found: list[tuple[int, list[str]]] = []
    for line in diff.splitlines()[3:]:
        if line.startswith("@@ -"):
            found.append((int(line[4:].split(",")[0]), []))
        else:
            found[-1][1].append(line)
    return found


def test_diffs_apply(rows: list[Row], subjects: list[Subject], tmp_path: Path) -> None:
    """git takes every diff as a patch of a file that has its old lines in their place."""
    shown = {subject.unit: subject.shown for subject in subjects}
    taken = rows[::9]
    assert len(taken) > 15
    for row in taken:
        diff = row.fields["diff"]
        old, new = [], []
        for start, lines in hunks(diff):
            padding = [f"# {n}" for n in range(len(old) + 1, start)]
            old += [*padding, *(line[1:] for line in lines if line[0] != "+")]
            new += [*padding, *(line[1:] for line in lines if line[0] != "-")]
        path = tmp_path / shown[row.unit]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(old) + "\n")
        subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tmp_path, check=True)
        assert path.read_text().splitlines() == new


def test_rows_are_short_and_say_what_is_in_the_diff(rows: list[Row]) -> None:
    assert len(rows) > 100
    assert len({row.fields["op"] for row in rows}) >= 20
    for row in rows:
        fields = row.fields
        assert set(fields) == {
            "id", "source", "repo", "diff", "subject", "body", "message", "op", "phrasing",
            "difficulty",
        }  # fmt: skip
        assert len(fields["diff"]) <= MAX_DIFF
        assert len(fields["subject"]) <= MAX_SUBJECT
        assert len(fields["subject"].split()) <= MAX_WORDS
        assert fields["message"] == fields["subject"]
        template = PHRASINGS[fields["op"]][fields["phrasing"]]
        slots = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        assert set(slots) <= {"function", "old", "new", "name", "value", "kind", "error", "what"}


def test_a_subject_can_be_read_off_its_diff(rows: list[Row]) -> None:
    """What a phrasing takes from the edit stands in the lines of the diff."""
    telling = ("rename_", "extract_", "remove_", "change_", "add_default", "add_none", "fix_comp")
    for row in rows:
        fields = row.fields
        if fields["op"].startswith(telling):
            template = PHRASINGS[fields["op"]][fields["phrasing"]]
            plain = set(re.findall(r"\w+", template))
            words = set(re.findall(r"\w+", fields["subject"])) - plain
            assert words <= set(re.findall(r"\w+", fields["diff"])), fields["subject"]


def test_one_kind_does_not_crowd_out_the_others(rows: list[Row]) -> None:
    counts = Counter(row.fields["op"] for row in rows)
    assert counts.most_common(1)[0][1] < 0.15 * len(rows)
    phrasings = Counter(row.fields["phrasing"] for row in rows)
    assert phrasings[0] > phrasings[1] > 0
    assert phrasings[2] > 0


def test_what_claims_to_keep_behaviour_is_run(
    subjects: list[Subject], sandbox: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator that lies makes no rows."""

    def breaks(material: Material) -> Change:
        node = material.node
        node.body = ast.parse("return 'broken'").body
        return Change(material.part.function, ast.unparse(node), {"old": "a", "new": "b"})

    def keeps(material: Material) -> Change:
        return Change(material.part.function, f"X = 1\n{material.part.function}", {"old": "a"})

    from astor_rl.data.mining import commit_rows as module

    for claim, operator, expected in (
        ("same", breaks, False),
        ("same", keeps, True),
        ("differs", breaks, True),
        ("differs", keeps, False),
        ("loads", breaks, True),
    ):
        monkeypatch.setattr(module, "OPERATORS", {"fix_negate": (operator, claim)})
        found = list(commit_rows(subjects[:5], sandbox, per_unit=3, seed=0, progress=silent))
        assert bool(found) == expected, (claim, operator)


@pytest.mark.parametrize(
    ("op", "source", "removed", "added"),
    [
        ("rename_parameter", "def f(a):\n    return a\n", "def f(a):", "def f("),
        (
            "add_docstring",
            "def f(a):\n    'Return the a.  X.'\n    return a\n",
            "",
            '    """Return the a.',
        ),
        ("extract_constant", "def f(a):\n    return a + 37\n", "    return a + 37", "F_LIMIT = 37"),
        ("extract_variable", "def f(a):\n    return a + 1\n", "return a + 1", "result = a + 1"),
        ("inline_variable", "def f(a):\n    return a + 1\n", "result = a + 1", "return a + 1"),
        (
            "comprehension_to_loop",
            "def f(a):\n    return [x for x in a if x]\n",
            "return [x for x in a if x]",
            "result.append(x)",
        ),
        (
            "drop_else_after_return",
            "def f(a):\n    if a:\n        return 1\n    return 2\n",
            "    else:",
            "    return 2",
        ),
        (
            "invert_condition",
            "def f(a):\n    if a == 1:\n        b = 1\n    else:\n        b = 2\n    return b\n",
            "a == 1",
            "a != 1",
        ),
        (
            "use_augmented_assignment",
            "def f(a):\n    a += 1\n    return a\n",
            "a = a + 1",
            "a += 1",
        ),
        ("use_is_none", "def f(a):\n    return a is None\n", "a == None", "a is None"),
        ("add_cache", "def f(a):\n    return a\n", "", "@functools.lru_cache"),
        ("keyword_only", "def f(a, b=1):\n    return a\n", "def f(a, b=1)", "def f(a, *, b=1)"),
        (
            "merge_nested_if",
            "def f(a):\n    if a and a > 1:\n        return 1\n    return 2\n",
            "    if a:",
            "if a and a > 1:",
        ),
        ("add_default", "def f(a):\n    return a\n", "def f(a):", "def f(a=1):"),
        ("change_default", "def f(a, b=5):\n    return a\n", "b=5", "def f(a, b="),
        ("add_guard", "def f(a):\n    return a + 1\n", "", "if not a:"),
        ("add_none_check", "def f(a):\n    return a\n", "", "raise ValueError"),
        ("add_type_check", "def f(a):\n    return a\n", "", "isinstance(a, int)"),
        ("add_type_hints", "def f(a):\n    return a\n", "def f(a)", "def f(a: int) -> int"),
        ("remove_debug_print", "def f(a):\n    return a\n", "print(", ""),
        ("fix_compare", "def f(a):\n    return a < 3\n", "a <= 3", "a < 3"),
        ("fix_range", "def f(a):\n    return list(range(a))\n", "range(a ", "range(a)"),
    ],
)
def test_operators_do_what_they_are_called(
    op: str, source: str, removed: str, added: str, subjects: list[Subject]
) -> None:
    change = edit(op, source)
    assert change is not None
    lines = unified(subjects[0], change).splitlines()[4:]
    minus = "\n".join(line for line in lines if line.startswith("-"))
    plus = "\n".join(line for line in lines if line.startswith("+"))
    assert removed in minus
    assert added in plus
    if not removed:
        assert minus == ""
    if not added:
        assert plus == ""


def test_operators_decline_what_they_cannot_change() -> None:
    """Of an empty function only its name, what stands around it, and an added line can change."""
    changes = {op: edit(op, "def f(*a):\n    pass\n") for op in OPERATORS}
    done = {op: change for op, change in changes.items() if change is not None}
    assert set(done) == {
        "add_cache",
        "add_deprecation",
        "add_docstring",
        "add_type_hints",
        "remove_unused_variable",
        "rename_function",
    }
    for change in done.values():
        assert change.before != change.after
        ast.parse(change.before)
        ast.parse(change.after)


def test_the_hunk_stands_where_the_function_does(subjects: list[Subject]) -> None:
    change = edit("add_none_check", "def f(a):\n    return a\n")
    assert change is not None
    subject = subjects[0]
    header = unified(subject, change).splitlines()[3]
    assert header == f"@@ -{subject.slice.line},2 +{subject.slice.line},4 @@"


def test_it_repeats_itself(subjects: list[Subject], sandbox: ProcessPool) -> None:
    first, again = (
        list(commit_rows(subjects[:8], sandbox, per_unit=4, seed=3, progress=silent))
        for _ in range(2)
    )
    assert first == again
