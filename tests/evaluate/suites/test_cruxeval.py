"""CRUXEval's reading and judging: the harness's, but for what cheats."""

from __future__ import annotations

import asyncio

import pytest

from astor_rl.data.rows import Row
from astor_rl.evaluate.suites.base import Answer
from astor_rl.evaluate.suites.cruxeval import CruxEvalSuite, read_side

SHOUT = {"code": "def f(s):\n    return s + 'na'", "input": "'bana'", "output": "'banana'"}
APPLY = {"code": "def f(g):\n    return max(g(3), 4)", "input": "lambda v: v", "output": "4"}


def outcomes(pool, side: str, row: dict[str, str], *texts: str) -> list[float]:
    suite = CruxEvalSuite(side, [Row(row, "rows:1", "1")], pool)
    answers = [Answer(suite.questions[0], text) for text in texts]
    return [verdict.outcome for verdict in asyncio.run(suite.judge(answers))]


@pytest.mark.parametrize(
    ("text", "output", "input"),
    [
        ("assert f(1) == 2", "2", "f(1)"),
        ("thus\n[ANSWER]\nassert f(1) == 2\n[/ANSWER] and more == 3", "2", "f(1)"),
        ("assert f('a==b') == 'c==d'", "'c==d'", "f('a==b')"),
        ("2", "2", "2"),
        ("f(1)", "f(1)", "f(1)"),
        ("assert f(1) == 2 and so", "2 and so", "f(1)"),
        ("assert f(1) ==", "", "f(1)"),
        ("[ANSWER]", "", ""),
        ("assert f(1) == 2\nassert f(3) == 4", "2\nassert f(3)", "f(1)"),
    ],
)
def test_the_asked_side_is_read(text, output, input):
    assert read_side(text, "output") == output
    assert read_side(text, "input") == input


def test_outputs_may_be_expressions_and_equal_as_python_has_it(pool):
    right = ["'banana'", '"ba" + "na" * 2', "assert f('bana') == 'banana'  # sure"]
    wrong = [
        "f('bana')",
        "f( 'bana')",
        "'bana' + 'nan'",
        "open('/etc/passwd').read()",
        "__import__('os')._exit(0)",
        "type('X', (), {'__eq__': lambda s, o: True})()",
        "'banana",
        "",
    ]
    assert outcomes(pool, "output", SHOUT, *right) == [1] * len(right)
    assert outcomes(pool, "output", SHOUT, *wrong) == [0] * len(wrong)
    row = {"code": "def f():\n    return 1", "input": "", "output": "1"}
    assert outcomes(pool, "output", row, "True", "1.0", "2 - 1") == [1, 1, 1]


def test_inputs_are_calls_whose_arguments_only_have_values(pool):
    right = ["f('bana')", "assert f('ba' + 'na') == 'banana'", "f(s='bana')", "f(''.join('bana'))"]
    wrong = [
        "f('ba')",
        "f(1) or 'banana'",
        "'banana' if 'f(' else 0",
        "f('x')[0:0] + 'banana'",
        "g('bana')",
        "f(globals().update(f=1) or 'bana')",
        "f((s := 'bana'))",
        "f(*[(x for x in [1]).gi_frame])",
        "f(''.__class__('bana'))",
        "f([globals() for globals in [1]])",
        "f(open('/etc/passwd'))",
        "f(exit(0))",
        "f(type('X', (str,), {'__add__': lambda s, o: 'banana'})())",
        "f('bana'); f('bana')",
    ]
    assert outcomes(pool, "input", SHOUT, *right) == [1] * len(right)
    assert outcomes(pool, "input", SHOUT, *wrong) == [0] * len(wrong)


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize(
    "odd", ["0x" + "f" * 4500, "-" * 700 + "1", "1" + "**1" * 2000, "lambda: " * 900 + "1"]
)
def test_an_answer_that_breaks_its_reading_has_failed(pool, side, odd):
    # As `Invalid` it would count nowhere: a way to be asked the easy questions only.
    text = f"assert f({odd if side == 'input' else 1}) == {odd}"
    assert outcomes(pool, side, SHOUT, text) == [0]


def test_arguments_may_be_functions(pool):
    texts = ["f(lambda v: v)", "f(lambda x: x + 1)", "f(abs)", "f(lambda v: 5)"]
    assert outcomes(pool, "input", APPLY, *texts) == [1, 1, 1, 0]


def test_the_rows_own_arguments_may_use_its_names(pool):
    row = {"code": "BASE = [1]\ndef f(xs):\n    return len(xs)", "input": "BASE", "output": "1"}
    assert outcomes(pool, "input", row, "f(BASE)", "f(BASE * 2)") == [1, 0]


def test_prompts_hold_what_is_known_and_not_what_is_asked(pool):
    for side, known, asked in (("input", "'banana'", "'bana'"), ("output", "'bana'", "'banana'")):
        suite = CruxEvalSuite(side, [Row(SHOUT, "rows:1", "1")], pool)
        text = suite.questions[0].messages[0]["content"].rpartition("[PYTHON]")[2]
        assert known in text
        assert f"({asked})" not in text
        assert f"== {asked}" not in text
