"""What pydantic finds wrong, as one line that names the key, its value and what would be right."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

Location = tuple[int | str, ...]

_ARMS = ("str", "list[", "constrained-str", "function-")
"""What pydantic calls the arms of a union in a location."""
_LISTED = 16
"""Most keys that a line lists where there is a page with all of them."""
_LONGEST = 80
"""Characters of a key's place, and of a value."""


def one_line(
    error: ValidationError,
    raw: Any,
    model: type[BaseModel],
    *,
    moved: Mapping[str, str] | None = None,
    page: str = "",
    known_as: str = "the keys there",
) -> str:
    """The first thing that is wrong, and how many others are.

    Args:
        error: of validating `raw`.
        raw: what was validated, as it was read; items of lists are called by their `name`.
        model: says which keys there are.
        moved: keys of other programs at the top level, and what to write here.
        page: where all keys are explained, named instead of a long list of them.
        known_as: how the list of known keys is introduced.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    where = _place(first["loc"], raw)
    others = {_place(problem["loc"], raw) for problem in problems} - {where}
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        hint = _did_you_mean(first["loc"], model, moved or {}, page, known_as)
        return f"unknown key {_cut(where)!r}{hint}{more}"
    if first["type"] in {"missing", "missing_argument"}:
        return f"{_cut(where)} is missing{more}"
    if not where or first["type"] == "value_error":  # such a message names its keys itself
        return f"{' '.join(first['msg'].removeprefix('Value error, ').split())}{more}"
    here = [problem["msg"] for problem in problems if _place(problem["loc"], raw) == where]
    return f"{_cut(where)} = {_shown(first['input'])}: {_wanted(here)}{more}"


def _cut(place: str) -> str:
    return place[:_LONGEST]


def _shown(value: Any) -> str:
    if isinstance(value, dict | list) and value:
        return "a table" if isinstance(value, dict) else "an array"
    try:
        return repr(value)[:_LONGEST]
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number that long"


_WORDS = (
    (re.compile(r"an object|a valid dictionary( or instance of \w+)?"), "a table"),
    (re.compile(r"a valid (list|tuple)\b"), "a valid array"),
    (re.compile(r"\s+"), " "),
)


def _wanted(messages: list[str]) -> str:
    """What pydantic wants, in TOML's words; the arms of a union as alternatives."""
    arms = []
    for message in messages:
        for pattern, word in _WORDS:
            message = pattern.sub(word, message)
        arms.append(message[0].lower() + message[1:])
    rest = [arm.removeprefix("input should be ") for arm in arms[1:]]
    return " or ".join(dict.fromkeys([arms[0], *rest]))


def _place(location: Location, raw: Any) -> str:
    """`tasks[io].ratio`: items of lists by their names, as far as they have some."""
    parts: list[str] = []
    node = raw
    for part in location:
        if isinstance(part, int):
            item = node[part] if isinstance(node, list) and part < len(node) else None
            name = item.get("name", part) if isinstance(item, dict) else part
            parts[-1:] = ["".join([*parts[-1:], f"[{_printable(str(name))}]"])]
            node = item
        elif part == "[key]":
            continue  # what is wrong with a key is said of its place
        elif part.startswith(_ARMS) and not (isinstance(node, dict) and part in node):
            continue  # pydantic names the arms of a union; the user never wrote them
        else:
            parts.append(_printable(part))
            node = node.get(part) if isinstance(node, dict) else None
    return ".".join(parts)


def _printable(key: str) -> str:
    return key if key.isprintable() else repr(key)[1:-1]


def _did_you_mean(
    location: Location, model: type[BaseModel], moved: Mapping[str, str], page: str, known_as: str
) -> str:
    key = str(location[-1])
    if len(location) == 1 and key in moved:
        return f"; here it is {moved[key]}"
    known = known_keys(model, location[:-1])
    if close := difflib.get_close_matches(key, known, n=1, cutoff=0.6):
        return f"; did you mean {close[0]!r}?"
    if not known:
        return ""
    listed = ", ".join(known) if len(known) <= _LISTED or not page else f"see {page}"
    return f"; {known_as}: {listed}"


def known_keys(model: type, location: Location) -> list[str]:
    """The keys of the table at a place of a model: none where it takes any."""
    table: Any = model
    for part in location:
        fields = _fields(table)
        if part in fields:
            table = _table_in(fields[str(part)])
    return list(_fields(table))


def _fields(table: Any) -> dict[str, Any]:
    """Keys with their types, of a section, whether it is a model or a dataclass."""
    if isinstance(table, type) and issubclass(table, BaseModel):
        return {name: field.annotation for name, field in table.model_fields.items()}
    return typing.get_type_hints(table) if dataclasses.is_dataclass(table) else {}


def _table_in(annotation: Any) -> Any:
    """The section that a key's type holds, perhaps in a list or a union; None without one."""
    if _fields(annotation):
        return annotation
    found = (_table_in(argument) for argument in typing.get_args(annotation))
    return next((table for table in found if table is not None), None)
