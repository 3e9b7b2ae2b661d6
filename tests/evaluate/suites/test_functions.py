"""HumanEval's completions and MBPP's published rows."""

from __future__ import annotations

import pytest

from astor_rl.data.rows import Row
from astor_rl.errors import DataError
from astor_rl.evaluate.suites.functions import humaneval_rows, mbpp_rows, whole_function

ROW = {"prompt": 'def area(r):\n    """Area."""\n', "entry_point": "area"}
BODY = "    return 3 * r * r\n"


@pytest.mark.parametrize(
    "text",
    [
        BODY,
        f"```python\n{BODY}```",
        f"{BODY}\nprint(area(1))\n",
        f"{BODY}\ndef test():\n    assert area(0) == 0\n",
        f"{BODY}\n# Another function\nclass X:\n",
        f"Sure:\n```\n{BODY}```\nand\n```text\nx\n```",
    ],
)
def test_a_body_continues_the_prompt(text):
    assert whole_function(ROW, text) == f"```python\n{ROW['prompt']}{BODY}```"


@pytest.mark.parametrize(
    "text",
    [
        "def area(r):\n    return 1",
        "```python\ndef area(r):\n    return 1\n```\n```python\nprint(area(2))\n```",
        "",
        "    \n",
        "I don't know",
        "```java\nint x;\n```",
    ],
)
def test_other_answers_stay_as_they_are(text):
    assert whole_function(ROW, text) == text


def test_mbpp_rows_in_all_published_forms():
    published = {
        "task_id": 12,
        "text": "Add.",
        "code": "import re\ndef helper(): pass\ndef plus(a, b): return a + b",
        "test_list": ["assert plus(1, 2) == 3"],
        "test_setup_code": "X = 1",
    }
    sanitized = {
        "task_id": 12,
        "prompt": "Add.",
        "code": published["code"],
        "test_list": published["test_list"],
        "test_imports": ["import math"],
    }
    for fields, setup in ((published, "X = 1"), (sanitized, "import math")):
        (row,) = mbpp_rows([Row(fields, "o", "u")])
        assert row.fields["prompt"] == "Add."
        assert row.fields["entry_point"] == "plus"
        assert row.fields["setup"] == setup
        assert row.fields["signature"] == ""
    assert mbpp_rows([Row({**published, "task_id": n}, "o", "u") for n in (1, 10, 511, 974)]) == []
    with pytest.raises(DataError, match="o: no function of field 'code'"):
        mbpp_rows([Row({**published, "test_list": ["assert times(1)"]}, "o", "u")])


@pytest.mark.parametrize("imports", [5, "import re", [5]])
def test_mbpp_imports_are_checked(imports):
    fields = {"text": "", "code": "def f(): pass", "test_list": ["f()"], "test_imports": imports}
    with pytest.raises(DataError, match="o: field 'test_imports' must be a list of texts"):
        mbpp_rows([Row(fields, "o", "u")])


def test_mbpp_without_its_test_split_is_an_error(suite):
    with pytest.raises(DataError, match="no row of the test split"):
        suite("mbpp", {"task_id": 600, "text": "", "code": "", "test_list": []})


def test_humaneval_rows_keep_their_own_names_when_they_have_them():
    own = {"id": "x", "prompt": "p", "entry_point": "e", "reference": "r", "tests": ["t"]}
    assert humaneval_rows([Row(own, "o", "u")])[0].fields == own
