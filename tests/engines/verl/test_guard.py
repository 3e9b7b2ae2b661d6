from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from astor_rl.engines.verl.guard import VERL, require_verl
from astor_rl.errors import DependencyError


def installed(**versions: str):
    def version_of(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return version_of


def test_the_right_version_is_let_through():
    require_verl(installed(verl=VERL, TransferQueue="0.1.11"))


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({}, "needs package 'verl' 0.9.1"),
        ({"verl": "0.8.0", "TransferQueue": "0.1.11"}, "verl is 0.8.0; .* pip install verl==0.9.1"),
        ({"verl": VERL}, "needs package 'TransferQueue'"),
    ],
)
def test_anything_else_is_one_line(versions: dict[str, str], says: str):
    with pytest.raises(DependencyError, match=says) as caught:
        require_verl(installed(**versions))
    assert "\n" not in str(caught.value)
