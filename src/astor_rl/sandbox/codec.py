"""Values between processes that don't trust each other: exact builtins, tagged, no pickle.

The writer (inside the sandbox) looks at `type(value)` and nothing else, so `__eq__`, `__repr__`
or a subclass of `int` can't dress a wrong value up. The reader (the parent) rebuilds only the
types below, checks every length before it uses it, and treats any oddity as `CodecError`.

One value is one tag byte and its payload; `n` is a 4-byte little-endian unsigned length:

    N T F        None, True, False
    i n bytes    int, two's complement little-endian (linear, where `str` is refused over 4,300
                 digits)
    f 8 bytes    float; c 16 bytes complex
    s n utf-8    str (surrogates pass); b n bytes
    l n values   list; t tuple; S set; Z frozenset; d n (key, value) pairs, in order
    r 3 ints     range
    O s s        Opaque: a type name and a text
"""

from __future__ import annotations

import re
import struct
from builtins import type as type_
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, Final

from astor_rl.sandbox.api import Opaque

MAX_DEPTH: Final = 100
"""Deepest nesting that crosses. Deeper values become `Opaque`."""

LENGTH = struct.Struct("<I")
_FLOAT = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")
_TEXT_LIMIT = 200
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_CLASS_NAME: Callable[[type], str] = type_.__dict__["__name__"].__get__
_LARGEST_BUCKET = 50


class CodecError(Exception):
    """The bytes are not a value."""


class TooLarge(Exception):  # noqa: N818 - says what is wrong with a value, not with the program
    """The value needs more bytes than its limit."""


class TooDeep(Exception):  # noqa: N818
    """The value nests deeper than `MAX_DEPTH`."""


def describe(value: object) -> tuple[str, str]:
    """Type name and cut text of a value that can't cross. Runs the value's own `__repr__`."""
    try:
        text = repr(value)
        text = _ADDRESS.sub("", text[:_TEXT_LIMIT]) if type_(text) is str else ""
    except Exception:  # noqa: BLE001 - whatever an untrusted __repr__ raises
        text = ""
    return class_name(value), text


def class_name(value: object) -> str:
    """The name of an object's class, past whatever its metaclass says."""
    name: str = _CLASS_NAME(type_(value))
    return name


class Writer:
    """The bytes of values, at most `limit`.

    Raises:
        TooLarge: from every method that writes, past the limit.
    """

    def __init__(self, limit: int) -> None:
        self.parts: list[bytes] = []
        self.left = limit

    def put(self, part: bytes) -> None:
        """Bytes as they are."""
        self.left -= len(part)
        if self.left < 0:
            raise TooLarge
        self.parts.append(part)

    def sized(self, tag: bytes, payload: bytes) -> None:
        """A tag, a length and so many bytes."""
        self.put(tag + LENGTH.pack(len(payload)))
        self.put(payload)

    def value(self, value: Any, depth: int) -> None:
        """One value, by its exact type.

        Raises:
            TooDeep: `depth` is above `MAX_DEPTH`.
        """
        kind = type_(value)
        # A metaclass may define `__eq__` and `__hash__`, which the look-up would ask.
        write = WRITERS.get(kind) if type_(kind) is type_ else None
        if depth > MAX_DEPTH:
            raise TooDeep
        if write is None:
            self.opaque(value)
        else:
            write(self, value, depth)

    def opaque(self, value: object) -> None:
        """What can't cross, by its name and text."""
        opaque = value if type_(value) is Opaque else Opaque(*describe(value))
        self.put(b"O")
        self.sized(b"s", opaque.type_name.encode("utf-8", "surrogatepass"))
        self.sized(b"s", opaque.text.encode("utf-8", "surrogatepass"))

    def integer(self, value: int, depth: int) -> None:
        """An exact int."""
        size = value.bit_length() // 8 + 1
        if size > self.left:
            raise TooLarge
        self.sized(b"i", value.to_bytes(size, "little", signed=True))

    def text(self, value: str, depth: int) -> None:
        """An exact str."""
        if len(value) > self.left:
            raise TooLarge
        self.sized(b"s", value.encode("utf-8", "surrogatepass"))

    def raw(self, value: bytes, depth: int) -> None:
        """Exact bytes."""
        self.sized(b"b", value)

    def sequence(self, tag: bytes, value: Any, depth: int) -> None:
        """A length and so many values."""
        self.put(tag + LENGTH.pack(len(value)))
        for item in value:
            self.value(item, depth + 1)

    def unordered(self, tag: bytes, value: Any, depth: int) -> None:
        """As `sequence`, in the order of the values' bytes."""
        # A set has no order of its own: sorted encodings make equal sets equal bytes.
        items = []
        for item in value:
            inner = Writer(self.left)
            inner.value(item, depth + 1)
            items.append(b"".join(inner.parts))
            self.left -= len(items[-1])
            if self.left < 0:
                raise TooLarge
        self.left += sum(map(len, items))
        self.put(tag + LENGTH.pack(len(items)))
        for part in sorted(items):
            self.put(part)

    def mapping(self, value: Any, depth: int) -> None:
        """Keys and values in their order."""
        self.put(b"d" + LENGTH.pack(len(value)))
        for key, item in value.items():
            self.value(key, depth + 1)
            self.value(item, depth + 1)

    def span(self, value: range, depth: int) -> None:
        """A range."""
        self.put(b"r")
        for part in (value.start, value.stop, value.step):
            self.integer(part, depth)


WRITERS: Final[dict[type, Callable[[Writer, Any, int], None]]] = {
    type(None): lambda w, v, d: w.put(b"N"),
    bool: lambda w, v, d: w.put(b"T" if v else b"F"),
    int: Writer.integer,
    float: lambda w, v, d: w.put(b"f" + _FLOAT.pack(v)),
    complex: lambda w, v, d: w.put(b"c" + _COMPLEX.pack(v.real, v.imag)),
    str: Writer.text,
    bytes: Writer.raw,
    list: lambda w, v, d: w.sequence(b"l", v, d),
    deque: lambda w, v, d: w.sequence(b"l", v, d),
    tuple: lambda w, v, d: w.sequence(b"t", v, d),
    set: lambda w, v, d: w.unordered(b"S", v, d),
    frozenset: lambda w, v, d: w.unordered(b"Z", v, d),
    dict: Writer.mapping,
    Counter: Writer.mapping,
    OrderedDict: Writer.mapping,
    defaultdict: Writer.mapping,
    range: Writer.span,
}
"""How exact types are written."""


def encode(value: Any, limit: int) -> bytes:
    """The bytes of a value, at most `limit`. A value nested too deep becomes one `Opaque`.

    Raises:
        TooLarge: it needs more bytes.
    """
    writer = Writer(limit)
    try:
        writer.value(value, 0)
    except (TooDeep, RecursionError):
        writer = Writer(limit)
        writer.opaque(Opaque(class_name(value), f"nested deeper than {MAX_DEPTH}"))
    return b"".join(writer.parts)


class Reader:
    """Values from bytes that nobody trusts.

    Raises:
        CodecError: from every method, where the bytes are not what it reads. Other exceptions mean
            the same.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        """The next so many bytes."""
        end = self.at + size
        if end > len(self.data):
            raise CodecError("ends early")
        part = self.data[self.at : end]
        self.at = end
        return part

    def length(self, unit: int = 1) -> int:
        """A length that so many units of what is left can have."""
        n: int = LENGTH.unpack(self.take(4))[0]
        if n * unit > len(self.data) - self.at:
            raise CodecError("a length beyond the end")
        return n

    def value(self, depth: int) -> Any:
        """The next value."""
        read = READERS.get(self.take(1))
        if read is None:
            raise CodecError("unknown tag")
        if depth > MAX_DEPTH:
            raise CodecError("nested too deep")
        return read(self, depth)

    def items(self, depth: int) -> list[Any]:
        """A length and so many values."""
        return [self.value(depth + 1) for _ in range(self.length())]

    def hashed(self, depth: int) -> list[Any]:
        """The values of a set."""
        return no_collisions(self.items(depth))

    def mapping(self, depth: int) -> dict[Any, Any]:
        """Keys and values."""
        pairs = [(self.value(depth + 1), self.value(depth + 1)) for _ in range(self.length(2))]
        no_collisions([key for key, _ in pairs])
        return dict(pairs)

    def text(self) -> str:
        """A str after its tag."""
        return self.take(self.length()).decode("utf-8", "surrogatepass")

    def integer(self) -> int:
        """An int after its tag."""
        return int.from_bytes(self.take(self.length()), "little", signed=True)

    def expect(self, tag: bytes) -> None:
        """Exactly this tag."""
        if self.take(1) != tag:
            raise CodecError(f"expected {tag!r}")

    def span(self, depth: int) -> range:
        """A range after its tag."""
        parts = []
        for _ in range(3):
            self.expect(b"i")
            parts.append(self.integer())
        return range(*parts)

    def opaque(self, depth: int) -> Opaque:
        """An `Opaque` after its tag."""
        self.expect(b"s")
        name = self.text()
        self.expect(b"s")
        return Opaque(name, self.text())


def no_collisions(keys: list[Any]) -> list[Any]:
    """Refuse keys made to share one hash: building the dict would be quadratic in the parent."""
    # The largest bucket, not the average one: distinct keys mixed in must not hide it.
    if len(keys) > _LARGEST_BUCKET and max(Counter(map(hash, keys)).values()) > _LARGEST_BUCKET:
        raise CodecError("keys that share their hash")
    return keys


READERS: Final[dict[bytes, Callable[[Reader, int], Any]]] = {
    b"N": lambda r, d: None,
    b"T": lambda r, d: True,
    b"F": lambda r, d: False,
    b"i": lambda r, d: r.integer(),
    b"f": lambda r, d: _FLOAT.unpack(r.take(8))[0],
    b"c": lambda r, d: complex(*_COMPLEX.unpack(r.take(16))),
    b"s": lambda r, d: r.text(),
    b"b": lambda r, d: r.take(r.length()),
    b"l": Reader.items,
    b"t": lambda r, d: tuple(r.items(d)),
    b"S": lambda r, d: set(r.hashed(d)),
    b"Z": lambda r, d: frozenset(r.hashed(d)),
    b"d": Reader.mapping,
    b"r": Reader.span,
    b"O": Reader.opaque,
}
"""How what follows a tag is read."""


def decode(data: bytes) -> Any:
    """The value of exactly these bytes.

    Raises:
        CodecError: anything else than one well-formed value.
    """
    reader = Reader(data)
    try:
        value = reader.value(0)
    except CodecError:
        raise
    except Exception as error:  # the contract: every oddity is one error
        raise CodecError(f"{type(error).__name__}: {error}") from error
    if reader.at != len(data):
        raise CodecError("bytes after the value")
    return value
