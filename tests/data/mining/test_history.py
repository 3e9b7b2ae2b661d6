from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from astor_rl.data.mining.history import head_commit, history_rows
from astor_rl.errors import DataError

Commit = Callable[..., None]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    return folder


def git(folder: Path, *arguments: str, **variables: str) -> str:
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (
            ("NAME", "Ada Example"), ("EMAIL", "ada@example.org"),
            ("DATE", "2024-05-06T07:08:09+00:00"),
        )
    }  # fmt: skip
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env={**keep, "GIT_CONFIG_GLOBAL": "/dev/null", **who, **variables},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def commit(repo: Path) -> Commit:
    def commit(message: str, number: int = 0, path: str = "pkg.py", **variables: str) -> None:
        target = repo / path
        target.parent.mkdir(parents=True, exist_ok=True)
        body = f"    limit = {number}\n    return value * limit + {number}\n"
        target.write_text(f"def scale(value):\n    # about {number} of them\n{body}\n\nX = 1\n")
        git(repo, "add", "-A")
        git(repo, "commit", "-q", "--allow-empty", "-m", message, **variables)

    return commit


def subjects(repo: Path) -> list[str]:
    return [row.fields["subject"] for row in history_rows(repo, name="r", limit=100)]


def test_a_commit_becomes_a_row(repo: Path, commit: Commit) -> None:
    commit("Add the scale function")
    commit("Raise the scaling limit to seven\n\nThree was not enough.\n\nSigned-off-by: Ada", 7)
    (row,) = history_rows(repo, name="r", limit=10)
    sha = head_commit(repo)
    assert row.unit == f"r@{sha[:12]}"
    assert row.fields["sha"] == sha
    assert row.fields["subject"] == "Raise the scaling limit to seven"
    assert row.fields["body"] == "Three was not enough."
    assert row.fields["message"] == "Raise the scaling limit to seven\n\nThree was not enough."
    assert row.fields["files"] == ["pkg.py"]
    assert row.fields["date"] == "2024-05-06"
    diff = row.fields["diff"]
    assert diff.startswith("diff --git a/pkg.py b/pkg.py\n--- a/pkg.py\n+++ b/pkg.py\n@@ ")
    assert "index " not in diff
    assert "+    limit = 7\n" in diff
    assert 0 < row.difficulty < 1


@pytest.mark.parametrize(
    "message",
    [
        "Bump version to 1.2.3 now",
        "fix",
        "Fix a typo",
        "Merge branch 'x' into the main one",
        "word " * 30,
        "Änderung der Größe über alles",
        "Handle the limit better\n\nCo-authored-by: Claude <noreply@example.org>",
        "Address the review comments",
    ],
)
def test_uninformative_commits_are_left_out(repo: Path, commit: Commit, message: str) -> None:
    commit("Add the scale function")
    commit(message, 3)
    assert subjects(repo) == []


def test_bots_other_files_and_large_changes_are_left_out(repo: Path, commit: Commit) -> None:
    commit("Add the scale function")
    commit("Change the limit by a robot", 1, GIT_AUTHOR_NAME="dependabot[bot]")
    commit("Describe the limit in prose", 2, path="notes.md")
    commit("Update what others wrote here", 3, path="vendor/pkg.py")
    (repo / "big.py").write_text("x = 1\n" * 3000)
    commit("Add a very large generated file", 4)
    (repo / "blob.py").write_bytes(bytes(range(256)) * 20)
    commit("Add a binary with a wrong name", 5)
    for n in range(7):
        (repo / f"many{n}.py").write_text(f"x = {n}\n" * 5)
    commit("Touch far too many files", 6)
    assert subjects(repo) == []
    commit("Set the limit to nine at last", 9)
    assert subjects(repo) == ["Set the limit to nine at last"]


def test_numbers_names_and_addresses_are_removed(repo: Path, commit: Commit) -> None:
    commit("Add the scale function")
    commit("Set the limit to two (#123)\n\nFixes #99\nWith Ada Example, bob@example.org helped", 2)
    (row,) = history_rows(repo, name="r", limit=10)
    assert row.fields["subject"] == "Set the limit to two"
    assert "#" not in row.fields["message"]
    assert "@" not in row.fields["message"]
    assert "Ada" not in row.fields["message"]


@pytest.mark.parametrize("filler", [" ", "-", "a", "a."])
def test_a_message_is_cleaned_in_linear_time(repo: Path, commit: Commit, filler: str) -> None:
    """With powers of its length these would take hours and the run would hang."""
    commit("Add the scale function")
    commit(f"Set the limit to two\n\nx{filler * 50_000}y (see #12)", 2)
    (row,) = history_rows(repo, name="r", limit=10)
    assert row.fields["subject"] == "Set the limit to two"
    assert "#" not in row.fields["message"]


def test_subjects_and_changes_are_unique_and_bodies_first(repo: Path, commit: Commit) -> None:
    commit("Add the scale function")
    commit("Set the limit to two now", 2)
    commit("Set the limit to three now\n\nBecause two was too few.", 3)
    commit("Set the limit to two now", 2)
    assert subjects(repo) == ["Set the limit to three now", "Set the limit to two now"]
    assert len(history_rows(repo, name="r", limit=1)) == 1


def test_merges_are_left_out(repo: Path, commit: Commit) -> None:
    commit("Add the scale function")
    git(repo, "checkout", "-q", "-b", "side")
    commit("Add a file beside the others", 1, path="side.py")
    git(repo, "checkout", "-q", "main")
    commit("Set the limit to two now", 2)
    git(repo, "merge", "-q", "--no-ff", "-m", "Take over the work of the side", "side")
    assert set(subjects(repo)) == {"Add a file beside the others", "Set the limit to two now"}


def test_a_hostile_configuration_runs_nothing(repo: Path, commit: Commit, tmp_path: Path) -> None:
    commit("Add the scale function")
    commit("Set the limit to two now", 2)
    script = tmp_path / "evil.sh"
    flag = tmp_path / "flag"
    script.write_text(f'#!/bin/sh\ntouch {flag}\ncat "$1" 2>/dev/null\n')
    script.chmod(0o755)
    for key in (
        "diff.external", "core.fsmonitor", "diff.evil.textconv", "diff.evil.command",
        "core.pager", "pager.log", "gpg.program", "core.sshCommand", "core.editor",
    ):  # fmt: skip
        git(repo, "config", key, str(script))
    git(repo, "config", "log.showSignature", "true")
    git(repo, "config", "alias.log", f"!{script}")
    (repo / ".git" / "info" / "attributes").write_text("*.py diff=evil\n")
    hooks = repo / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "pre-commit", "reference-transaction"):
        (hooks / name).write_text(script.read_text())
        (hooks / name).chmod(0o755)
    assert subjects(repo) == ["Set the limit to two now"]
    assert not flag.exists()


def test_what_git_cannot_read(tmp_path: Path, repo: Path) -> None:
    assert history_rows(repo, name="r", limit=5) == []  # no commit yet
    broken = tmp_path / "broken"
    (broken / ".git").mkdir(parents=True)
    assert history_rows(broken, name="r", limit=5) == []


def test_git_is_missing(repo: Path, commit: Commit, monkeypatch: pytest.MonkeyPatch) -> None:
    commit("Add the scale function")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataError, match="git isn't installed"):
        history_rows(repo, name="r", limit=5)
