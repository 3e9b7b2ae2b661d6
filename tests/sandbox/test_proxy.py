"""What tests see of a solution in another process, and the rules of equality."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from astor_rl.sandbox.api import Outcome

Suite = Callable[..., Outcome]


def test_values_come_as_they_are(check: Suite) -> None:
    check(
        """
        from collections import *
        from datetime import *
        from decimal import Decimal
        from fractions import Fraction
        import uuid, math
        VALUES = [
            None, True, 3, -2 ** 70, 1.5, 1j, "a\\ud800", b"x", [1, [2]], (1, (2,)), {1, 2},
            frozenset("ab"), {"k": [1]}, range(3, 9, 2), bytearray(b"y"), deque([1, 2], 5),
            Counter("aab"), OrderedDict(a=1), defaultdict(int, a=1), date(2020, 1, 2),
            datetime(2020, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), time(1, 2, fold=1),
            timedelta(days=1, microseconds=3), Decimal("1.10"), Fraction(1, 3), uuid.UUID(int=5),
            slice(1, None, 2), ..., NotImplemented, int, len, math.sqrt, ValueError, str.upper,
            math,
        ]
        def same(value): return value
        """,
        """
        import sol
        import math, uuid
        from collections import *
        from datetime import *
        from decimal import Decimal
        from fractions import Fraction
        HERE = [
            None, True, 3, -2 ** 70, 1.5, 1j, "a\\ud800", b"x", [1, [2]], (1, (2,)), {1, 2},
            frozenset("ab"), {"k": [1]}, range(3, 9, 2), bytearray(b"y"), deque([1, 2], 5),
            Counter("aab"), OrderedDict(a=1), defaultdict(int, a=1), date(2020, 1, 2),
            datetime(2020, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), time(1, 2, fold=1),
            timedelta(days=1, microseconds=3), Decimal("1.10"), Fraction(1, 3), uuid.UUID(int=5),
            slice(1, None, 2), ..., NotImplemented, int, len, math.sqrt, ValueError, str.upper,
            math,
        ]
        def test_values():
            for mine, theirs in zip(HERE, sol.VALUES, strict=True):
                assert type(mine) is type(theirs) and mine == theirs, (mine, theirs)
                back = sol.same(mine)
                assert type(mine) is type(back) and mine == back, (mine, back)
        def test_details():
            assert sol.VALUES[15].maxlen == 5 and sol.VALUES[18].default_factory is int
            assert sol.VALUES[21].fold == 1 and str(sol.VALUES[23]) == "1.10"
            assert math.isnan(sol.same(float("nan"))) and math.copysign(1, sol.same(-0.0)) == -1
        def test_nan_is_not_itself():
            value = sol.same(float("nan"))
            assert value != value
        """,
    )


def test_mutable_arguments_are_changed_in_place(check: Suite) -> None:
    check(
        """
        def grow(x): x.append(9); return x
        def twice(a, b): a.append(1); return a is b, len(b)
        def swap(pair): pair["a"], pair["b"] = pair["b"], pair["a"]
        def every(l, d, s, b, q):
            l[:] = [2, 1]; d.pop("k"); d["n"] = l; s.add(5); b += b"z"; q.appendleft(0)
        def loop():
            x = []; x.append(x); return x
        def fail(x): x.clear(); raise ValueError("after the change")
        def nested(x): x[0].append(x[1])
        def same(x): return [x, x]
        """,
        """
        import sol, pytest
        from collections import deque
        def test_same_object():
            x = [1]
            assert sol.grow(x) is x and x == [1, 9]
        def test_alias():
            x = []
            assert sol.twice(x, x) == (True, 1) and x == [1]
            assert sol.twice([], []) == (False, 0)
        def test_inner_identity():
            one, two = [1], [2]
            pair = {"a": one, "b": two}
            sol.swap(pair)
            assert pair["a"] is two and pair["b"] is one
        def test_all_kinds():
            l, d, s, b, q = [1, 2], {"k": 1}, {1}, bytearray(b"y"), deque([1])
            sol.every(l, d, s, b, q)
            assert (l, d, s, b, q) == ([2, 1], {"n": [2, 1]}, {1, 5}, b"yz", deque([0, 1]))
            assert d["n"] is l
        def test_cycles():
            x = sol.loop()
            assert x[0] is x
        def test_change_before_raising():
            x = [1]
            with pytest.raises(ValueError): sol.fail(x)
            assert x == []
        def test_nested():
            x = [[], [3]]
            sol.nested(x)
            assert x == [[[3]], [3]] and x[0][0] is x[1]
        def test_result_aliases():
            one, two = sol.same([])
            assert one is two
        """,
    )


def test_exceptions(check: Suite) -> None:
    check(
        """
        import dataclasses, json
        class Base(Exception): pass
        class Odd(Base, KeyError):
            def __init__(self, code, text):
                super().__init__(code, text)
                self.code = code
            def __str__(self): return f"odd {self.code}"
        class Empty(ValueError): pass
        def builtin(): raise ValueError("a", [1])
        def own(): raise Odd(7, "x")
        def empty(): raise Empty("is empty")
        def os_error(): return open("nowhere")
        def key(): return {}["k"]
        def unicode(): "\\xe9".encode("ascii")
        def stop(): raise StopIteration(4)
        def leave(): raise SystemExit(2)
        def parse(): return json.loads("{")
        @dataclasses.dataclass(frozen=True)
        class Point:
            x: int = 1
        def syntax(): compile("(", "f", "exec")
        def catch(function):
            try: function()
            except LookupError as error: return type(error).__name__, error.args
        def hand_on(function): function()
        """,
        """
        import unittest, pytest, dataclasses, json
        import sol
        from sol import Odd, Base, Empty
        class Own(LookupError): pass
        class T(unittest.TestCase):
            def test_builtin(self):
                with self.assertRaises(ValueError) as caught: sol.builtin()
                self.assertEqual(caught.exception.args, ("a", [1]))
                self.assertIs(type(caught.exception), ValueError)
            def test_own(self):
                with self.assertRaises(Odd) as caught: sol.own()
                error = caught.exception
                self.assertEqual((error.args, error.code, str(error)), ((7, "x"), 7, "odd 7"))
                self.assertTrue(issubclass(Odd, Base) and issubclass(Odd, KeyError))
                self.assertEqual(Odd.__name__, "Odd")
                for kind in (Base, KeyError, LookupError, Exception):
                    with self.assertRaises(kind): sol.own()
            def test_message(self):
                with self.assertRaisesRegex(Empty, "^is empty$"): sol.empty()
        def test_pytest():
            with pytest.raises(Odd, match="odd 7") as caught: sol.own()
            assert caught.value.args[0] == 7
        @pytest.mark.parametrize("name, kind, text", [
            ("os_error", FileNotFoundError, "No such file"), ("key", KeyError, "'k'"),
            ("unicode", UnicodeEncodeError, "can't encode"), ("leave", SystemExit, "2"),
            ("syntax", SyntaxError, "was never closed"),
            ("parse", json.JSONDecodeError, "Expecting"),
        ])
        def test_kinds(name, kind, text):
            with pytest.raises(kind) as caught: getattr(sol, name)()
            assert text in str(caught.value)
        def test_values_of_exceptions():
            with pytest.raises(StopIteration) as caught: sol.stop()
            assert caught.value.value == 4
            with pytest.raises(SystemExit) as caught: sol.leave()
            assert caught.value.code == 2
        def test_frozen():
            with pytest.raises(dataclasses.FrozenInstanceError): sol.Point().x = 3
        def test_raised_by_tests():
            def fail(): raise Own("mine", 1)
            assert sol.catch(fail) == ("Own", ("mine", 1))
            error = Own("the same")
            def again(): raise error
            with pytest.raises(Own) as caught: sol.hand_on(again)
            assert caught.value is error
        def test_made_here():
            with pytest.raises(Odd) as caught: raise Odd(3, "y")
            assert str(caught.value) == "odd 3"
        """,
    )


def test_classes(check: Suite) -> None:
    check(
        """
        from abc import ABC, abstractmethod
        from dataclasses import dataclass, field
        from enum import Enum
        class Shape(ABC):
            sides = 0
            made = []
            def __init__(self, name="s"):
                self.name = name; Shape.made.append(name)
            @abstractmethod
            def area(self): ...
            @classmethod
            def new(cls, *args, **kwargs): return cls(*args, **kwargs)
            @staticmethod
            def unit(): return "m"
            def me(self): return self
        class Square(Shape):
            "A square."
            sides = 4
            def __init__(self, size): super().__init__("square"); self._size = size
            def area(self): return self._size ** 2
            @property
            def size(self): return self._size
            @size.setter
            def size(self, value):
                if value < 0: raise ValueError("negative")
                self._size = value
            def __repr__(self): return f"Square({self._size})"
        class Color(Enum):
            RED = 1
            BLUE = "b"
            def shout(self): return self.name + "!"
        @dataclass(order=True)
        class Point:
            x: int
            y: int = 0
            tags: list = field(default_factory=list)
        class Bag:
            def __init__(self, *items): self.items = list(items)
            def __len__(self): return len(self.items)
            def __iter__(self): return iter(self.items)
            def __getitem__(self, key): return self.items[key]
            def __setitem__(self, key, value): self.items[key] = value
            def __delitem__(self, key): del self.items[key]
            def __contains__(self, item): return item in self.items
            def __add__(self, other): return Bag(*self, *other)
            def __radd__(self, other): return Bag(other, *self)
            def __iadd__(self, other): self.items += other; return self
            def __neg__(self): return Bag(*(-i for i in self))
            def __eq__(self, other): return isinstance(other, Bag) and self.items == other.items
            def __hash__(self): return hash(tuple(self.items))
            def __call__(self, n, *, k=1): return n * k
            def __bool__(self): return bool(self.items)
            def __enter__(self): self.items.append("in"); return self
            def __exit__(self, kind, error, trace):
                self.items.append(kind.__name__ if kind else "out"); return kind is KeyError
            def __reversed__(self): return reversed(self.items)
            def __format__(self, spec): return "bag" + spec
            def __index__(self): return 2
            def __float__(self): return 2.5
            def __round__(self, n=None): return n
        class Plain: pass
        def takes(shape): return isinstance(shape, Square), shape.size
        """,
        """
        import copy, pytest
        import sol
        from sol import *
        def test_objects():
            square = Square(3)
            assert isinstance(square, Square) and isinstance(square, Shape)
            assert type(square) is Square
            assert issubclass(Square, Shape) and not isinstance(Plain(), Shape)
            assert (square.area(), square.size, square.sides, square.name) == (9, 3, 4, "square")
            square.size = 4
            assert square.size == 4 and repr(square) == str(square) == "Square(4)"
            assert "_size" in dir(square) and hasattr(square, "area") and not hasattr(square, "no")
            with pytest.raises(ValueError, match="negative"): square.size = -1
            with pytest.raises(AttributeError): square.no
            del square.name
            with pytest.raises(AttributeError): square.name
            assert square.me() is square and takes(square) == (True, 4)
            assert square.area.__name__ == "area" and square.area == square.area
            assert sol.takes(copy.deepcopy(square)) == (True, 4)
        def test_class_side():
            Shape.made = []
            assert Square.new(2).area() == 4 and Square.unit() == "m" and Square.sides == 4
            assert Shape.made == ["square"] and Square.__doc__ == "A square."
            assert Square.area(Square(5)) == 25
            Square.sides = 5
            assert Square(1).sides == 5
            with pytest.raises(TypeError): Shape()
        def test_enum():
            assert Color.RED is Color(1) is Color["RED"] and Color.RED != Color.BLUE
            assert [c.name for c in Color] == ["RED", "BLUE"] and len(Color) == 2
            assert Color.BLUE.value == "b" and Color.RED.shout() == "RED!" and Color.RED in Color
            assert {Color.RED: 1}[Color(1)] == 1
            with pytest.raises(ValueError): Color(3)
        def test_dataclass():
            assert Point(1) == Point(1, 0) and Point(1) != Point(2) and Point(1) < Point(2)
            assert repr(Point(1)) == "Point(x=1, y=0, tags=[])" and Point(1) != (1, 0)
            with pytest.raises(TypeError): hash(Point(1))
        def test_operators():
            bag = Bag(3, 1)
            assert len(bag) == 2 and list(bag) == [3, 1] and bag[0] == 3 and bag[-1:] == [1]
            assert 3 in bag and 4 not in bag and bag(2, k=3) == 6 and list(-bag) == [-3, -1]
            assert bag + Bag(5) == Bag(3, 1, 5) and 0 + bag == Bag(0, 3, 1)
            assert hash(bag) == hash(Bag(3, 1)) and {bag, Bag(3, 1)} == {bag} and not Bag()
            bag[0] = 7
            del bag[1]
            bag += [8]
            assert [*bag] == [7, 8] and [*reversed(bag)] == [8, 7] and f"{bag:x}" == "bagx"
            assert [0, 1, 2][bag] == 2 and float(bag) == 2.5 and round(bag, 3) == 3
            with pytest.raises(TypeError): len(Plain())
            with pytest.raises(TypeError): Plain() < Plain()
            with pytest.raises(IndexError): bag[9]
        def test_context():
            with Bag() as bag: pass
            assert bag.items == ["in", "out"]
            with bag: raise KeyError("swallowed")
            assert bag.items[-1] == "KeyError"
            with pytest.raises(ValueError), bag: raise ValueError
        """,
    )


def test_callbacks_and_iterators(check: Suite) -> None:
    check(
        """
        import io
        def apply(function, items): return [function(item) for item in items]
        def count(n):
            for i in range(n):
                got = yield i
                if got: yield got
            return "end"
        def forever():
            n = 0
            while True: yield n; n += 1
        def drain(items): return list(items)
        def write(file): file.write("hello\\n"); return file.getvalue()
        def lines(file): return [line.strip() for line in file]
        def compose(f, g): return lambda x: f(g(x))
        def fact(n, again): return 1 if n < 2 else n * again(n - 1)
        def read(thing): return thing.color, thing.paint("red"), thing.color
        def say(): print("hi"); return 1
        def keyed(items, key): return sorted(items, key=key)
        def fill(function):
            box = []
            function(box)
            return box
        def guarded(items):
            try: yield from items
            finally: LOG.append("closed")
        LOG = []
        """,
        """
        import inspect, io, itertools, types
        import sol
        def test_functions():
            assert sol.apply(lambda x: x + 1, [1, 2]) == [2, 3]
            assert sol.apply(str, [1]) == ["1"] and sol.apply("a".join, [["x", "y"]]) == ["xay"]
            assert sol.compose(lambda x: x + 1, lambda x: x * 2)(5) == 11
            assert sol.keyed(["bb", "a"], key=len) == ["a", "bb"]
            assert sol.fill(lambda box: box.extend([1, 2])) == [1, 2]
        def test_reentry():
            def again(n): return sol.fact(n, again)
            assert sol.fact(6, again) == 720
        def test_generators():
            generator = sol.count(3)
            assert inspect.isgenerator(generator) and isinstance(generator, types.GeneratorType)
            assert next(generator) == 0 and generator.send("x") == "x" and list(generator) == [1, 2]
            assert list(itertools.islice(sol.forever(), 4)) == [0, 1, 2, 3]
            assert sol.drain(i * i for i in range(3)) == [0, 1, 4]
            assert sol.drain(iter([1])) == [1] and sol.drain(sol.count(2)) == [0, 1]
            guarded = sol.guarded([1, 2])
            next(guarded)
            guarded.close()
            assert sol.LOG == ["closed"]
        def test_files():
            file = io.StringIO()
            assert sol.write(file) == "hello\\n" and file.getvalue() == "hello\\n"
            assert sol.lines(io.StringIO("a\\nb\\n")) == ["a", "b"]
        def test_objects_of_the_tests():
            class Thing:
                color = "blue"
                def paint(self, color): self.color = color; return len(color)
            assert sol.read(Thing()) == ("blue", 3, "red")
        def test_output(capsys):
            assert sol.say() == 1
            assert capsys.readouterr().out == "hi\\n"
        """,
    )


_SUBCLASSES = """
from collections import namedtuple
from enum import IntEnum, StrEnum
Point = namedtuple("Point", "x y")
class Level(IntEnum):
    LOW = 1
class Word(StrEnum):
    HI = "hi"
class Metres(float):
    def double(self): return Metres(self * 2)
class Odd(int):
    def __sub__(self, other): return 0
    __radd__ = __sub__
class Stack(list): pass
class Table(dict): pass
def point(): return Point(1, 2)
"""


def test_subclasses_of_immutable_builtins_are_compared_by_their_exact_value(check: Suite) -> None:
    check(
        _SUBCLASSES,
        """
        import sol
        def test_tuple():
            point = sol.point()
            assert point == (1, 2) and (1, 2) == point and point.x == 1 and isinstance(point, tuple)
            assert repr(point) == "Point(x=1, y=2)" and point._replace(x=5) == (5, 2)
            x, y = point
            assert (x, y) == (1, 2) and {point: 1}[1, 2] == 1
        def test_numbers():
            assert sol.Level.LOW == 1 and sol.Level.LOW + 1 == 2 and sol.Level(1) is sol.Level.LOW
            assert sol.Metres(1.5) == 1.5 and sol.Metres(1.5).double() == 3.0
            assert sol.Odd(4) - 1 == 3 and 1 + sol.Odd(4) == 5
        def test_text():
            assert sol.Word.HI == "hi" and sol.Word.HI.upper() == "HI" and str(sol.Word.HI) == "hi"
        """,
        judging=(),
    )


@pytest.mark.parametrize("test", ["sol.Stack([1]) == [1]", "sol.Table(a=1) == {'a': 1}"])
def test_subclasses_of_mutable_builtins_equal_no_builtin(suite: Suite, test: str) -> None:
    outcome = suite(_SUBCLASSES, f"import sol\ndef test(): assert {test}")
    assert outcome.targets[0].failed == ("test",)


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        ("class Sub(sol.Thing): pass", "class 'Sub' derives from a class in another process"),
        ("import sys; sol.same(sys._getframe())", "a frame can't be passed"),
        ("import unittest; sol.same(unittest.TestCase())", "a TestCase can't be passed"),
        ("x = [1]\nfor i in range(200): x = [x]\nsol.same(x)", "nested deeper than 100"),
        ("sol.same('x' * (17 << 20))", "needs more than 16777216 bytes"),
        ("def deep(n): return sol.call(deep, n)\ndeep(1)", "nested too deep"),
        ("import pickle; pickle.dumps(sol.Thing())", "can't be pickled"),
    ],
)
def test_what_cannot_cross_is_named(suite: Suite, tests: str, words: str) -> None:
    solution = "class Thing: pass\ndef same(x): return x\ndef call(f, n): return f(n)"
    body = "\n".join(f"    {line}" for line in tests.split("\n"))
    outcome = suite(solution, f"import sol\ndef test():\n{body}")
    assert outcome.targets[0].failed == ("test",)
    assert words in outcome.targets[0].message
