"""Errors as one line and an exit code; what is ours leaves its traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from astor_rl.errors import ConfigError, DataError
from astor_rl.report.failures import FAILED, USAGE, Failure, failure


def test_ours_say_what_they_say_and_only_a_wrong_configuration_is_wrong_usage() -> None:
    assert failure(DataError("a\n  b")) == Failure("a b", FAILED)
    assert failure(ConfigError("seed = 'x'")) == Failure("seed = 'x'", USAGE)


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert failure(missing).line == "package 'torch' is missing; pip install 'astor-rl[local]'"
    assert failure(missing, shown=True).line.startswith("unexpected ModuleNotFoundError: ")


def test_the_traceback_is_kept_in_the_folder_or_where_one_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ZeroDivisionError("oh\nno")
    kept = tmp_path / "crash.txt"
    said = f"unexpected ZeroDivisionError: oh no (traceback in {kept})"
    assert failure(error, folder=tmp_path) == Failure(said, FAILED)
    assert "ZeroDivisionError" in kept.read_text()
    kept.unlink()
    kept.mkdir()  # it can't be written there
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    line = failure(error, folder=tmp_path).line
    (elsewhere,) = tmp_path.glob("astor-*.txt")
    assert line.endswith(f"(traceback in {elsewhere})")


def test_what_was_shown_is_not_kept(tmp_path: Path) -> None:
    assert failure(ZeroDivisionError("oh"), folder=tmp_path, shown=True) == Failure(
        "unexpected ZeroDivisionError: oh", FAILED
    )
    assert not list(tmp_path.iterdir())
