"""Shortening a diff for a prompt: whole hunks, in order, until the budget is spent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Hunk:
    header: str  # the file's header lines; shown once, before its first kept hunk
    text: str


def shorten_diff(diff: str, max_chars: int) -> tuple[str, str]:
    """The diff in at most `max_chars` characters, and a note saying what was left out.

    Hunks are kept whole, in order; one that no longer fits is skipped and smaller ones after it
    may still fit, so that more of the change is seen. When not even one hunk fits, the first is
    cut after a whole line. The note is empty when nothing was left out.

    Args:
        diff: a unified diff; a text without hunk headers counts as one hunk.
        max_chars: budget in characters, > 0; file headers count, the note doesn't.
    """
    diff = diff.strip("\n")
    if len(diff) <= max_chars:
        return diff, ""
    hunks = list(_hunks(diff))
    parts: list[str] = []
    room, kept, shown = max_chars, 0, ""
    for hunk in hunks:
        part = hunk.text if hunk.header == shown else hunk.header + hunk.text
        if len(part) <= room:
            parts.append(part)
            room -= len(part)
            kept += 1
            shown = hunk.header
    if kept:
        return "".join(parts).strip("\n"), f"{len(hunks) - kept} of {len(hunks)} hunks left out"
    return _first_lines(diff, max_chars), "cut: the rest of the diff is left out"


def _hunks(diff: str) -> Iterator[_Hunk]:
    header: list[str] = []
    body: list[str] = []
    in_header = True
    for line in diff.splitlines(keepends=True):
        new_file = line.startswith("diff --git ")
        if (new_file or line.startswith("@@ ")) and body:
            yield _Hunk("".join(header), "".join(body))
            body = []
        if new_file:
            if in_header and header:  # a file without hunks: a rename, a mode change
                yield _Hunk("".join(header), "")
            header, in_header = [line], True
        elif line.startswith("@@ ") or not (in_header and header):
            in_header = False
            body.append(line)
        else:
            header.append(line)
    if header or body:
        yield _Hunk("".join(header), "".join(body))


def _first_lines(diff: str, max_chars: int) -> str:
    kept = diff[: max_chars + 1].rpartition("\n")[0]
    return kept or diff[:max_chars]
