from __future__ import annotations

import gzip
import json

import pytest

from astor_rl.sandbox.api import Opaque
from astor_rl.tasks.checks import ReplayCheck, SplitCheck, TestShapeError, split_tests


def only(test, entry="f"):
    (check,) = split_tests([test], entry)
    return check


@pytest.mark.parametrize(
    ("test", "calls", "relation", "expected"),
    [
        ("assert f(1, k=[2]) == 3", ("f(1, k=[2])",), "==", 3),
        ("assert 3 == f(1)", ("f(1)",), "==", 3),
        ("assert f(1) != 3, 'message'", ("f(1)",), "!=", 3),
        ("assert f(f(1)) == 3", ("f(f(1))",), "==", 3),
        ("assert f(1) is None", ("f(1)",), "is", None),
        ("assert f(1) is not True", ("f(1)",), "is not", True),
        ("assert f(1)", ("f(1)",), "true", None),
        ("assert not f(1)", ("f(1)",), "false", None),
        ("assert set(f(1)) == set((1, 2))", ("set(f(1))",), "==", {1, 2}),
        ("assert tuple(f(1)) == tuple([1])", ("tuple(f(1))",), "==", (1,)),
    ],
)
def test_simple_asserts_become_a_call_and_a_relation(test, calls, relation, expected):
    check = only(test)
    assert isinstance(check, SplitCheck)
    assert (check.calls, check.relation, check.expected) == (calls, relation, expected)


@pytest.mark.parametrize(
    ("test", "calls", "verdict"),
    [
        ("assert abs(f(1) - 0.5) < 1e-6", ("f(1)",), "abs(_0 - 0.5) < 1e-06"),
        ("assert math.isclose(f(1), 0.5)", ("f(1)",), "math.isclose(_0, 0.5)"),
        ("assert 3 in f(1)", ("f(1)",), "3 in _0"),
        ("assert f(1) in (1, 2)", ("f(1)",), "_0 in (1, 2)"),
        ("assert f(1) == f(2)", ("f(1)", "f(2)"), "_0 == _1"),
        ("assert f(1) == 2 and not f(2)", ("f(1)", "f(2)"), "_0 == 2 and (not _1)"),
        ("assert f(1) == 2 ** 3", ("f(1)",), "_0 == 2 ** 3"),
        ("assert f(1)[0] == 2", ("f(1)",), "_0[0] == 2"),
        ("assert int(f(1)) == 2", ("f(1)",), "int(_0) == 2"),
        ("assert 1 < f(1) < 3", ("f(1)",), "1 < _0 < 3"),
        ("assert f(1) is 3", ("f(1)",), "_0 is 3"),
        ("assert f(1) is (not f(2))", ("f(1)", "f(2)"), "_0 is (not _1)"),
    ],
)
def test_other_asserts_leave_a_verdict_to_be_judged_elsewhere(test, calls, verdict):
    check = only(test)
    assert isinstance(check, SplitCheck)
    assert (check.calls, check.relation, check.verdict) == (calls, "judge", verdict)


@pytest.mark.parametrize(
    "test",
    [
        "assert all(f(x) == x for x in [1, 2])",
        "assert [f(x) for x in (1,)] == [1]",
        "assert (lambda: f(1))() == 1",
        "assert sorted(map(f, [1])) == [2]",
        "assert (y := f(1)) == y",
        "x = 3\nassert f(x) == 3",
        "for x in (1, 2):\n    assert f(x) == x",
    ],
)
def test_what_cannot_be_cut_is_replayed(test):
    check = only(test)
    assert isinstance(check, ReplayCheck)
    assert check.source.startswith("def check(f):\n")
    compile(check.source, "check", "exec")


def test_a_humaneval_module_of_asserts_is_cut_with_its_candidate_renamed():
    module = (
        "METADATA = {'author': 'x'}\n"
        "def check(candidate):\n"
        "    'Docs'\n"
        "    assert candidate(1) == 2\n"
        "    assert True, 'always'\n"
        "    print\n"
        "    assert abs(candidate(2) - 3) < 1e-6\n"
        "check(f)\n"
    )
    checks = split_tests([module], "f")
    assert [check.text for check in checks] == [
        "assert f(1) == 2",
        "assert abs(f(2) - 3) < 1e-06",
    ]
    assert [check.calls for check in checks] == [("f(1)",), ("f(2)",)]


@pytest.mark.parametrize(
    "module",
    [
        "def check(candidate):\n    for n in (1, 2):\n        assert candidate(n) == n\ncheck(f)",
        "import math\ndef check(candidate):\n    assert candidate(math.pi) == 3\ncheck(f)",
    ],
)
def test_a_humaneval_module_that_does_more_is_replayed_without_its_own_call(module):
    check = only(module)
    assert isinstance(check, ReplayCheck)
    assert "check(f)" not in check.source


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("assert g(1) == 2", "never call 'f'"),
        ("x = 1", "never call 'f'"),
        ("assert True", "hold no assert"),
        ("assert f(", "isn't Python"),
    ],
)
def test_tests_that_say_nothing_of_the_entry_point_are_refused(test, words):
    with pytest.raises(TestShapeError, match=words):
        split_tests([test], "f")


@pytest.mark.parametrize(
    ("test", "right", "wrong"),
    [
        ("assert f() == 1", [1, 1.0, True], [2, "1", None]),
        ("assert f() == [1, (2,)]", [[1, (2,)]], [[1, [2]], (1, (2,)), [1]]),
        ("assert f() != 1", [2, None], [1, True]),
        ("assert f() is True", [True], [1, None]),
        ("assert f() is not None", [0, False], [None]),
        ("assert f()", [1, "x", [0]], [0, "", None]),
        ("assert not f()", [0, "", None], [1]),
    ],
)
def test_verdicts_are_the_asserts_own(test, right, wrong):
    check = only(test)
    assert all(check.holds(value) for value in right)
    assert not any(check.holds(value) for value in wrong)


@pytest.mark.parametrize(
    "test",
    ["f() == 1", "f() != 1", "f() is None", "f() is not None", "f()", "not f()"],
)
def test_what_is_not_a_plain_value_passes_nothing(test):
    check = only(f"assert {test}")
    assert not check.holds(Opaque("Anything", "<Anything>"))
    assert not check.holds([Opaque("Anything", "<Anything>")])


@pytest.mark.shared
def test_5391_of_5394_asserts_of_the_real_data_need_no_judging_of_their_expected_side(shared_data):
    """The rest compare with `sys.getsizeof(...)`; three more convert the call (`int(f(5, 3))`)."""
    total, judged = 0, []
    for name in ("train.mbpp", "heldout.mbpp_test", "train.thealgorithms"):
        with gzip.open(shared_data / f"code_generation.{name}.jsonl.gz", "rt") as lines:
            for row in map(json.loads, lines):
                for check in split_tests(row["tests"], row["entry_point"]):
                    assert isinstance(check, SplitCheck)
                    total += 1
                    if check.relation == "judge":
                        judged.append((row["id"], check.verdict))
    assert total == 5394
    assert [verdict[:8] for _, verdict in judged] == ["_0 == sy"] * 3 + ["int(_0) "] * 3
