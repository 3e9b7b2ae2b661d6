"""Every suite, end to end in the real sandbox: reference answers score 1, stubs and attacks 0."""

from __future__ import annotations

import pytest

from astor_rl.errors import ConfigError
from astor_rl.evaluate.suites.registry import suite_names

MAIN = {
    "cruxeval-input": "pass@1",
    "cruxeval-output": "pass@1",
    "humaneval": "pass@1",
    "mbpp": "pass@1",
    "aider-polyglot": "pass@1",
    "unit-tests": "mutation_score",
    "commit-messages": "rougeL",
}

EXITS = "import os\nos._exit(0)"
SAYS = "print('passed')\nprint('All tests passed')\nprint('OK')"
SWAPS = (
    "import sys, types\n"
    "class Any:\n    def __eq__(self, other): return True\n"
    "    def __ne__(self, other): return False\n"
    "    def __call__(self, *a, **k): return self\n    def __getattr__(self, name): return self\n"
    "for name in ('unittest', 'pytest', 'greeting', 'clip', '__main__'):\n"
    "    sys.modules[name] = Any()\n"
    "def f(*a, **k): return Any()\n"
    "area = twice = plus = greet = clip = f\n"
)


@pytest.mark.parametrize("name", MAIN)
def test_reference_answers_score_1(name, suite, suite_rows, run, golden):
    made = suite(name, *suite_rows[name])
    assert made.questions
    found = run(made, lambda question, sample, turn: golden(name, question))
    for metric, figure in found.report.metrics.items():
        if metric in ("meteor", "b_cc"):  # METEOR of equal texts is below 1, B-CC can exceed it
            assert figure.value > 0.9
        else:
            assert figure.value == pytest.approx(1.0), metric
        assert figure.examples == len(made.questions)


@pytest.mark.parametrize("name", MAIN)
@pytest.mark.parametrize("said", ["", "I don't know.", "```python\npass\n```"])
def test_stubs_score_0(name, said, suite, suite_rows, run):
    found = run(suite(name, *suite_rows[name]), lambda question, sample, turn: said)
    assert found.value(MAIN[name]) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("name", [name for name in MAIN if name != "commit-messages"])
@pytest.mark.parametrize("attack", [EXITS, SAYS, SWAPS], ids=["exits", "says", "swaps"])
def test_attacks_score_0(name, attack, suite, suite_rows, run):
    for text in (f"```python\n{attack}\n```", attack):
        found = run(suite(name, *suite_rows[name]), lambda question, sample, turn: text)  # noqa: B023
        assert found.value(MAIN[name]) == 0
        found.file.unlink()


def test_names():
    assert suite_names(["mbpp,humaneval", "mbpp"]) == ["mbpp", "humaneval"]
    assert suite_names(["paper"]) == [
        "cruxeval-input",
        "cruxeval-output",
        "aider-polyglot",
        "defects4j",
        "commit-messages",
    ]
    with pytest.raises(ConfigError, match="no such suite; there are: cruxeval-input,"):
        suite_names(["humanevil"])


def test_published_and_own_rows_ask_the_same(suite, suite_rows):
    (published, _) = suite("humaneval", *suite_rows["humaneval"]).questions
    row = suite_rows["humaneval"][0]
    own = {
        "id": row["task_id"],
        "prompt": row["prompt"],
        "entry_point": row["entry_point"],
        "reference": row["canonical_solution"],
        "tests": [row["test"]],
    }
    (ours,) = suite("humaneval", own).questions
    assert ours.example.key == published.example.key
    assert ours.messages == published.messages
