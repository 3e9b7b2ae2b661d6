"""One side of the exchange: asks the other one, and answers it."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from operator import is_
from types import ModuleType
from typing import Any, Final, NoReturn
from weakref import WeakValueDictionary

from astor_rl.sandbox import codec
from astor_rl.sandbox.inside.proxy import shared
from astor_rl.sandbox.inside.proxy.channel import Line, Lost
from astor_rl.sandbox.inside.proxy.desk import Desk
from astor_rl.sandbox.inside.proxy.standin import (
    BoundMethod,
    Description,
    Remote,
    StandInType,
    exact_of,
    make_class,
    make_object,
    remote_of,
)
from astor_rl.sandbox.inside.proxy.wire import Reader, Writer

LIMIT: Final = 16 << 20
"""Bytes of one message."""
_DEEPEST: Final = 60
"""Calls back and forth within each other."""
_MOST_EXPORTS: Final = 1 << 20
_ASK, _ANSWER, _LAST = b"?", b"!", b"."
_TOO_LARGE: Final = f"a value needs more than {LIMIT} bytes"
_TOO_DEEP: Final = f"a value is nested deeper than {codec.MAX_DEPTH}"


class Peer:
    """Asks and answers. Threads of the asking side take turns.

    Args:
        channel: to the other side.
        desk: does what is asked of this side.
        judging: names of methods by which the other side's objects may have a say (`JUDGING`);
            None for all of them.
        fatal: exceptions that are no answer but end the exchange.
    """

    def __init__(
        self,
        channel: Line,
        desk: Desk,
        *,
        judging: Collection[str] | None = None,
        fatal: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.lost = ""
        """Why the other side can't be asked any more; empty while it can."""
        self.judged: set[str] = set()
        """Methods by which its objects had a say."""
        self._channel = channel
        self._desk = desk
        self._judging = judging
        self._fatal: tuple[type[BaseException], ...] = (Lost, *fatal)
        self._turn = threading.RLock()
        self._depth = 0
        self._stdout = sys.stdout
        self._exports: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._classes: dict[int, type] = {}
        self._shared_classes: dict[type, type] = {}
        self._objects: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._values: dict[int, Any] = {}
        self._only: int | None = None

    def judges(self, name: str) -> bool:
        """Whether the other side's objects may have a say by a method; notes that one was asked."""
        if self._judging is not None and name not in self._judging:
            return False
        self.judged.add(name)
        return True

    def ask(self, operation: str, *operands: Any) -> Any:
        """Have the other side do something.

        Raises:
            Lost: it is gone or talks nonsense; also every time after that.
            anything: what was raised there.
        """
        if self._only not in (None, threading.get_ident()):
            raise RuntimeError("only the thread that was called can call back")
        with self._turn:
            if self.lost:
                raise Lost(self.lost)
            if self._depth >= _DEEPEST:
                raise RecursionError("calls back and forth are nested too deep")
            self._depth += 1
            try:
                captures = sys.stdout is not self._stdout
                writer = Writer(LIMIT, (), self)
                self._write(writer, (operation, operands, captures))
                self._send(_ASK, writer)
                return self._answer(writer.kept)
            finally:
                self._depth -= 1

    def finish(self, last: bytes) -> None:
        """Tell the other side that nothing more comes, and what is to be said at last.

        Raises:
            Lost: it is gone.
        """
        self._channel.send(_LAST + last)

    def serve(self) -> bytes:
        """Answer until the other side has finished; what it said at last.

        Raises:
            Lost: it is gone before that, or talks nonsense.
        """
        self._only = threading.get_ident()
        while True:
            frame = self._receive()
            if frame[:1] == _LAST:
                return frame[1:]
            if frame[:1] != _ASK:
                self._lose("an answer to nothing")
            self._serve(frame)
            with contextlib.suppress(Exception):  # closed or replaced by the code: its own loss
                self._stdout.flush()

    def _send(self, kind: bytes, writer: Writer) -> None:
        try:
            self._channel.send(b"".join((kind, *writer.parts)))
        except Lost as error:
            self._lose(str(error))

    def _receive(self) -> bytes:
        try:
            return self._channel.receive()
        except Lost as error:
            self._lose(str(error))

    def _lose(self, why: str) -> NoReturn:
        self.lost = self.lost or why
        raise Lost(self.lost)

    def _answer(self, kept: Sequence[Any]) -> Any:
        """What the other side answers; its own questions come first."""
        while (frame := self._receive())[:1] == _ASK:
            if self._depth >= _DEEPEST:
                self._lose("calls back and forth are nested too deep")
            self._serve(frame)
        if frame[:1] != _ANSWER:
            self._lose("a message of no kind")
        message, containers = self._read(frame, kept)
        try:
            raised, changes, printed, value = message
            for number, contents in changes:
                _refill(containers[number], contents)
            if printed:
                sys.stdout.write(printed)
        except Exception:  # noqa: BLE001 - whatever a message that isn't one leads to
            self._lose("a message that is no answer")
        if raised is False:
            return value
        if not isinstance(value, BaseException):
            self._lose("a message that is no answer")
        raise value

    def _read(self, frame: bytes, kept: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The message of a frame and its mutable containers."""
        reader = Reader(frame[1:], kept, self)
        try:
            message = reader.value(0)
        except self._fatal:
            raise
        except BaseException as error:  # noqa: BLE001 - the other side's bytes can lead to anything
            self._lose(f"bytes that are not a value: {type(error).__name__}")
        if reader.at != len(reader.data):
            self._lose("bytes after a value")
        return message, reader.kept

    def _serve(self, frame: bytes) -> None:
        message, containers = self._read(frame, ())
        before = [_contents(container) for container in containers]
        printed, captures = "", False
        self._depth += 1
        try:
            operation, operands, captures = message
            with _captured(captures is True) as text:
                value = self._perform(operation, operands)
            raised = False
        except self._fatal:
            raise
        except BaseException as error:  # noqa: BLE001 - what is raised belongs to who asked
            raised, value = True, error
        finally:
            self._depth -= 1
        if captures is True:
            printed = text.getvalue()
        changes = tuple(_changes(containers, before))
        self._send(_ANSWER, self._answered(containers, (raised, changes, printed, value)))

    def _perform(self, operation: Any, operands: Any) -> Any:
        subject = operands[0]
        if operation == "describe":
            return self._desk.describe(self._exports[subject])
        # Not what came with the question: `"{0.__globals__}".format` would look into our objects.
        if operation != "import" and not self._has_passed(subject):
            raise TypeError(f"a {type(subject).__name__!r} of the other side is asked of this one")
        return self._desk.perform(operation, operands)

    def _has_passed(self, thing: Any) -> bool:
        number = self._numbers.get(id(thing))
        return number is not None and self._exports[number] is thing

    def _answered(self, containers: Sequence[Any], message: tuple[Any, ...]) -> Writer:
        writer = Writer(LIMIT, containers, self)
        try:
            self._write(writer, message)
        except self._fatal:
            raise
        except BaseException as error:  # noqa: BLE001 - a value that changes while it is read
            writer = Writer(LIMIT, (), self)
            self._write(writer, (True, (), "", ValueError(str(error)[:200])))
        return writer

    def _write(self, writer: Writer, message: tuple[Any, ...]) -> None:
        try:
            writer.value(message, 0)
        except codec.TooLarge:
            raise ValueError(_TOO_LARGE) from None
        except codec.TooDeep:
            raise ValueError(_TOO_DEEP) from None

    def write(self, writer: Writer, value: Any, depth: int) -> None:
        """Write a value that isn't an exact builtin.

        Raises:
            TypeError: it must not cross.
        """
        remote = remote_of(value)
        if remote is not None and remote.peer is self:
            writer.number(b"U", remote.number)
        elif type(value) is BoundMethod and (owner := remote_of(value.__self__)) is not None:
            writer.number(b"A", owner.number)
            writer.text(value.__name__, depth)
        elif name := shared.name_of(value):
            writer.named(b"G", name)
        elif not self._write_standard(writer, value, depth):
            self._write_own(writer, value, depth)

    def _write_standard(self, writer: Writer, value: Any, depth: int) -> bool:
        """Write what both sides have, if it is that."""
        kind = type(value)
        if kind in shared.EXCEPTIONS:
            writer.named(b"V", shared.EXCEPTIONS[kind])
            writer.value(exact_of(value), depth + 1)
            return True
        if kind in shared.FORMS and (parts := shared.FORMS[kind].parts(value)) is not None:
            writer.named(b"X", shared.FORMS[kind].name)
            writer.value(parts, depth + 1)
            return True
        if kind is ModuleType and shared.is_standard(value) and not self._desk.offers(value):
            writer.named(b"M", value.__name__)
            return True
        return False

    def _write_own(self, writer: Writer, value: Any, depth: int) -> None:
        if isinstance(value, type):
            writer.number(b"K", self._number(value))
            return
        writer.number(b"H", self._number(value))
        writer.value(type(value), depth + 1)
        writer.value(exact_of(value), depth + 1)

    def _number(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            if not self._desk.exportable(value):
                raise TypeError(f"a {type(value).__name__} can't be passed to the other process")
            if len(self._exports) >= _MOST_EXPORTS:
                raise MemoryError(f"more than {_MOST_EXPORTS} objects were passed")
            number = self._numbers[id(value)] = len(self._exports)
            self._exports.append(value)  # kept alive: its id stays its own
        return number

    def own(self, number: int) -> Any:
        """An object of this side by its number.

        Raises:
            IndexError: there is none.
        """
        return self._exports[number]

    def own_method(self, number: int, name: str) -> Any:
        """A method of such an object, if it may be had.

        Raises:
            IndexError: there is no such object.
            AttributeError: the name may not be read.
        """
        return self._desk.attribute(self._exports[number], name)

    def theirs(self, number: int, cls: Any, exact: Any) -> Any:
        """The stand-in of an object of the other side: always the same for the same.

        Args:
            number: the object's.
            cls: a stand-in of its class, or the class itself if both sides have it.
            exact: see `make_object`.

        Raises:
            TypeError, ValueError: the class is none, or what is exact does not fit it.
        """
        known = self._objects.get(number)
        if known is None:
            known = self._values.get(number)
        if known is None:
            if type(cls) is not StandInType:
                cls = self._stand_in_of(cls)
            known = make_object(cls, Remote(self, number), exact)
            try:
                self._objects[number] = known
            except TypeError:  # integers and tuples can't be referred to weakly
                self._values[number] = known
        return known

    def _stand_in_of(self, cls: Any) -> type:
        """The stand-in of a class that both sides have, and that nobody need describe."""
        if shared.name_of(cls) is None:
            raise ValueError("not a class")
        if cls not in self._shared_classes:
            description = Description(*self._desk.describe(cls))
            self._shared_classes[cls] = make_class(None, description)
        return self._shared_classes[cls]

    def their_class(self, number: int) -> type:
        """The stand-in of a class of the other side.

        Raises:
            TypeError, ValueError: what it says of the class can't be.
        """
        if number not in self._classes:
            description = Description(*self.ask("describe", number))
            self._classes.setdefault(number, make_class(Remote(self, number), description))
        return self._classes[number]


@contextlib.contextmanager
def _captured(wanted: bool) -> Iterator[io.StringIO]:
    text = io.StringIO()
    if not wanted:
        yield text
        return
    with contextlib.redirect_stdout(text):
        yield text


def _contents(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return list(chain.from_iterable(container.items()))
    return list(container)


def _changes(
    containers: Sequence[Any], before: Sequence[Sequence[Any]]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(number, contents) of the containers whose contents are not what they were."""
    for number, (container, old) in enumerate(zip(containers, before, strict=True)):
        new = _contents(container)
        if len(new) != len(old) or not all(map(is_, new, old)):
            yield number, tuple(new)


def _refill(container: Any, contents: tuple[Any, ...]) -> None:
    """Give a container new contents in place.

    Raises:
        TypeError, ValueError: they don't fit it.
    """
    if isinstance(container, dict):
        keys, values = contents[::2], contents[1::2]
        container.clear()
        for key, value in zip(keys, values, strict=True):
            container[key] = value
    elif isinstance(container, list | bytearray):
        container[:] = contents
    elif isinstance(container, set | deque):
        container.clear()
        container.extend(contents) if isinstance(container, deque) else container.update(contents)
