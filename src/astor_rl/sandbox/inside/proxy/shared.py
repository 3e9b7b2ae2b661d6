"""What both sides have of their own and only name to each other."""

from __future__ import annotations

import builtins
import copy
import dataclasses
import json
import math
import operator
import queue
import re
import statistics
import struct
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, DecimalException
from fractions import Fraction
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any, Final, NamedTuple
from uuid import UUID

_FUNCTIONS: Final = """
    abs all any ascii bin callable chr divmod format hash hex id isinstance issubclass iter len max
    min next oct ord pow print repr round sorted sum
"""
"""Not those that run text or reach into objects by name."""
_ERRORS: Final[tuple[type, ...]] = (
    copy.Error,
    dataclasses.FrozenInstanceError,
    json.JSONDecodeError,
    queue.Empty,
    queue.Full,
    re.error,
    statistics.StatisticsError,
    struct.error,
    *DecimalException.__subclasses__(),
)


_REVEALING: Final = (str.format, str.format_map)
"""Methods that reach into objects by name."""
_WITH_METHODS: Final[tuple[type, ...]] = (str, int, float, bytes, list, dict, set, tuple)
_INSTANCES_OF: Final[tuple[type, ...]] = (
    BuiltinFunctionType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
    type({}.items()),
    type({}.keys()),
    type({}.values()),
    type(iter(())),
    type(iter([])),
)
"""Classes without a name in `builtins` that objects of any program are of."""


class Form(NamedTuple):
    """How values of one immutable class are taken apart and made again."""

    name: str
    parts: Callable[[Any], tuple[Any, ...] | None]
    make: Callable[..., Any]


def _moment(value: Any) -> tuple[Any, ...] | None:
    """The parts of a date with a time; None if its time zone is a class of its own."""
    if type(value.tzinfo) not in (type(None), timezone):
        return None
    zone, fold = value.tzinfo, value.fold
    clock = (value.hour, value.minute, value.second, value.microsecond, zone, fold)
    return clock if type(value) is time else (value.year, value.month, value.day, *clock)


FORMS: Final[dict[type, Form]] = {
    date: Form("date", lambda v: (v.year, v.month, v.day), date),
    datetime: Form("datetime", _moment, lambda *p: datetime(*p[:-1], fold=p[-1])),
    time: Form("time", _moment, lambda *p: time(*p[:-1], fold=p[-1])),
    timedelta: Form("timedelta", lambda v: (v.days, v.seconds, v.microseconds), timedelta),
    timezone: Form("timezone", lambda v: (v.utcoffset(None), v.tzname(None)), timezone),
    Decimal: Form("Decimal", lambda v: (str(v),), Decimal),
    Fraction: Form("Fraction", lambda v: (v.numerator, v.denominator), Fraction),
    UUID: Form("UUID", lambda v: (v.int,), lambda number: UUID(int=number)),
}
"""Classes of the standard library whose values cross as such."""
FORM_NAMED: Final = {form.name: form for form in FORMS.values()}


def _named() -> Iterator[tuple[str, Any]]:
    for name, thing in vars(builtins).items():
        if isinstance(thing, type) and not name.startswith("_"):
            yield f"builtins.{name}", thing
    for name in _FUNCTIONS.split():
        yield f"builtins.{name}", getattr(builtins, name)
    for kind in _INSTANCES_OF:
        yield f"types.{kind.__name__}", kind
    for module in (math, operator):
        functions = _public(module, lambda thing: type(thing) is BuiltinFunctionType)
        yield from ((f"{module.__name__}.{name}", thing) for name, thing in functions)
    for kind in _WITH_METHODS:
        methods = _public(kind, lambda thing: callable(thing) and thing not in _REVEALING)
        yield from ((f"{kind.__name__}.{name}", thing) for name, thing in methods)
    for kind in (*_ERRORS, *FORMS):
        yield f"{kind.__module__}.{kind.__qualname__}", kind


def _public(owner: Any, wanted: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    for name, thing in vars(owner).items():
        if not name.startswith("_") and wanted(thing):
            yield name, thing


NAMED: Final = dict(_named())
"""Name -> a class or function that both sides have."""
_NAME_OF: Final = {id(thing): name for name, thing in reversed(NAMED.items())}
EXCEPTIONS: Final[dict[type, str]] = {
    thing: name
    for name, thing in NAMED.items()
    if isinstance(thing, type) and issubclass(thing, BaseException)
}
"""Exception classes that both sides have, with their names."""


def name_of(thing: object) -> str | None:
    """The name of what both sides have, None of anything else."""
    return _NAME_OF.get(id(thing))


def is_standard(module: ModuleType) -> bool:
    """Whether a module is the standard library's."""
    name = module.__name__
    return name.partition(".")[0] in sys.stdlib_module_names and sys.modules.get(name) is module


def module_named(name: str) -> ModuleType:
    """A module of the standard library that is loaded already.

    Raises:
        LookupError: it isn't that.
    """
    module = sys.modules.get(name)
    if module is None or not is_standard(module):
        raise LookupError(name)
    return module
