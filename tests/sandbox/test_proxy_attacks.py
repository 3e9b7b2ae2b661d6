"""Solutions that attack the tests across the two processes, and what becomes of them.

Every one of them computes the wrong sum. None may get a test passed by anything else than the right
answer, and none may learn what the tests expect.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable

import pytest

from astor_rl.sandbox.api import Limits, Outcome
from astor_rl.sandbox.inside.proxy.access import Access, Guarded
from astor_rl.sandbox.inside.proxy.channel import Lost
from astor_rl.sandbox.inside.proxy.desk import Desk
from astor_rl.sandbox.inside.proxy.peer import Peer

Suite = Callable[..., Outcome]

_TESTS = """
import math, unittest, pytest
from sol import add, keep
SECRET = 31337
def test_equal(): assert add(31330, 7) == SECRET
def test_not_equal(): assert not add(31330, 7) != SECRET
def test_almost(): assert abs(add(31330, 7) - SECRET) < 1e-6
def test_approx(): assert add(31330, 7) == pytest.approx(SECRET)
def test_in(): assert SECRET in [add(31330, 7)]
def test_container(): assert SECRET in keep(31337 - 1)
def test_order(): assert add(31330, 7) >= SECRET and add(31330, 7) <= SECRET
def test_called_back(): assert add(31330, 7, lambda x: x + SECRET) == SECRET
class Case(unittest.TestCase):
    def test_equal(self): self.assertEqual(add(31330, 7), SECRET)
    def test_almost(self): self.assertAlmostEqual(add(31330, 7), SECRET)
    def test_count(self): self.assertCountEqual([add(31330, 7)], [SECRET])
    def test_set(self): self.assertEqual({add(31330, 7)}, {SECRET})
"""
_WRONG = """
def add(a, b, function=None): return a - b
def keep(x): return [x]
"""
_TOOLS = """
import gc, os, stat, struct, sys, threading, time
def pipes():
    found = []
    for number in range(3, 300):
        try: mode = os.fstat(number).st_mode
        except OSError: continue
        if stat.S_ISFIFO(mode): found.append(number)
    return found
def peer():
    return next(o for o in gc.get_objects() if type(o).__name__ == "Peer")
def send(data):
    for number in pipes():
        try: os.write(number, data)
        except OSError: pass
def frame(body): return struct.pack("<I", len(body)) + body
def text(s): return b"s" + struct.pack("<I", len(s)) + s
def answer(value):
    return frame(b"!t" + struct.pack("<I", 4) + b"Ft\\0\\0\\0\\0" + text(b"") + value)
def needle(): return "".join(reversed("tsomla_tset"))  # what only the tests spell out
def number(n): return b"i" + struct.pack("<I", 4) + n.to_bytes(4, "little", signed=True)
"""


def _run(suite: Suite, attack: str, tests: str = _TESTS, **options: object) -> Outcome:
    source = _TOOLS + textwrap.dedent(attack) + "\n"
    if "def add" not in attack:
        source += _WRONG
    elif "def keep" not in attack:
        source += "def keep(x): return [x]\n"
    # The reference returns plain values, so that no method of an object had a say.
    given = {"judging": (), "limits": Limits(wall_s=60, cpu_s=1), **options}
    return suite(source, tests, **given)


_OBJECTS = {
    "equals everything": """
        class Yes:
            def __eq__(self, o): return True
            def __ne__(self, o): return False
            def __hash__(self): return 31337
            def __lt__(self, o): return True
            __le__ = __gt__ = __ge__ = __contains__ = __lt__
            def __sub__(self, o): return 0
            __rsub__ = __add__ = __radd__ = __truediv__ = __sub__
            def __abs__(self): return 0
            def __float__(self): return 31337.5
            def __bool__(self): return True
            def __instancecheck__(self, o): return True
        def add(*a): return Yes()
        def keep(x): return Yes()
    """,
    "a number that equals everything": """
        class Yes(int):
            def __eq__(self, o): return True
            def __ne__(self, o): return False
            def __hash__(self): return 31337
            def __lt__(self, o): return True
            __le__ = __gt__ = __ge__ = __lt__
            def __sub__(self, o): return 0
            __rsub__ = __sub__
        def add(*a): return Yes(7)
        def keep(x): return Yes(7)
    """,
    "a tuple and a string that do": """
        class T(tuple):
            def __eq__(self, o): return True
            def __contains__(self, o): return True
            def __iter__(self): return iter([31336])
        class S(str):
            def __eq__(self, o): return True
            def __hash__(self): return hash(31337)
        def add(*a): return S("x")
        def keep(x): return T((7,))
    """,
    "a list that contains everything": """
        class L(list):
            def __contains__(self, o): return True
            def __eq__(self, o): return True
        def add(*a): return L()
        def keep(x): return L()
    """,
    "the class is a lie": """
        class Lie:
            __class__ = int
            def __eq__(self, o): return True
            def __reduce_ex__(self, p): return int, (31337,)
        def add(*a): return Lie()
    """,
    "a metaclass": """
        class M(type):
            def __eq__(cls, o): return True
            def __hash__(cls): return 31337
            def __contains__(cls, o): return True
            def __iter__(cls): return iter([31336])
        class C(metaclass=M): pass
        def add(*a): return C
        def keep(x): return C
    """,
    "a name both sides have": """
        import unittest, pytest
        def add(*a): return type
        def keep(x): return isinstance
    """,
    "mocks": """
        from unittest.mock import ANY, MagicMock
        def add(*a): return ANY
        def keep(x): return MagicMock()
    """,
    "approx of anything": """
        import pytest
        def add(*a): return pytest.approx(0, abs=1e9)
        def keep(x): return ANY if False else pytest.approx([0])
    """,
}


@pytest.mark.parametrize("name", _OBJECTS)
def test_no_object_has_a_say_against_an_expected_value(suite: Suite, name: str) -> None:
    outcome = _run(suite, _OBJECTS[name])
    (result,) = outcome.targets
    assert result.passed == (), outcome
    assert outcome.status == "ok"


_ESCAPES = {
    "skip": "import unittest\ndef add(*a): raise unittest.SkipTest('no')",
    "pytest skip": "import pytest\ndef add(*a): pytest.skip('no')",
    "pytest exit": "import pytest\ndef add(*a): pytest.exit('no', 0)",
    "interrupt": "def add(*a): raise KeyboardInterrupt",
    "system exit": "def add(*a): raise SystemExit(0)",
    "stop": "def add(*a): raise StopIteration(31337)",
    "generator exit": "def add(*a): raise GeneratorExit",
    "odd args": "class O: pass\ndef add(*a): raise ValueError(O(), add, gc, O)",
    "an exception that equals": """
        class E(Exception):
            def __eq__(self, o): return True
            def __str__(self): raise SystemExit
        def add(*a): raise E(E)
    """,
    "returns the exception": "def add(*a): return AssertionError('x')",
    "patched framework": """
        import unittest, pytest, builtins, json, math
        unittest.TestCase.assertEqual = unittest.TestCase.assertAlmostEqual = lambda *a: None
        pytest.approx = lambda x: x
        builtins.abs = builtins.isinstance = lambda *a: 0
        json.loads = json.dumps = lambda *a: None
    """,
    "patched codec": """
        p = peer()
        type(p)._answered = lambda self, c, m: type(p)._answered
        type(p).theirs = lambda *a: 31337
    """,
    "finalizers": """
        class D:
            def __del__(self): os.write(1, b"passed"); raise SystemExit
        def add(*a): D(); return [D()]
    """,
    "files of the tests": """
        def add(*a):
            for folder, _, names in os.walk("/box"):
                for name in names:
                    if needle() in open(os.path.join(folder, name)).read(): return 31337
    """,
    "memory": """
        def add(*a):
            for o in gc.get_objects():
                if isinstance(o, (list, tuple, dict)) and needle() in repr(o)[:10000]: return 31337
            frame = sys._getframe()
            while frame:
                if needle() in repr({**frame.f_globals, **frame.f_locals})[:100000]: return 31337
                frame = frame.f_back
    """,
    "descriptors": """
        def add(*a):
            for number in [0, *range(3, 300)]:
                if number in pipes(): continue
                try:
                    if needle().encode() in os.read(number, 1 << 20): return 31337
                except OSError: pass
    """,
    "other processes": """
        import signal
        def add(*a):
            for pid in (os.getppid(), -1, 0, *range(1, 40)):
                if pid != os.getpid():
                    try: os.kill(pid, signal.SIGKILL)
                    except OSError: pass
    """,
    "proc": """
        def add(*a):
            for pid in ("self", os.getppid(), 1):
                for name in ("mem", "fd/200", "environ", "maps"):
                    try: open(f"/proc/{pid}/{name}").read(); return 31337
                    except OSError: pass
    """,
    "code of the tests' functions": """
        def add(a, b, function=lambda x: x):
            found = []
            for name in ("__globals__", "__code__", "__closure__", "__defaults__", "__builtins__",
                         "__self__", "__func__", "__dict__", "__getattribute__", "__class__",
                         "__init_subclass__", "__reduce_ex__", "f_globals", "gi_frame"):
                for operation in ("get", "method", "special"):
                    rest = () if operation == "get" else ((), {})
                    try: found.append((name, peer().ask(operation, function, name, *rest)))
                    except BaseException as error: pass
            for name, value in found:
                if name != "__class__": return 31337
    """,
    "objects it was never given": """
        def add(a, b, function=None):
            p = peer()
            for n in range(200):
                for operation, rest in (("describe", (n,)), ("import", ("sol_test",)),
                                        ("names", ("sol_test",)), ("import", ("sys",))):
                    try:
                        said = repr(p.ask(operation, *rest))
                        if operation != "describe" or needle() in said: return 31337
                    except BaseException: pass
    """,
    "a template that looks inside": """
        def add(a, b, function=None):
            p, template = peer(), "{0.__globals__}"
            for operation, *rest in (("call", str.format, (template, function), {}),
                                     ("method", template, "format", (function,), {}),
                                     ("special", template, "__mod__", (function,), {}),
                                     ("get", template, "format"), ("call", len, ("x",), {}),
                                     ("call", print, (function,), {}), ("copy", [1], False)):
                try: p.ask(operation, *rest)
                except BaseException: continue
                return 31337
    """,
    "attributes of the tests' functions": """
        def add(a, b, function=lambda x: x):
            try: peer().ask("set", function, "__code__", 3)
            except AttributeError: pass
            else: return 31337
            try: peer().ask("delete", function, "x")
            except AttributeError: pass
            else: return 31337
    """,
}


@pytest.mark.parametrize("name", _ESCAPES)
def test_no_way_around_the_comparison(suite: Suite, name: str) -> None:
    outcome = _run(suite, _ESCAPES[name])
    (result,) = outcome.targets
    assert result.passed == (), outcome
    assert len(result.failed) >= 12


_BYTES = {
    "an answer before the question": "send(answer(number(5)) * 40)",
    "two answers": "def add(*a): send(answer(number(5))); return 6",
    "noise": "def add(*a): send(bytes(range(256)) * 9)",
    "an endless frame": "def add(*a): send(struct.pack('<I', 2 ** 32 - 1) + b'!')",
    "a frame in pieces": "def add(*a): send(frame(b'!' * 100)[:50]); os._exit(0)",
    "an object that isn't": "def add(*a): send(answer(b'U' + struct.pack('<I', 99)))",
    "a container that isn't": "def add(*a): send(answer(b'R' + struct.pack('<I', 99)))",
    "changes of what isn't": """
        def add(*a):
            change = b"t" + struct.pack("<I", 2) + number(5) + b"t" + struct.pack("<I", 0)
            changes = b"t" + struct.pack("<I", 1) + change
            send(frame(b"!t" + struct.pack("<I", 4) + b"F" + changes + text(b"") + number(5)))
    """,
    "a secret name": "def add(*a): send(answer(b'G' + text(b'builtins.eval')))",
    "a module": "def add(*a): send(answer(b'M' + text(b'sol_test')))",
    "deep": "def add(*a): send(answer((b'l' + struct.pack('<I', 1)) * 5000 + b'N'))",
    "a long list of nothing": "def add(*a): send(answer(b'l' + struct.pack('<I', 2 ** 31)))",
    "keys with one hash": """
        def add(*a):
            same = [(n * (2 ** 61 - 1)).to_bytes(9, "little") for n in range(200)]
            keys = [b"i" + struct.pack("<I", 9) + number for number in same]
            send(answer(b"S" + struct.pack("<I", len(keys)) + b"".join(keys)))
    """,
    "a class of itself": """
        def add(*a):
            type(peer())._perform = lambda self, o, x: ("A", "A", "m", None, "object", (), (A,))
            return A()
        class A: pass
    """,
    "classes that can't be": """
        fields = [
            ("A", "A", "m", None, "value", (), (bool,)),
            ("A", "A", "m", None, "value", (), (int, str)),
            ("A\\0", "A", "m", None, "object", (), ()), (1, "A", "m", None, "object", (), ()),
            ("A", "A", "m", None, "exception", (), (KeyError, LookupError, OSError)),
            ("A", "A", "m", None, "magic", (), ()),
            ("A", 3, "m", None, "object", ("__x__",), (type,)),
            ("A", "A", "m", None, "object", ("__class__", "__eq__"), (property, 3)), (), 7,
        ]
        class A: pass
        own = type(peer())._perform
        def lie(self, operation, operands):
            if operation == "describe": return fields[int(len(gc.get_objects()) % len(fields))]
            return own(self, operation, operands)
        type(peer())._perform = lie
        def add(*a): return A()
    """,
    "closed": "def add(*a):\n    for number in pipes(): os.close(number)\n    time.sleep(0.1)",
    "left politely": "def add(*a): os._exit(0)",
    "killed": "def add(*a): os.kill(os.getpid(), 9)",
    "crashed": "import ctypes\ndef add(*a): ctypes.string_at(0)",
    "questions without end": """
        def add(a, b, function=lambda x: x):
            if function.__class__ is type(add): return 0
            while True: function(1)
    """,
    "deep questions": """
        def add(a, b, function=None):
            p = peer()
            p._depth = -10 ** 9
            return add(a, b, function) if function is None else function(1)
    """,
    "threads that write": """
        def noise():
            while True: send(answer(number(5)))
        threading.Thread(target=noise, daemon=True).start()
        def add(*a): time.sleep(0.05); return 0
    """,
    "endless output": """
        def add(*a):
            while True: print("passed" * 1000, flush=True)
    """,
    "an endless loop": "def add(*a):\n    while True: pass",
    "deaf to its limit": """
        import signal
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        def add(*a):
            while True: pass
    """,
    "too much memory": "def add(*a): return bytearray(10 ** 10)",
}
_STATUSES = {
    "left politely": ("crash", "exited early with code 0"),
    "killed": ("crash", "killed by signal 9"),
    "crashed": ("crash", "killed by signal 11"),
    "an endless loop": ("timeout", "CPU deadline"),
    "deaf to its limit": ("timeout", "CPU deadline"),
    "endless output": ("output_limit", "output above the limit"),
    "noise": ("malformed", ""),
    "a secret name": ("malformed", ""),
    "an endless frame": ("malformed", ""),
}


@pytest.mark.parametrize("name", _BYTES)
def test_no_bytes_pass_for_a_verdict(suite: Suite, name: str) -> None:
    outcome = _run(suite, _BYTES[name])
    (result,) = outcome.targets
    assert result.passed == (), outcome
    if name in _STATUSES:
        status, message = _STATUSES[name]
        assert outcome.status == status, outcome
        assert message in outcome.message


def test_a_lost_solution_fails_tests_that_expect_an_exception(suite: Suite) -> None:
    tests = """
    import contextlib, pytest
    from sol import add
    def test_any():
        with pytest.raises(Exception): add(1, 2)
    def test_base():
        with pytest.raises(BaseException): add(1, 2)
    def test_swallows():
        try: add(1, 2)
        except: pass
    """
    (result,) = _run(suite, "def add(*a): os._exit(0)", tests).targets
    assert result.passed == ()


class _Scripted:
    """A channel whose other end says what it was told to say."""

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = iter(frames)
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def receive(self) -> bytes:
        frame = next(self._frames, None)
        if frame is None:
            raise Lost("the other process is gone")
        return frame


def _answers() -> list[bytes]:
    """What a solution's side answers with values of many kinds."""

    class OddError(ValueError):
        def __str__(self) -> str:
            return "thing"

    class Number(int):
        pass

    asking = _Scripted([])
    with pytest.raises(Lost):
        Peer(asking, Desk(Access())).ask("import", "sol")  # type: ignore[arg-type]
    frames = []
    for thing in (
        [1, {"a": (2.5, b"x", None)}, {3}],
        OddError("x", 1),
        Number(4),
        print,
        OddError,
        1j,
    ):
        answering = _Scripted([])
        desk = Desk(Access())
        desk._operations = {"import": lambda name, thing=thing: thing}
        Peer(answering, desk)._serve(asking.sent[0])  # type: ignore[arg-type]
        frames += answering.sent
    return frames


def test_mutated_messages_are_lost_or_read_but_never_anything_else() -> None:
    chance = random.Random(7)
    frames = _answers()
    assert len(frames) == 6
    ends = set()
    for _ in range(4000):
        frame = bytearray(chance.choice(frames))
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(frame))
            frame[place : place + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
        more = [chance.choice(frames) for _ in range(3)]
        peer = Peer(_Scripted([bytes(frame), *more]), Desk(Guarded()), judging=())  # type: ignore[arg-type]
        try:
            peer.ask("get", None, "x")
            ends.add("read")
        except Lost:
            ends.add("lost")
            assert peer.lost
        except ValueError:
            ends.add("raised")
    assert ends >= {"read", "lost"}
