"""How values are written between the two sides.

`codec`'s forms, and these, where `n` is a 4-byte number:

    R n        the list, dict, set, bytearray or deque that is number n of the exchange
    B e C Y D  bytearray, deque, Counter, OrderedDict, defaultdict
    L E n      slice, Ellipsis, NotImplemented
    G s, M s   a class or function, a module, that both sides have (`shared`)
    X s t      a value of a standard class and its parts
    V s t      an exception of a class that both have, and its args
    U n        object n of the receiver; A n s a method of it
    H n v v    object n of the sender, its class, and what is exact about it
    K n        class n of the sender
    m s        a method of the object that was asked for it

Mutable containers are numbered in the order in which they are first met, so that both sides know
which is which: what was passed twice is one object on the other side too, and a container that the
answer holds is the very one that was passed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from astor_rl.sandbox import codec
from astor_rl.sandbox.inside.proxy import shared


class Method(NamedTuple):
    """A method of the object that was asked for an attribute."""

    name: str


class References(Protocol):
    """Objects that cross as numbers."""

    def write(self, writer: Writer, value: Any, depth: int) -> None:
        """Write a value that isn't an exact builtin."""

    def own(self, number: int) -> Any:
        """An object of this side by its number."""

    def own_method(self, number: int, name: str) -> Any:
        """A method of such an object."""

    def theirs(self, number: int, cls: Any, exact: Any) -> Any:
        """The stand-in of an object of the other side."""

    def their_class(self, number: int) -> type:
        """The stand-in of a class of the other side."""


class Writer(codec.Writer):
    """Writes one message.

    Args:
        limit: its most bytes.
        known: the mutable containers of the request that this message answers.
        references: writes what isn't an exact builtin.
    """

    def __init__(self, limit: int, known: Sequence[Any], references: References) -> None:
        super().__init__(limit)
        self.kept = list(known)
        self._numbers = {id(container): number for number, container in enumerate(self.kept)}
        self._references = references

    def value(self, value: Any, depth: int) -> None:
        """One value, by its exact type."""
        if depth > codec.MAX_DEPTH:
            raise codec.TooDeep
        write = _WRITERS.get(type(value))
        if write is None:
            self._references.write(self, value, depth)
        else:
            write(self, value, depth)

    def number(self, tag: bytes, number: int) -> None:
        """A tag and a number."""
        self.put(tag + codec.LENGTH.pack(number))

    def named(self, tag: bytes, name: str) -> None:
        """A tag and a name."""
        self.put(tag)
        self.text(name, 0)

    def is_new(self, container: Any) -> bool:
        """Whether a mutable container is met for the first time; if not, its number is written."""
        number = self._numbers.setdefault(id(container), len(self.kept))
        if number < len(self.kept):
            self.number(b"R", number)
            return False
        self.kept.append(container)
        return True


def _container(tag: bytes) -> Callable[[Writer, Any, int], None]:
    def write(writer: Writer, value: Any, depth: int) -> None:
        if writer.is_new(value):
            writer.sequence(tag, value, depth)

    return write


def _mapping(tag: bytes) -> Callable[[Writer, Any, int], None]:
    def write(writer: Writer, value: Any, depth: int) -> None:
        if writer.is_new(value):
            writer.put(tag + codec.LENGTH.pack(len(value)))
            for key, item in value.items():
                writer.value(key, depth + 1)
                writer.value(item, depth + 1)

    return write


def _bytearray(writer: Writer, value: bytearray, depth: int) -> None:
    if writer.is_new(value):
        writer.sized(b"B", bytes(value))


def _deque(writer: Writer, value: deque[Any], depth: int) -> None:
    if writer.is_new(value):
        writer.put(b"e")
        writer.value(value.maxlen, depth + 1)
        writer.sequence(b"", value, depth)


def _defaultdict(writer: Writer, value: defaultdict[Any, Any], depth: int) -> None:
    if writer.is_new(value):
        writer.put(b"D")
        factory = value.default_factory
        writer.value(factory if shared.name_of(factory) else None, depth + 1)
        writer.put(codec.LENGTH.pack(len(value)))
        for key, item in value.items():
            writer.value(key, depth + 1)
            writer.value(item, depth + 1)


def _slice(writer: Writer, value: slice, depth: int) -> None:
    writer.put(b"L")
    for part in (value.start, value.stop, value.step):
        writer.value(part, depth + 1)


_SCALARS: Final = (type(None), bool, int, float, complex, str, bytes, tuple, range)
_WRITERS: Final[dict[type, Callable[[Any, Any, int], None]]] = {
    **{kind: codec.WRITERS[kind] for kind in _SCALARS},
    list: _container(b"l"),
    set: _container(b"S"),
    frozenset: lambda w, v, d: w.sequence(b"Z", v, d),
    dict: _mapping(b"d"),
    Counter: _mapping(b"C"),
    OrderedDict: _mapping(b"Y"),
    defaultdict: _defaultdict,
    bytearray: _bytearray,
    deque: _deque,
    slice: _slice,
    type(...): lambda w, v, d: w.put(b"E"),
    type(NotImplemented): lambda w, v, d: w.put(b"n"),
    Method: lambda w, v, d: w.named(b"m", v.name),
}


class Reader(codec.Reader):
    """Reads one message that nobody vouches for.

    Args:
        data: the message.
        known: the mutable containers of the request that it answers.
        references: resolves what crosses as a number.
    """

    def __init__(self, data: bytes, known: Sequence[Any], references: References) -> None:
        super().__init__(data)
        self.kept = list(known)
        self.references = references

    def value(self, depth: int) -> Any:
        """The next value."""
        read = _READERS.get(self.take(1))
        if read is None:
            raise codec.CodecError("unknown tag")
        if depth > codec.MAX_DEPTH:
            raise codec.CodecError("nested too deep")
        return read(self, depth)

    def keep(self, container: Any) -> Any:
        """Number a new container; before its items are read, since it may hold itself."""
        self.kept.append(container)
        return container

    def number(self) -> int:
        """A number after its tag."""
        value: int = codec.LENGTH.unpack(self.take(4))[0]
        return value

    def name(self) -> str:
        """A name after its tag."""
        self.expect(b"s")
        return self.text()

    def parts(self, depth: int) -> tuple[Any, ...]:
        """A tuple."""
        value = self.value(depth + 1)
        if type(value) is not tuple:
            raise codec.CodecError("not a tuple")
        return value

    def pairs(self, depth: int) -> Iterable[tuple[Any, Any]]:
        """The items of a mapping."""
        found = [(self.value(depth + 1), self.value(depth + 1)) for _ in range(self.length(2))]
        codec.no_collisions([key for key, _ in found if type(key) in codec.WRITERS])
        return found


def _read_list(reader: Reader, depth: int) -> list[Any]:
    made: list[Any] = reader.keep([])
    made.extend(reader.items(depth))
    return made


def _read_set(reader: Reader, depth: int) -> set[Any]:
    made: set[Any] = reader.keep(set())
    made.update(codec.no_collisions(reader.items(depth)))
    return made


def _read_mapping(kind: type) -> Callable[[Reader, int], Any]:
    def read(reader: Reader, depth: int) -> Any:
        made = reader.keep(kind())
        for key, item in reader.pairs(depth):
            made[key] = item
        return made

    return read


def _read_defaultdict(reader: Reader, depth: int) -> defaultdict[Any, Any]:
    made: defaultdict[Any, Any] = reader.keep(defaultdict())
    factory = reader.value(depth + 1)
    if factory is not None and shared.name_of(factory) is None:
        raise codec.CodecError("a factory that isn't shared")
    made.default_factory = factory
    for key, item in reader.pairs(depth):
        made[key] = item
    return made


def _read_deque(reader: Reader, depth: int) -> deque[Any]:
    place = len(reader.kept)
    reader.keep(None)
    longest = reader.value(depth + 1)
    made: deque[Any] = deque(maxlen=longest)
    reader.kept[place] = made
    made.extend(reader.items(depth))
    return made


def _read_known(reader: Reader, depth: int) -> Any:
    number = reader.number()
    if number >= len(reader.kept):
        raise codec.CodecError("an unknown container")
    return reader.kept[number]


def _read_form(reader: Reader, depth: int) -> Any:
    form = shared.FORM_NAMED[reader.name()]
    return form.make(*reader.parts(depth))


def _read_exception(reader: Reader, depth: int) -> BaseException:
    kind = shared.NAMED[reader.name()]
    if kind not in shared.EXCEPTIONS:
        raise codec.CodecError("not an exception")
    return exception(kind, reader.parts(depth))


def exception(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception with these args, however its class takes them."""
    try:
        made = kind(*args)
    except Exception:  # noqa: BLE001 - a class whose arguments are not its args
        made = kind.__new__(kind, *args)
    made.args = args
    return made


def _read_their_object(reader: Reader, depth: int) -> Any:
    number, cls = reader.number(), reader.value(depth + 1)
    return reader.references.theirs(number, cls, reader.value(depth + 1))


_READERS: Final[Mapping[bytes, Callable[[Any, int], Any]]] = {
    **{tag: codec.READERS[tag] for tag in (b"N", b"T", b"F", b"i", b"f", b"c", b"s", b"b", b"r")},
    b"l": _read_list,
    b"t": lambda r, d: tuple(r.items(d)),
    b"S": _read_set,
    b"Z": lambda r, d: frozenset(codec.no_collisions(r.items(d))),
    b"d": _read_mapping(dict),
    b"C": _read_mapping(Counter),
    b"Y": _read_mapping(OrderedDict),
    b"D": _read_defaultdict,
    b"e": _read_deque,
    b"B": lambda r, d: r.keep(bytearray(r.take(r.length()))),
    b"L": lambda r, d: slice(r.value(d + 1), r.value(d + 1), r.value(d + 1)),
    b"E": lambda r, d: ...,
    b"n": lambda r, d: NotImplemented,
    b"R": _read_known,
    b"G": lambda r, d: shared.NAMED[r.name()],
    b"M": lambda r, d: shared.module_named(r.name()),
    b"X": _read_form,
    b"V": _read_exception,
    b"U": lambda r, d: r.references.own(r.number()),
    b"A": lambda r, d: r.references.own_method(r.number(), r.name()),
    b"H": _read_their_object,
    b"K": lambda r, d: r.references.their_class(r.number()),
    b"m": lambda r, d: Method(r.name()),
}
