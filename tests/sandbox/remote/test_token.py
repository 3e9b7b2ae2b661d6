from __future__ import annotations

from pathlib import Path

import pytest

from astor_rl.errors import SandboxError
from astor_rl.sandbox.remote.token import VARIABLE, read_token

SECRET = "0123456789abcdef"


def test_a_file_counts_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_token(None) == ""
    monkeypatch.setenv(VARIABLE, SECRET[::-1])
    assert read_token(None) == SECRET[::-1]
    (tmp_path / "token").write_text(f" {SECRET}\n")
    assert read_token(str(tmp_path / "token")) == SECRET


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="gone' can't be read"):
        read_token(str(tmp_path / "gone"))
    (tmp_path / "token").write_bytes(b"\xff" * 20)
    with pytest.raises(SandboxError, match="can't be read"):
        read_token(str(tmp_path / "token"))


@pytest.mark.parametrize(
    "text", ["", "short", SECRET[:15], "x" * 513, f"{SECRET} 1", f"{SECRET}\n1"]
)
def test_what_is_no_token_is_not_repeated(text: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(SandboxError, match="token file") as caught:
        read_token(str(tmp_path / "token"))
    assert not text or text not in str(caught.value)
