from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.data.difficulty import estimate
from astor_rl.data.rows import TASK_KINDS

VALUES = st.one_of(
    st.none(), st.text(max_size=200), st.integers(), st.lists(st.text()),
    st.dictionaries(st.text(), st.text()),
)  # fmt: skip
NAMES = st.sampled_from(
    [
        "code",
        "input",
        "output",
        "prompt",
        "reference",
        "tests",
        "diff",
        "subject",
        "reference_tests",
    ]
)


@given(st.sampled_from([*TASK_KINDS, "own"]), st.dictionaries(NAMES, VALUES))
def test_it_is_a_share_whatever_the_row(kind: str, fields: dict[str, object]) -> None:
    assert 0 <= estimate(kind, fields) < 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("io_prediction", "code"),
        ("io_prediction", "input"),
        ("io_prediction", "output"),
        ("code_generation", "reference"),
        ("code_generation", "prompt"),
        ("unit_test_generation", "code"),
        ("unit_test_generation", "reference_tests"),
        ("commit_message", "diff"),
        ("commit_message", "subject"),
    ],
)
def test_more_is_harder(kind: str, name: str) -> None:
    sizes = [estimate(kind, {name: "x" * size}) for size in (0, 10, 100, 1000)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4


def test_branches_make_tests_harder() -> None:
    plain = "def f(a):\n    return a + a + a + a\n"
    branchy = "def f(a):\n    return a if a else 0\n\n\n"
    assert estimate("unit_test_generation", {"code": branchy}) > estimate(
        "unit_test_generation", {"code": plain}
    )
