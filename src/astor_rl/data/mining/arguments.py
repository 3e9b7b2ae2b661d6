"""Arguments to try on a function: what its examples use, varied, and what its names suggest."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from astor_rl.code.doctests import CallArguments
from astor_rl.code.slicing import FunctionSlice, Parameter
from astor_rl.syntax import parse

POOLS: dict[str, tuple[str, ...]] = {
    "int": ("3", "2", "5", "0", "1", "10", "7", "-1", "4", "12", "100"),
    "str": (
        "'hello'",
        "'a b c'",
        "'Hello World'",
        "'abc'",
        "'a,b,c'",
        "''",
        "'foo_bar'",
        "'aab'",
        "'/usr/lib/x.py'",
        "'a=1&b=2'",
        "'<b>x</b>'",
        "'12'",
        "'x: 1'",
        "'fooBar'",
    ),
    "ints": ("[1, 2, 3]", "[3, 1, 2]", "[5]", "[1, 1, 2]", "[4, 2, 4, 6]", "[]", "[0, 7]"),
    "strs": ("['a', 'b', 'c']", "['x', 'y']", "['b', 'a', 'b']", "['abc', 'abd']", "[]"),
    "float": ("0.5", "1.5", "0.25", "2.0", "0.0", "1.0"),
    "dict": ("{'a': 1, 'b': 2}", "{'a': 1}", "{'x': 3, 'y': 1}", "{}"),
    "lists": ("[[1, 2], [3]]", "[[1], [2], [3, 4]]", "[[1, 2], [3, 4]]", "[[]]"),
    "pairs": ("[('a', 1), ('b', 2)]", "[('x', 0)]", "[(1, 2), (3, 4)]"),
    "dicts": ("[{'a': 1}, {'b': 2}]", "[{'a': 1}, {'a': 3}]", "[{'k': 'v'}]"),
    "bool": ("True", "False"),
    "bytes": ("b'abc'", "b'a b'", "b''", "b'hello'"),
    "tuple": ("(1, 2)", "(3, 1, 2)", "('a', 'b')", "(2024, 2)"),
}
"""Literals to try, by kind, the most telling first."""

_HINTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"s|st?r|string|text|line|name|word|path|url|sep|char|msg|key|prefix|suffix|p|fmt|pat.*|doc|"
     r".*str|.*name|.*text|.*line|.*path|filename|value|c|ch|code|head|tail|token", ("str",)),
    (r"n|k|i|j|m|size|count|length|len|width|num|number|step|start|stop|pos|year|month|day|indent|"
     r"a|b|x|y|z|base|limit|depth|level|lo|hi|min.*|max.*|bits?|r|g|h|v|l", ("int", "float")),
    (r"seqs?|iterables?|items|xs|lst|list|values|data|it|elements|args|coll|src|nums|.*list|"
     r"numbers|.*s", ("ints", "strs")),
    (r"d|dct|dict|mapping|map|kv|params|attrs|.*dict|rv", ("dict",)),
    (r"dicts|maps", ("dicts",)),
    (r"b|bs|buf|bytes|raw", ("bytes",)),
    (r"pairs|tuples|edges", ("pairs",)),
    (r"matrix|rows|table|lists|listoflists|grid", ("lists",)),
    (r"is_.*|flag|strict|reverse|.*ed", ("bool",)),
)  # fmt: skip
_FALLBACK = ("ints", "str", "int", "strs", "dict", "lists", "float", "pairs", "tuple", "bytes")
_ANNOTATED = (
    (r"^(int|SupportsInt|Integral)\b", ("int",)),
    (r"^(str|AnyStr|StrPath)\b", ("str",)),
    (r"^float\b", ("float", "int")),
    (r"^bool\b", ("bool",)),
    (r"^bytes\b", ("bytes",)),
    (r"^(list|List|Iterable|Sequence|Collection)\[str", ("strs",)),
    (r"^(list|List|Iterable|Sequence|Collection|Iterator)\b", ("ints", "strs", "str")),
    (r"^(dict|Dict|Mapping)\b", ("dict",)),
)
_MAX_REQUIRED = 3


def first_tries(
    subject: FunctionSlice, examples: Sequence[CallArguments], *, limit: int
) -> list[str]:
    """Argument texts to start from: the docstring's calls, then guesses by kind.

    Guesses try every kind of the first choice of each parameter before any of the second; a
    function with more than three required parameters is not guessed for.
    """
    tries = dict.fromkeys(example.text for example in examples)
    for text in itertools.islice(_guesses(subject.parameters), limit):
        tries[text] = None
    return list(tries)[:limit]


def _guesses(parameters: Sequence[Parameter]) -> Iterable[str]:
    required = [p for p in parameters if not p.default and p.kind in ("positional", "args")]
    if len(required) > _MAX_REQUIRED or any(
        p.kind == "keyword" and not p.default for p in parameters
    ):
        return
    choices = [kinds_of(parameter) for parameter in required]
    ranked = sorted(
        itertools.product(*(range(len(kinds)) for kinds in choices)),
        key=lambda ranks: (sum(ranks), ranks),
    )
    for sample in range(2):
        for ranks in ranked:
            kinds = [kinds[rank] for kinds, rank in zip(choices, ranks, strict=True)]
            yield ", ".join(
                _pick(parameter, kind, sample, place)
                for place, (parameter, kind) in enumerate(zip(required, kinds, strict=True))
            )


def _pick(parameter: Parameter, kind: str, sample: int, place: int) -> str:
    pool = POOLS[kind]
    one = pool[(2 * sample + place) % len(pool)]
    return f"{one}, {pool[(sample + 1) % len(pool)]}" if parameter.kind == "args" else one


def kinds_of(parameter: Parameter) -> tuple[str, ...]:
    """Names of the pools to try on a parameter, the likeliest first."""
    annotation = parameter.annotation.strip("'\"")
    for pattern, kinds in _ANNOTATED:
        if re.match(pattern, annotation):
            return kinds
    likely = [
        kind
        for pattern, kinds in _HINTS
        if re.fullmatch(pattern, parameter.name.lower())
        for kind in kinds
    ]
    return tuple(dict.fromkeys([*likely, *_FALLBACK]))


def variations(
    good: Sequence[str], parameters: Sequence[Parameter], *, count: int, rng: np.random.Generator
) -> list[str]:
    """Up to `count` new argument texts near those that worked.

    Args:
        good: argument texts, at least one.
        parameters: of the function; optional ones with a literal default are given now and then.
        count: how many distinct new ones to try to make.
        rng: decides.
    """
    calls = [parsed for text in good if (parsed := _parse(text)) is not None]
    optional = [(p, value) for p in parameters if (value := _default(p)) is not None]
    found: dict[str, None] = {}
    for _ in range(3 * count):
        if len(found) >= count or not calls:
            break
        positional, keywords = calls[int(rng.integers(len(calls)))]
        args = [_maybe_vary(value, rng) for value in positional]
        named = {name: _maybe_vary(value, rng) for name, value in keywords.items()}
        if optional and rng.random() < 0.3:
            parameter, value = optional[int(rng.integers(len(optional)))]
            place = [p.name for p in parameters].index(parameter.name)
            if parameter.kind == "keyword" or place >= len(args):
                named[parameter.name] = vary(value, rng)
        text = ", ".join([*map(write, args), *(f"{k}={write(v)}" for k, v in named.items())])
        if text not in good:
            found[text] = None
    return list(found)


def _parse(text: str) -> tuple[list[Any], dict[str, Any]] | None:
    call = parse(f"f({text})", mode="eval").body
    if not isinstance(call, ast.Call) or any(word.arg is None for word in call.keywords):
        return None
    try:
        return (
            [ast.literal_eval(arg) for arg in call.args],
            {str(word.arg): ast.literal_eval(word.value) for word in call.keywords},
        )
    except (ValueError, TypeError):
        return None


def _default(parameter: Parameter) -> Any:
    """The value of a literal default worth varying, else None."""
    if parameter.kind not in ("positional", "keyword") or not parameter.default:
        return None
    try:
        return ast.literal_eval(parameter.default)
    except (ValueError, TypeError, SyntaxError):
        return None


def _maybe_vary(value: Any, rng: np.random.Generator) -> Any:
    return vary(value, rng) if rng.random() < 0.7 else value


def vary(value: Any, rng: np.random.Generator) -> Any:
    """Another value of the same type (and the same kind of contents), usually a near one."""
    match value:
        case bool():
            return not value
        case int():
            return _vary_int(value, rng)
        case float():
            return round(value + float(rng.choice([-1.0, -0.5, 0.5, 1.0, 0.25])), 4)
        case str():
            return _vary_text(value, rng)
        case bytes():
            return _vary_text(value.decode("latin-1"), rng).encode("latin-1", "replace")
        case list() | tuple():
            return type(value)(_vary_items(list(value), rng))
        case set() if value:
            return set(_vary_items(sorted(value, key=repr), rng)) or value
        case dict() if value:
            return _vary_dict(value, rng)
        case _:
            return value


def _vary_int(value: int, rng: np.random.Generator) -> int:
    near = value + int(rng.choice([-2, -1, 1, 2, 3]))
    if value >= 0 and near < 0 and rng.random() < 0.8:
        near = value + 1
    return near


def _vary_text(value: str, rng: np.random.Generator) -> str:
    pool = POOLS["str"]
    match int(rng.integers(7)):
        case 0:
            return str(ast.literal_eval(pool[int(rng.integers(len(pool)))]))
        case 1 if value:
            cut = int(rng.integers(len(value)))
            return value[:cut] + value[cut + 1 :]
        case 2:
            return value.upper() if value != value.upper() else value.lower()
        case 3:
            return value[::-1]
        case 4 if value:
            place = int(rng.integers(len(value)))
            return value[:place] + value[place] + value[place:]
        case 5 if " " not in value:
            return f"{value} {value[:2]}"
        case _:
            letters = "abcxyz123"
            place = int(rng.integers(len(value) + 1))
            return value[:place] + letters[int(rng.integers(len(letters)))] + value[place + 1 :]


def _vary_items(items: list[Any], rng: np.random.Generator) -> list[Any]:
    if not items:
        return items
    place = int(rng.integers(len(items)))
    match int(rng.integers(5)):
        case 0 if len(items) > 1:
            return items[:place] + items[place + 1 :]
        case 1 if len(items) < 6:
            return [*items, vary(items[place], rng)]
        case 2 if len(items) > 1:
            return items[::-1]
        case 3 if len(items) < 6:
            return [*items, items[place]]
        case _:
            return [*items[:place], vary(items[place], rng), *items[place + 1 :]]


def _vary_dict(value: dict[Any, Any], rng: np.random.Generator) -> dict[Any, Any]:
    keys = list(value)
    chosen = keys[int(rng.integers(len(keys)))]
    if len(keys) > 1 and rng.random() < 0.3:
        return {key: item for key, item in value.items() if key != chosen}
    return {**value, chosen: vary(value[chosen], rng)}


def write(value: Any) -> str:
    """`repr`, with the items of a set in a fixed order."""
    if isinstance(value, set) and value:
        return "{" + ", ".join(sorted(map(repr, value))) + "}"
    return repr(value)
