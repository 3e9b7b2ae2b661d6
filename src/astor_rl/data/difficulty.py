"""A cheap guess of how hard a row is, from sizes: for choosing and ordering, never for rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CODE_CHARS = 600
_OUTPUT_CHARS = 60
_DIFF_CHARS = 1500


def estimate(task_kind: str, fields: Mapping[str, Any]) -> float:
    """Difficulty of a row in [0, 1], rounded to 3 places.

    Each part is x / (x + typical x), so that it is 0.5 at the typical size and never saturates.

    Args:
        task_kind: a `TaskKind`; of other kinds the length of all text counts.
        fields: the row.
    """
    match task_kind:
        case "io_prediction":
            parts = [
                _part(_size(fields.get("code")), _CODE_CHARS / 2),
                _part(_size(fields.get("input")), _OUTPUT_CHARS / 2),
                2 * _part(_size(fields.get("output")), _OUTPUT_CHARS / 4),
            ]
            weights = [1, 1, 2]
        case "code_generation":
            wanted = _part(_size(fields.get("reference")), _CODE_CHARS / 4)
            parts = [2 * wanted, _part(_size(fields.get("prompt")), _CODE_CHARS)]
            weights = [2, 1]
        case "unit_test_generation":
            code = fields.get("code")
            parts = [
                _part(_size(code), _CODE_CHARS),
                _part(_branches(code), 3),
                _part(_size(fields.get("reference_tests")), _CODE_CHARS / 2),
            ]
            weights = [1, 1, 1]
        case "commit_message":
            message = fields.get("subject") or fields.get("message")
            parts = [_part(_size(fields.get("diff")), _DIFF_CHARS), _part(_size(message), 60)]
            weights = [1, 1]
        case _:
            parts, weights = [_part(sum(map(_size, fields.values())), 1000)], [1]
    return round(sum(parts) / sum(weights), 3)


def _size(whole: object) -> int:
    """Characters of text, or of all text inside."""
    if isinstance(whole, Mapping):
        whole = "".join(str(value) for value in whole.values())
    elif isinstance(whole, list | tuple):
        whole = "\n".join(map(str, whole))
    return len(str(whole or ""))


def _branches(code: object) -> int:
    words = str(code or "").split()
    return sum(words.count(word) for word in ("if", "elif", "for", "while", "except", "and", "or"))


def _part(size: float, typical: float) -> float:
    return size / (size + typical)
