"""Dataclasses as JSON and back, by their annotations, with nothing converted and nothing ignored.

A field that is added to `sandbox.api` crosses without a change here. Of the types that JSON can't
hold only `Any` is known: the values of results, in the encoding of `sandbox.codec`.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from astor_rl.sandbox import codec

_VALUE_LIMIT: Final = 1 << 30
_SHOWN: Final = 40


class WireError(Exception):
    """Not what was agreed. One line: where, what is there, and what would be right."""


def dumps(value: Any, hint: Any) -> bytes:
    """The JSON of a value of type `hint`.

    Raises:
        WireError: the value isn't of that type.
    """
    try:
        return json.dumps(_form(hint).pack(value), allow_nan=False, separators=(",", ":")).encode()
    except (AttributeError, TypeError, ValueError, RecursionError, codec.TooLarge) as error:
        raise WireError(f"a {type(value).__name__} can't be sent: {error}") from error


def loads(data: bytes, hint: Any, name: str) -> Any:
    """The value of type `hint` that `data` is the JSON of; `name` begins error messages.

    Raises:
        WireError: a key too many or too few, a value of another type, or no JSON.
    """
    return _form(hint).unpack(parse(data, name), name)


def parse(data: bytes, name: str) -> Any:
    """Plain JSON: UTF-8, no NaN, no key twice.

    Raises:
        WireError: it isn't that.
    """
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_key_twice, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise WireError(f"{name} is not JSON: {error}") from error


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


@dataclass(frozen=True, slots=True)
class _Form:
    """How one type crosses: `unpack` takes the JSON value and the words for where it was."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any, str], Any]


def _wrong(where: str, wanted: str, data: Any) -> WireError:
    return WireError(f"{where} is {repr(data)[:_SHOWN]}; it must be {wanted}")


@cache
def _form(hint: Any) -> _Form:
    """The form of an annotation.

    Raises:
        TypeError: none is known.
    """
    if hint in _PLAIN:
        return _PLAIN[hint]
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _record(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _choice(args)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return _list(args[0])
    if origin is Mapping and args[0] is str:
        return _table(args[1])
    if origin is UnionType and args[1:] == (NoneType,):
        return _optional(args[0])
    if origin is UnionType and all(map(dataclasses.is_dataclass, args)):
        return _one_of(args)
    raise TypeError(f"no form is known for {hint}")


def _same(value: Any) -> Any:
    return value


def _plain(kind: type, wanted: str) -> _Form:
    def unpack(data: Any, where: str) -> Any:
        if type(data) is not kind:
            raise _wrong(where, wanted, data)
        return data

    return _Form(_same, unpack)


def _number() -> _Form:
    def unpack(data: Any, where: str) -> Any:
        if type(data) not in (int, float) or not math.isfinite(data):
            raise _wrong(where, "a number", data)
        return data

    return _Form(_same, unpack)


def _value() -> _Form:
    def pack(value: Any) -> str:
        return base64.b64encode(codec.encode(value, _VALUE_LIMIT)).decode("ascii")

    def unpack(data: Any, where: str) -> Any:
        if type(data) is not str:
            raise _wrong(where, "an encoded value", data)
        try:
            return codec.decode(base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError, codec.CodecError) as error:
            raise WireError(f"{where} is no encoded value: {error}") from error

    return _Form(pack, unpack)


_PLAIN: Final[dict[Any, _Form]] = {
    str: _plain(str, "a text"),
    bool: _plain(bool, "true or false"),
    int: _plain(int, "a whole number"),
    float: _number(),
    Any: _value(),
}


def _choice(options: tuple[Any, ...]) -> _Form:
    def unpack(data: Any, where: str) -> Any:
        if type(data) is not str or data not in options:
            raise _wrong(where, f"one of {', '.join(options)}", data)
        return data

    return _Form(_same, unpack)


def _list(of: Any) -> _Form:
    form = _form(of)

    def unpack(data: Any, where: str) -> tuple[Any, ...]:
        if type(data) is not list:
            raise _wrong(where, "a list", data)
        return tuple(form.unpack(item, f"{where}[{index}]") for index, item in enumerate(data))

    return _Form(lambda items: [form.pack(item) for item in items], unpack)


def _table(of: Any) -> _Form:
    form = _form(of)

    def unpack(data: Any, where: str) -> dict[str, Any]:
        if type(data) is not dict:
            raise _wrong(where, "a table", data)
        return {key: form.unpack(item, f"{where}[{key!r}]") for key, item in data.items()}

    return _Form(lambda table: {key: form.pack(item) for key, item in table.items()}, unpack)


def _optional(of: Any) -> _Form:
    form = _form(of)
    return _Form(
        lambda value: None if value is None else form.pack(value),
        lambda data, where: None if data is None else form.unpack(data, where),
    )


def _record(kind: type) -> _Form:
    hints = get_type_hints(kind)
    forms = {field.name: _form(hints[field.name]) for field in dataclasses.fields(kind)}

    def pack(value: Any) -> dict[str, Any]:
        return {name: form.pack(getattr(value, name)) for name, form in forms.items()}

    def unpack(data: Any, where: str) -> Any:
        if type(data) is not dict:
            raise _wrong(where, "a table", data)
        if unknown := sorted(data.keys() - forms.keys()):
            raise WireError(f"{where} has the key {unknown[0][:_SHOWN]!r}, which is not known")
        if absent := sorted(forms.keys() - data.keys()):
            raise WireError(f"{where} lacks the key {absent[0]!r}")
        return kind(**{k: form.unpack(data[k], f"{where}.{k}") for k, form in forms.items()})

    return _Form(pack, unpack)


def _one_of(kinds: tuple[type, ...]) -> _Form:
    """A union of dataclasses: `{"<class name>": {...}}`."""
    named = {kind.__name__: _form(kind) for kind in kinds}

    def pack(value: Any) -> dict[str, Any]:
        name = type(value).__name__
        if name not in named:
            raise TypeError(f"it must be one of {', '.join(named)}")
        return {name: named[name].pack(value)}

    def unpack(data: Any, where: str) -> Any:
        if type(data) is not dict or len(data) != 1 or not data.keys() <= named.keys():
            raise _wrong(where, f"a table with one key of {', '.join(named)}", data)
        ((name, inner),) = data.items()
        return named[name].unpack(inner, f"{where}.{name}")

    return _Form(pack, unpack)
