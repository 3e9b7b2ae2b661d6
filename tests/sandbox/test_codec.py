"""The codec: exact round trips for builtins, and one error for everything else."""

from __future__ import annotations

import collections
import contextlib
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.sandbox import codec
from astor_rl.sandbox.api import Opaque

_LIMIT = 1 << 20
_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
)
_keys = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(_keys, inner)
        | st.sets(_keys)
        | st.frozensets(_keys)
    ),
    max_leaves=20,
)


def _same(a: Any, b: Any) -> bool:
    """Equal, of equal exact types, all the way down, -0.0 and dict order included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return _same(list(a.items()), list(b.items()))
    return repr(a) == repr(b) if isinstance(a, float | complex) else a == b


@given(_values)
def test_round_trip_is_exact(value: Any) -> None:
    assert _same(codec.decode(codec.encode(value, _LIMIT)), value)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_or_a_codec_error(data: bytes) -> None:
    with contextlib.suppress(codec.CodecError):
        codec.decode(data)


@given(_values, st.data())
def test_damaged_bytes_never_raise_anything_else(value: Any, data: st.DataObject) -> None:
    good = bytearray(codec.encode(value, _LIMIT))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(codec.CodecError):
        codec.decode(bytes(good))


@given(_values)
def test_a_cut_value_is_refused(value: Any) -> None:
    data = codec.encode(value, _LIMIT)
    for end in range(len(data)):
        with pytest.raises(codec.CodecError):
            codec.decode(data[:end])
    with pytest.raises(codec.CodecError, match="after the value"):
        codec.decode(data + b"N")


def test_integers_beyond_the_digit_limit_of_str() -> None:
    for value in (10**6000, -(10**6000), 255, 256, -128, -129, 0):
        assert codec.decode(codec.encode(value, _LIMIT)) == value


def test_nan_and_surrogates_pass() -> None:
    assert math.isnan(codec.decode(codec.encode(float("nan"), _LIMIT)))
    assert codec.decode(codec.encode("\ud800", _LIMIT)) == "\ud800"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict([(2, 1), (1, 2)]), {2: 1, 1: 2}),
        (collections.defaultdict(int, {1: 2}), {1: 2}),
        (collections.deque([1, 2]), [1, 2]),
        (range(1, 10, 3), range(1, 10, 3)),
    ],
)
def test_standard_containers_become_their_plain_base(value: Any, plain: Any) -> None:
    assert _same(codec.decode(codec.encode(value, _LIMIT)), plain)


class _Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "42"


class _Rude:
    def __repr__(self) -> str:
        raise KeyboardInterrupt("no")


def test_subclasses_are_opaque_and_equal_to_nothing() -> None:
    result = codec.decode(codec.encode(_Liar(7), _LIMIT))
    assert isinstance(result, Opaque)
    assert (result.type_name, result.text) == ("_Liar", "42")
    assert result not in (42, 7, "42", codec.decode(codec.encode(_Liar(7), _LIMIT)))
    assert isinstance(codec.decode(codec.encode([_Liar(7)], _LIMIT))[0], Opaque)


def test_a_class_cannot_choose_the_name_it_is_reported_by() -> None:
    class Meta(type):
        @property
        def __name__(cls) -> str:  # type: ignore[override]
            return "int"

    class Thing(metaclass=Meta):
        pass

    assert codec.decode(codec.encode(Thing(), _LIMIT)).type_name == "Thing"


def test_addresses_are_left_out_of_texts() -> None:
    first = codec.encode(iter([1]), _LIMIT)
    second = codec.encode(iter([2]), _LIMIT)
    assert first == second


def test_equal_sets_have_equal_bytes_whatever_their_order() -> None:
    # Colliding hashes keep the order they came in (from lists: equal literals would be merged).
    up, down = set([0, 8]), set([8, 0])  # noqa: C405
    assert list(up) != list(down)
    assert codec.encode(up, _LIMIT) == codec.encode(down, _LIMIT)


def test_depth() -> None:
    value: list[Any] = []
    for _ in range(codec.MAX_DEPTH):
        value = [value]
    assert codec.decode(codec.encode(value, _LIMIT)) == value
    deep = codec.decode(codec.encode([value], _LIMIT))
    assert isinstance(deep, Opaque)
    assert deep.type_name == "list"
    endless: list[Any] = []
    endless.append(endless)
    assert isinstance(codec.decode(codec.encode(endless, _LIMIT)), Opaque)
    with pytest.raises(codec.CodecError, match="too deep"):
        codec.decode(b"l\x01\x00\x00\x00" * 200 + b"N")


@pytest.mark.parametrize(
    "value", ["x" * 101, b"x" * 101, 1 << 900, list(range(50)), set(range(50))]
)
def test_the_limit_counts_bytes(value: Any) -> None:
    with pytest.raises(codec.TooLarge):
        codec.encode(value, 100)


def test_a_doubling_structure_stops_at_the_limit() -> None:
    value: list[Any] = [0]
    for _ in range(60):
        value = [value, value]
    with pytest.raises(codec.TooLarge):
        codec.encode(value, 10_000)


def test_keys_made_to_collide_are_refused() -> None:
    modulus = (1 << 61) - 1
    data = codec.encode([i * modulus for i in range(2000)], _LIMIT)
    with pytest.raises(codec.CodecError, match="share their hash"):
        codec.decode(b"S" + data[1:])


def test_colliding_keys_cannot_hide_among_others() -> None:
    modulus = (1 << 61) - 1
    keys = [i * modulus for i in range(60)] + [i * 7919 + 1 for i in range(3000)]
    with pytest.raises(codec.CodecError, match="share their hash"):
        codec.decode(b"S" + codec.encode(keys, _LIMIT)[1:])
    few = set(keys[20:])  # 40 that collide: chance and real programs may do that
    assert codec.decode(codec.encode(few, _LIMIT)) == few


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"?",
        b"l" + struct.pack("<I", 1 << 31),
        b"S" + struct.pack("<I", 1) + b"l" + struct.pack("<I", 0),
        b"s" + struct.pack("<I", 1) + b"\xff",
        b"r" + (b"i" + struct.pack("<I", 1) + b"\x00") * 3,
        b"O" + b"N",
        b"i" + struct.pack("<i", -1),
    ],
)
def test_odd_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(codec.CodecError):
        codec.decode(data)
