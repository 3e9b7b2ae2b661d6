"""Local classes that look like the other side's, and objects of them that pass everything on.

An object of the other side equals nothing that isn't one of its objects too, and is neither less
nor greater than such a thing: whoever made the object would be asked for the verdict. Where tests
of classes need operators (`matrix + 1`), whoever runs the tests allows them by name (`judges`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from types import GeneratorType, TracebackType
from typing import Any, Final, NamedTuple, Protocol

from astor_rl.sandbox.inside.proxy.wire import Method

_KEY: Final = "@remote"
"""Where stand-ins keep what they stand for: no source can spell it as an attribute."""
_KIND: Final = "@kind"
_KINDS: Final = ("object", "value", "exception", "generator")
_MOST_SPECIALS: Final = 200
EXACT: Final = (int, str, float, tuple, bytes, frozenset, complex)
"""Immutable builtins. Objects of their subclasses cross with their exact value, and it is this
value that is compared, hashed and computed with here."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ARITHMETIC: Final = _words(
    "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or"
)
_BINARY: Final = frozenset(
    f"__{prefix}{name}__" for name in _ARITHMETIC for prefix in ("", "r", "i")
) - {"__idivmod__"}
_ORDER: Final = _words("__eq__ __ne__ __lt__ __le__ __gt__ __ge__")
JUDGING: Final = _BINARY | _ORDER | {"__contains__"}
"""Methods by which an object could have a say in what is expected of it."""
_OF_VALUES: Final = _words(
    "__hash__ __len__ __iter__ __getitem__ __bool__ __int__ __index__ __float__"
)
_HARMLESS: Final = _words(
    "__call__ __next__ __reversed__ __setitem__ __delitem__ __enter__ __exit__ __str__ __repr__ "
    "__bytes__ __format__ __complex__ __round__ __trunc__ __floor__ __ceil__ __neg__ __pos__ "
    "__abs__ __invert__ __length_hint__ __fspath__"
)
SPECIALS: Final = JUDGING | _OF_VALUES | _HARMLESS
"""Methods that Python calls by itself, where a class has them."""


class Peer(Protocol):
    """Who asks the other side."""

    def ask(self, operation: str, *operands: Any) -> Any:
        """The answer, or what was raised there."""

    def judges(self, name: str) -> bool:
        """Whether the other side's objects may have a say by this method."""


class Remote(NamedTuple):
    """What a stand-in stands for."""

    peer: Peer
    number: int


class Description(NamedTuple):
    """What the other side says of one of its classes.

    Attributes:
        kind: `object`, `value` (a subclass of one of `EXACT`), `exception` or `generator`.
        specials: those of `SPECIALS` that it has.
    """

    name: str
    qualname: str
    module: str
    doc: str | None
    kind: str
    specials: tuple[str, ...]
    bases: tuple[type, ...]


def remote_of(thing: Any) -> Remote | None:
    """What a stand-in stands for; None if it isn't one."""
    kind = type(thing)
    if kind is StandInType:
        return thing.__dict__.get(_KEY)  # type: ignore[no-any-return]
    if type(kind) is StandInType:
        return object.__getattribute__(thing, "__dict__").get(_KEY)  # type: ignore[no-any-return]
    return None


def _ask(stand_in: Any, operation: str, *operands: Any) -> Any:
    remote = remote_of(stand_in)
    if remote is None:
        raise TypeError(f"{type(stand_in).__name__!r} object stands for nothing")
    return remote.peer.ask(operation, stand_in, *operands)


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def attribute(owner: Any, name: str) -> Any:
    """An attribute of what a stand-in stands for."""
    value = _ask(owner, "get", name)
    return BoundMethod(owner, value.name) if type(value) is Method else value


class BoundMethod:
    """A method of an object of the other side."""

    __slots__ = ("__name__", "__self__")

    def __init__(self, owner: Any, name: str) -> None:
        self.__self__ = owner
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102 - as any method
        return _ask(self.__self__, "method", self.__name__, args, kwargs)

    def __eq__(self, other: object) -> bool:
        if type(other) is not BoundMethod:
            return NotImplemented
        return self.__self__ is other.__self__ and self.__name__ == other.__name__

    def __hash__(self) -> int:
        return hash((id(self.__self__), self.__name__))


class StandInType(type):
    """Class of the stand-ins of classes."""

    def __new__(  # noqa: D102 - see the class
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> StandInType:
        if _KEY not in namespace:
            raise TypeError(f"class {name!r} derives from a class in another process: unsupported")
        return super().__new__(cls, name, bases, namespace, **options)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: D102 - makes an object
        return _ask(cls, "call", args, kwargs)

    def __getattr__(cls, name: str) -> Any:
        return attribute(cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        if _is_special(name):
            super().__setattr__(name, value)
        else:
            _ask(cls, "set", name, value)

    def __delattr__(cls, name: str) -> None:
        _ask(cls, "delete", name)

    def __dir__(cls) -> list[str]:
        return list(_ask(cls, "dir"))

    def __iter__(cls) -> Iterator[Any]:
        return _special(cls, "__iter__")  # type: ignore[no-any-return]

    def __len__(cls) -> int:
        return _special(cls, "__len__")  # type: ignore[no-any-return]

    def __getitem__(cls, key: Any) -> Any:
        return _special(cls, "__getitem__", key)

    def __contains__(cls, value: Any) -> bool:
        if _may_judge(cls, "__contains__"):
            return _special(cls, "__contains__", value)  # type: ignore[no-any-return]
        return any(value is item or value == item for item in cls)

    def __bool__(cls) -> bool:
        return True


def _special(stand_in: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    # What a `with` block raised keeps its frames to itself.
    plain = tuple(None if isinstance(arg, TracebackType) else arg for arg in args)
    return _ask(stand_in, "special", name, plain, kwargs)


def _may_judge(stand_in: Any, name: str) -> bool:
    remote = remote_of(stand_in)
    return remote is not None and remote.peer.judges(name)


class StandIn(metaclass=StandInType):
    """Base of the stand-ins of objects."""

    locals()[_KEY] = None

    def __getattr__(self, name: str) -> Any:
        return attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if _is_special(name):
            object.__setattr__(self, name, value)
        else:
            _ask(self, "set", name, value)

    def __delattr__(self, name: str) -> None:
        _ask(self, "delete", name)

    def __dir__(self) -> list[str]:
        return list(_ask(self, "dir"))

    def __copy__(self) -> Any:
        return _ask(self, "copy", False)

    def __deepcopy__(self, memo: Any) -> Any:
        return _ask(self, "copy", True)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"a {type(self).__name__!r} of another process can't be pickled")


def _passed_on(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _special(self, name, *args, **kwargs)

    return method


def _operator(name: str) -> Callable[..., Any]:
    """One that is asked for only if it may judge; equality only with the other side's objects."""
    among_themselves = name in ("__eq__", "__ne__")

    def method(self: Any, *args: Any) -> Any:
        if among_themselves and remote_of(args[0]) is None:
            return NotImplemented
        if _may_judge(self, name):
            return _special(self, name, *args)
        exact = next((base for base in type(self).__mro__ if base in EXACT), None)
        own = None if exact is None else getattr(exact, name, None)
        return NotImplemented if own is None else own(self, *args)

    return method


def _contains(self: Any, value: Any) -> bool:
    if _may_judge(self, "__contains__"):
        return bool(_special(self, "__contains__", value))
    return any(value is item or value == item for item in self)


_METHODS: Final[Mapping[str, Callable[..., Any]]] = {
    **{name: _passed_on(name) for name in _HARMLESS | _OF_VALUES},
    **{name: _operator(name) for name in _BINARY | _ORDER},
    "__contains__": _contains,
}


def make_class(remote: Remote | None, description: Description) -> StandInType:
    """A class that stands for one of the other side; for one that both have without a number.

    Raises:
        TypeError, ValueError: nothing can be as described.
    """
    kind = description.kind
    if len(description.specials) > _MOST_SPECIALS or kind not in _KINDS:
        raise ValueError("not a description")
    kept = [base for base in description.bases if _fits(base, kind)]
    if not any(type(base) is StandInType for base in kept):
        kept.append(StandIn)
    asked = frozenset(description.specials)
    if kind == "value":
        asked -= _OF_VALUES | _ORDER | {"__contains__"}
    namespace = {
        _KEY: remote,
        _KIND: kind,
        "__module__": description.module,
        "__qualname__": description.qualname,
        "__doc__": description.doc,
        **{name: method for name, method in _METHODS.items() if name in asked},
    }
    return type.__new__(StandInType, description.name, tuple(kept), namespace)


def _fits(base: type, kind: str) -> bool:
    """Whether a base can be one here, too: its own builtins only where objects are values."""
    if type(base) is StandInType:
        return True
    if kind == "exception":
        return issubclass(base, BaseException)
    return kind == "value" and base in EXACT


def make_object(cls: type, remote: Remote, exact: Any) -> Any:
    """An object of such a class.

    Args:
        cls: from `make_class`.
        remote: what it stands for.
        exact: the value if it is of kind `value`, the args of an exception, else None.

    Raises:
        TypeError, ValueError: `exact` isn't that.
    """
    kind = cls.__dict__[_KIND]
    made: Any
    if kind == "value":
        (base,) = {base for base in cls.__mro__ if base in EXACT}
        if type(exact) is not base:
            raise ValueError("not a value of its class")
        made = base.__new__(cls, exact)
    elif kind == "exception":
        if type(exact) is not tuple:
            raise ValueError("not the args of an exception")
        made = cls.__new__(cls, *exact)
        BaseException.__setattr__(made, "args", exact)
    else:
        made = object.__new__(cls)
    object.__getattribute__(made, "__dict__")[_KEY] = remote
    return _generator(made) if kind == "generator" else made


def _generator(stand_in: Any) -> Generator[Any, Any, Any]:
    """A real generator, which tests may ask for, that passes everything on."""
    step: Callable[[], Any] = stand_in.__next__
    while True:
        try:
            item = step()
        except StopIteration as end:
            return end.value
        try:
            sent = yield item
        except GeneratorExit:
            stand_in.close()
            raise
        except BaseException as error:  # noqa: BLE001 - thrown in: the other one's to handle
            step = partial(stand_in.throw, error)
        else:
            step = stand_in.__next__ if sent is None else partial(stand_in.send, sent)


def kind_of(cls: type) -> str:
    """The kind of a class of this side, as in `Description`."""
    if issubclass(cls, BaseException):
        return "exception"
    if cls is GeneratorType:
        return "generator"
    return "value" if issubclass(cls, EXACT) else "object"


def specials_of(cls: type) -> tuple[str, ...]:
    """Which of `SPECIALS` a class has, besides those that stand-ins have anyway."""
    kind = kind_of(cls)
    found: set[str] = set()
    for base in cls.__mro__[:-1]:  # the last is `object`
        if kind == "exception" and base.__module__ == "builtins":
            continue
        if kind == "value" and base in EXACT:
            continue
        found.update(SPECIALS & vars(base).keys())
    if getattr(cls, "__hash__", None) is None:
        found.discard("__hash__")
    return tuple(sorted(found))


def exact_of(value: Any) -> Any:
    """What is exact about an object: its value or its args; None if nothing is."""
    if isinstance(value, BaseException):
        return BaseException.args.__get__(value)  # type: ignore[attr-defined]
    for kind in EXACT:
        if isinstance(value, kind):
            return _EXACTLY[kind](value)
    return None


_EXACTLY: Final[Mapping[type, Callable[[Any], Any]]] = {
    int: int.__pos__,
    float: float.__pos__,
    complex: complex.__pos__,
    str: str.__str__,
    bytes: lambda value: b"".join((bytes.__getitem__(value, slice(None)),)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}
