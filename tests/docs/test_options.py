"""docs/options.md: every key with its default and its range, and no other key."""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from astor_rl.compare.spec import ArmConfig, CompareConfig
from astor_rl.config import RunConfig, TaskConfig, parse_config
from astor_rl.errors import ConfigError, DataError, DependencyError
from astor_rl.tasks.registry import KINDS, make_task

TASK = {"name": "one", "task": "io_prediction", "source": "jsonl:x.jsonl"}
RUN = {"model": "m", "tasks": [TASK]}
REQUIRED = object()

PLAIN: dict[str, tuple[list[Any], list[Any]]] = {
    "text": (["text"], [1, True, ["text"]]),
    "true/false": ([True, False], [1, "true"]),
    "table": ([{}], [1, "text"]),
    "table of texts": ([{}, {"a": "text"}], [1, {"a": 1}]),
    "text or list of texts": (["text", ["text"]], [1, [1]]),
}
"""Types whose range is empty or in words: values that they allow, and values that they don't."""

Parse = Callable[[str, Any], object]


@dataclasses.dataclass(frozen=True)
class Keys:
    """A section of the page: its keys with their defaults, and how a value is checked."""

    heading: str
    defaults: dict[str, Any]
    parse: Parse

    def __str__(self) -> str:
        return self.heading


def _defaults(model: Any) -> dict[str, Any]:
    if hasattr(model, "model_fields"):
        return {
            name: REQUIRED if field.is_required() else field.default
            for name, field in model.model_fields.items()
        }
    return {field.name: field.default for field in dataclasses.fields(model)}


def _in_section(name: str) -> Parse:
    # One share at its upper end leaves room only without the other.
    beside = {"validation_share": {"test_share": 0}, "test_share": {"validation_share": 0}}
    # The specialist's method needs its task.
    run = {**RUN, "baseline": {"task": "one"}} if name == "schedule" else RUN
    return lambda key, value: parse_config({**run, name: {**beside.get(key, {}), key: value}})


def _options(kind: str) -> dict[str, Any]:
    parameters = inspect.signature(type(make_task(kind, {}, None))).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def all_sections() -> Iterator[Keys]:
    top = _defaults(RunConfig)
    sections = {
        name: default
        for name, default in top.items()
        if isinstance(default, BaseModel) or dataclasses.is_dataclass(default)
    }
    plain = {name: value for name, value in top.items() if name not in {"tasks", *sections}}
    yield Keys("Top level", plain, lambda key, value: parse_config({**RUN, key: value}))
    for name, default in sections.items():
        yield Keys(f"[{name}]", _defaults(type(default)), _in_section(name))
    yield Keys(
        "[[tasks]]",
        _defaults(TaskConfig),
        lambda key, value: parse_config({**RUN, "tasks": [{**TASK, key: value}]}),
    )
    for kind in KINDS:
        yield Keys(
            f"[tasks.options] of {kind}",
            _options(kind),
            lambda key, value, kind=kind: make_task(kind, {key: value}, None),
        )


SECTIONS = list(all_sections())


@pytest.mark.parametrize("keys", SECTIONS, ids=str)
def test_every_option_is_there_with_its_default_and_no_other(manual, keys):
    table = manual.table("options", keys.heading)
    shown = {manual.code(row["key"]): row["default"] for row in table}
    assert shown.keys() == keys.defaults.keys()
    for name, default in keys.defaults.items():
        if default is REQUIRED or default is None:
            assert shown[name] == ("required" if default is REQUIRED else "unset"), name
        else:
            value = tomllib.loads(f"value = {manual.code(shown[name])}")["value"]
            default = list(default) if isinstance(default, tuple) else default
            assert (value, type(value) is bool) == (default, type(default) is bool), name


@pytest.mark.parametrize("model", [CompareConfig, ArmConfig])
def test_a_compare_files_keys_are_there_with_their_defaults(manual, model):
    rows = manual.table("comparing", "The compare file")
    both = [row for row in rows if "," not in row["key"]]
    cut = next(n for n, row in enumerate(both) if row["key"] == "`name`")
    shown = {
        manual.code(row["key"]): row["default"]
        for row in (both[:cut], both[cut:])[model is ArmConfig]
    }
    if model is ArmConfig:
        (last,) = (row for row in rows if "," in row["key"])
        names, values = (re.findall(r"`([^`]+)`", last[column]) for column in ("key", "default"))
        shown |= dict(zip(names, (f"`{value}`" for value in values), strict=True))
    fields = {name: field for name, field in model.model_fields.items() if name != "arms"}
    assert shown.keys() == fields.keys()
    for name, field in fields.items():
        if field.is_required() or name == "of":
            assert shown[name].startswith("required"), name
        elif field.default is None:
            assert "`" not in shown[name], name
        else:
            text = manual.code(shown[name])
            assert tomllib.loads(f"value = {text}")["value"] == field.default, name


def test_no_section_is_left_over(manual):
    headings = re.findall(r"^## (.+)$", manual.text("options"), re.MULTILINE)
    assert sorted(headings) == sorted(keys.heading for keys in SECTIONS)


@pytest.mark.parametrize("keys", SECTIONS, ids=str)
def test_types_and_ranges_are_what_is_checked(manual, keys):
    for row in manual.table("options", keys.heading):
        key = manual.code(row["key"])
        good, bad = allowed_and_not(row["type"], row["range"])
        for value in good:
            assert accepts(keys.parse, key, value), f"{key} = {value!r} is refused"
        for value in bad:
            assert not accepts(keys.parse, key, value), f"{key} = {value!r} is accepted"


def accepts(parse: Parse, key: str, value: Any) -> bool:
    try:
        parse(key, value)
    except ConfigError:
        return False
    except (DataError, DependencyError):  # the value was understood; this machine lacks something
        return True
    return True


def allowed_and_not(kind: str, given: str) -> tuple[list[Any], list[Any]]:
    """Values that a type and a range allow, and values that they don't."""
    choices = [word.strip('"') for word in re.findall(r'`("[^"]*")`', given)]
    if kind == "list of texts":
        return [[], *([word] for word in choices)], ["text", [1], *([["no such"]] * bool(choices))]
    if kind == "number or text":
        return [1.0, *choices], ["no such", 0.0, True]
    if choices:
        return choices, ["no such", 1]
    if kind in ("integer", "number"):
        good, bad = bounds(given.strip("`"), whole=kind == "integer")
        return good, [*bad, "1", True, *([1.5] if kind == "integer" else [])]
    good, bad = PLAIN[kind]  # an unknown type is an error: nothing would be tried
    # A range in words is checked for what it refuses only.
    return ([] if given else good), bad + [type(value)() for value in good if given == "not empty"]


def bounds(given: str, *, whole: bool) -> tuple[list[Any], list[Any]]:
    """Values at and just beyond the ends of `>= 1`, `> 0`, `[0, 1)`."""
    if given.startswith(">"):
        sign, low = given.split(" ")
        ends = [(float(low), +1, sign == ">=")]
    else:
        low, high = given[1:-1].split(", ")
        ends = [(float(low), +1, given[0] == "["), (float(high), -1, given[-1] == "]")]
    good, bad = [], []
    for end, inwards, closed in ends:
        step = 1.0 if whole else 1e-9 * max(1.0, abs(end))
        good.append(end if closed else end + inwards * step)
        bad.append(end - inwards * step if closed else end)
    return ([int(v) for v in good], [int(v) for v in bad]) if whole else (good, bad)


def test_options_that_pages_mention_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    known = {keys.heading.strip("[]"): set(keys.defaults) for keys in SECTIONS}
    sections = "|".join(name for name in known if name.isidentifier())
    mentioned = set(re.findall(rf"`(?:--set )?({sections})\.([a-z_]+)(?: = [^`]*)?`", text))
    # A paragraph that begins with `[section]` lists that section's keys.
    paragraphs = re.findall(rf"^`\[({sections})\]`(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    for name, listed in paragraphs:
        keys = re.findall(r"`(\w+)`", listed.partition(";")[0])
        mentioned |= {(name, key) for key in keys}
    # `schedule` and `tasks` are rooms of the code, too.
    assert {f"{name}.{key}" for name, key in mentioned if key not in known[name] | {"py"}} == set()
