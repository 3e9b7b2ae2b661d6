from __future__ import annotations

import pytest

from astor_rl.errors import DataError
from astor_rl.tasks.unit_test_generation import UnitTestGenerationTask

CODE = "def clip(n):\n    return n\n"
ROW = {
    "id": "clip",
    "module": "focal.py",
    "entry_point": "clip",
    "code": CODE,
    "reference_tests": "from focal import *\n\n\ndef test():\n    assert clip(3) == 3\n",
    "mutants": [],
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"module": "a/b.py"}, "'module' is 'a/b'"),
        ({"code": "def f(:"}, "'code' does not parse"),
        ({"code": ""}, "'code' does not parse"),
        ({"code": 3}, "'code' is int"),
        ({"buggy": "def f(:"}, "'buggy' does not parse"),
        ({"reference_tests": {"a": "assert 1", "b": "assert 1"}}, "has 2 files"),
        ({"reference_tests": "def test(): pass"}, "asserts nothing"),
        ({"reference_tests": None}, "'reference_tests' is NoneType"),
        ({"mutants": ["x"]}, r"'mutants\[0\]' has no text 'code'"),
        ({"mutants": {}}, "'mutants' is dict"),
        ({"support_files": {"a.py": 1}}, r"'support_files\['a.py'\]'"),
        ({"entry_point": 5}, "'entry_point' is int"),
    ],
)
def test_bad_rows_name_their_origin(changes, words):
    with pytest.raises(DataError, match=f"rows:7.*{words}"):
        UnitTestGenerationTask().example({**ROW, **changes}, origin="rows:7")


def test_a_mapping_of_one_test_file():
    task = UnitTestGenerationTask()
    one = task.example({**ROW, "reference_tests": {"x_test.py": "assert 1"}}, origin="r")
    other = task.example({**ROW, "reference_tests": "assert 1"}, origin="s", unit="u")
    assert one.key == other.key
    assert (one.unit, other.unit) == ("clip", "u")
