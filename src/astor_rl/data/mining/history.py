"""Commit-message rows from a repository's git history.

git only reads objects here: hooks, external diffs, text converters, signatures and lazy fetches,
through which a hostile repository's configuration could run programs, are switched off.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astor_rl.data.difficulty import estimate
from astor_rl.data.rows import Row
from astor_rl.errors import DataError

MAX_COMMITS_READ = 4000
_TIMEOUT_S = 120
_DIFF_CHARS = (120, 4000)
_SUBJECT_WORDS = (3, 18)
_SUBJECT_CHARS = (15, 90)
_MAX_FILES = 5

_SAFE = (
    "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "log.showSignature=false",
    "-c", "diff.external=", "-c", "core.attributesFile=/dev/null", "-c", "protocol.allow=never",
)  # fmt: skip
_LOG = (
    "log", "--no-merges", "--min-parents=1", "--no-color", "--no-ext-diff", "--no-textconv",
    "--no-renames", "--no-show-signature", "--date=short",
)  # fmt: skip
_GENERIC = re.compile(
    r"^(bump|merge|revert|release|version|typos?|lint|wip|update changelog|changelog|review|"
    r"fixup|squash|cleanup|clean up|pre-commit|\[pre-commit|prepare|v?\d+\.\d+)\b|"
    r"\b(typos?|review comments?|feedback|changelog)$",
    re.IGNORECASE,
)
_BOT = re.compile(r"\[bot\]|\bbot@|dependabot|renovate|pre-commit-ci|github-actions", re.IGNORECASE)
_ASSISTED = re.compile(
    r"^(co-authored-by|generated|assisted)\b.*\b(copilot|claude|cursor|gpt|gemini|codex|aider|ai)\b",
    re.IGNORECASE | re.MULTILINE,
)
_TRAILER = re.compile(
    r"^([A-Z][\w-]+-by|Change-Id|Cc|See-also|Reported|Link|Fixes|Closes): .*$", re.M
)
# Bounded, as a message is anybody's: thousands of blanks would take hours otherwise.
_ISSUE = re.compile(
    r"\s{0,9}\(?(fix(es|ed)?|close[sd]?|resolve[sd]?|refs?|see|gh|issue)?[\s:-]{0,9}#\d+\)?\.?",
    re.IGNORECASE,
)
_EMAIL = re.compile(r"<?[\w.+-]{1,64}@[\w-]{1,63}\.[\w.]+>?")
_CONVENTIONAL = re.compile(r"^\w+(\([^)]*\))?!?: ")
_UNWANTED = re.compile(
    r"(^|/)(_?vendor(ed)?|third_party|node_modules|dist)/|\.(lock|min\.js|svg|po|ipynb)$|lock\.json$"
)


@dataclass(frozen=True, slots=True)
class _Commit:
    sha: str
    date: str
    subject: str
    body: str
    files: tuple[str, ...]


def has_history(folder: Path) -> bool:
    """Whether the folder is the top of a git work tree or a bare repository."""
    return (folder / ".git").exists() or (folder / "HEAD").is_file()


def head_commit(folder: Path) -> str:
    """The id of the commit that is checked out; empty in a repository without commits."""
    return _git(folder, "rev-parse", "--verify", "--quiet", "HEAD", allow_failure=True).strip()


def history_rows(folder: Path, *, name: str, limit: int) -> list[Row]:
    """Up to `limit` commits whose message says what their diff shows.

    The filters are those of the project's real data: one parent, one to five files of which one
    is Python, no bots, no assistants' trailers, no vendored or lock files, a whole diff of 120 to
    4,000 characters, a subject of 3 to 18 words that isn't generic. Issue numbers, trailers,
    e-mail addresses and the author's name are removed. Messages with a body come first, then the
    newest; subjects and changed lines are unique.

    Args:
        folder: top of the repository.
        name: what to call it in the rows.
        limit: how many rows at most.

    Raises:
        DataError: git is missing, or refuses the repository.
    """
    if not head_commit(folder):
        return []
    wanted = sorted(_candidates(folder), key=lambda commit: not commit.body)[: 3 * limit]
    rows: list[Row] = []
    subjects: set[str] = set()
    changes: set[str] = set()
    for commit, diff in zip(wanted, _diffs(folder, wanted), strict=True):
        changed = "\n".join(
            line for line in diff.splitlines() if re.match(r"[+-](?![+-]{2} )", line)
        )
        if not _fits(diff) or commit.subject.lower() in subjects or changed in changes:
            continue
        subjects.add(commit.subject.lower())
        changes.add(changed)
        rows.append(_row(commit, diff, name))
        if len(rows) == limit:
            break
    return rows


def _git(folder: Path, *arguments: str, stdin: str = "", allow_failure: bool = False) -> str:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.environ.get("HOME", "/"),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
    }
    command = ["git", "--no-pager", *_SAFE, "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, input=stdin.encode(), capture_output=True, timeout=_TIMEOUT_S,
            env=environment, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise DataError(f"git isn't installed; it is needed to read {folder}'s history") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"git took more than {_TIMEOUT_S} s on {folder}'s history") from None
    if done.returncode and not allow_failure:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise DataError(f"git can't read {folder}'s history: {lines[0]}")
    return done.stdout.decode("utf-8", "replace")


def _candidates(folder: Path) -> Iterator[_Commit]:
    # Nothing that a message can say ends it early: the marks are new each time.
    start, end = secrets.token_hex(8), secrets.token_hex(8)
    form = f"--format=tformat:{start}%n%H%n%an%n%ae%n%ad%n%B{end}"
    text = _git(folder, *_LOG, f"--max-count={MAX_COMMITS_READ}", form, "--numstat")
    for chunk in text.split(f"{start}\n")[1:]:
        head, _, files = chunk.partition(end)
        yield from _commit(head, files)


def _commit(head: str, files: str) -> Iterator[_Commit]:
    sha, author, email, date, *message = head.split("\n")
    stats = [line.split("\t") for line in files.strip().splitlines() if line.count("\t") == 2]
    paths = tuple(path for _, _, path in stats)
    if any(added == "-" for added, _, _ in stats) or not 1 <= len(paths) <= _MAX_FILES:
        return
    if any(_UNWANTED.search(path) for path in paths) or not any(p.endswith(".py") for p in paths):
        return
    whole = "\n".join(message)
    if _BOT.search(f"{author} {email}") or _ASSISTED.search(whole):
        return
    subject, body = _cleaned(whole, author)
    words = len(subject.split())
    if not (
        _SUBJECT_WORDS[0] <= words <= _SUBJECT_WORDS[1]
        and _SUBJECT_CHARS[0] <= len(subject) <= _SUBJECT_CHARS[1]
    ):
        return
    if _GENERIC.search(_CONVENTIONAL.sub("", subject)) or not _is_plain(subject + body):
        return
    yield _Commit(sha, date, subject, body, paths)


def _cleaned(message: str, author: str) -> tuple[str, str]:
    """Subject and body without trailers, issue numbers, addresses and the author's name."""
    text = _EMAIL.sub("", _TRAILER.sub("", message))
    if len(author) > 3:
        text = text.replace(author, "")
    lines = [_ISSUE.sub("", line).rstrip() for line in text.strip().splitlines()]
    subject = " ".join(lines[0].split()) if lines else ""
    return subject, "\n".join(lines[1:]).strip()


def _is_plain(text: str) -> bool:
    return sum(character.isascii() for character in text) >= 0.97 * len(text)


def _diffs(folder: Path, commits: Sequence[_Commit]) -> list[str]:
    if not commits:
        return []
    mark = secrets.token_hex(8)
    text = _git(
        folder, *_LOG, "--no-walk=unsorted", "--stdin", "--patch", "--unified=3",
        "--src-prefix=a/", "--dst-prefix=b/", "--diff-algorithm=myers", f"--format=tformat:{mark}",
        stdin="".join(f"{commit.sha}\n" for commit in commits),
    )  # fmt: skip
    parts = text.split(f"{mark}\n")[1:]
    return [re.sub(r"^index [0-9a-f.]+.*\n", "", part.strip("\n"), flags=re.M) for part in parts]


def _fits(diff: str) -> bool:
    return _DIFF_CHARS[0] <= len(diff) <= _DIFF_CHARS[1] and _is_plain(diff)


def _row(commit: _Commit, diff: str, name: str) -> Row:
    identity = f"{name}@{commit.sha[:12]}"
    fields: dict[str, Any] = {
        "id": identity,
        "source": f"mine:{name}",
        "repo": name,
        "sha": commit.sha,
        "date": commit.date,
        "files": list(commit.files),
        "diff": diff + "\n",
        "subject": commit.subject,
        "body": commit.body,
        "message": f"{commit.subject}\n\n{commit.body}" if commit.body else commit.subject,
        "op": "history",
        "phrasing": 0,
    }
    fields["difficulty"] = estimate("commit_message", fields)
    return Row(fields, f"mine:{identity}", identity)
