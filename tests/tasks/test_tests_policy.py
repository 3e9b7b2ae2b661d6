from __future__ import annotations

import ast

import pytest

from astor_rl.tasks.tests_policy import refusal


def judged(source):
    return refusal(ast.parse(source), "focal", ["node"])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os", "imports os"),
        ("import inspect\ninspect.getsource(f)", "uses inspect.getsource"),
        ("from inspect import getsource", "imports inspect.getsource"),
        ("import sys\nsys._getframe()", "uses sys._getframe"),
        ("from sys import modules", "imports sys.modules"),
        ("import gc", "imports gc"),
        ("import subprocess", "imports subprocess"),
        ("import unittest.mock", "imports unittest.mock"),
        ("from unittest import mock", "imports unittest.mock"),
        ("import importlib.util", "imports importlib.util"),
        ("from . import focal", "imports ."),
        ("f.__code__", "uses __code__"),
        ("f.__globals__['x']", "uses __globals__"),
        ("().__class__.__subclasses__()", "uses __subclasses__"),
        ("g.gi_frame", "uses .gi_frame"),
        ("eval('1')", "uses eval"),
        ("exec('1')", "uses exec"),
        ("compile('1', '', 'eval')", "uses compile"),
        ("open('focal.py')", "uses open"),
        ("import io\nio.open('focal.py')", "uses .open"),
        ("__import__('os')", "uses __import__"),
        ("globals()", "uses globals"),
        ("__builtins__", "uses __builtins__"),
        ("getattr(f, '__co' + 'de__')", "computed name"),
        ("getattr(f, '__code__')", "uses __code__"),
        ("names = ['__code__']", "names __code__ in a string"),
        ("'{0.__code__}'.format(f)", "uses .format"),
        ("from operator import attrgetter", "imports operator.attrgetter"),
        ("import random\nrandom._os", "uses random._os"),
        ("import sys as s\ns.modules", "uses .modules"),
        ("import sys as s\ns.settrace(g)", "uses sys.settrace"),
        ("import re\nre.sys", "uses .sys"),
        ("import focal\nfocal.f = lambda: 1", "changes focal.f"),
        ("from focal import f\nf.calls = 0", "changes f.calls"),
        ("import focal\ndel focal.f", "changes focal.f"),
        ("from collections import Counter\nCounter.runs = 1", "changes Counter.runs"),
        ("setattr(focal, 'f', 1)", "uses setattr"),
        ("def test_x(monkeypatch): pass", "fixture monkeypatch"),
        ("with raises(E) as info: pass\ninfo.tb", "uses .tb"),
        ("with raises(E) as info: pass\ninfo.traceback", "uses .traceback"),
        ("with raises(E) as info: pass\ninfo.getrepr()", "uses .getrepr"),
        ("with raises(E) as info: pass\ninfo._excinfo", "uses ._excinfo"),
        ("getattr(g, 'gi_frame')", "uses .gi_frame"),
        ("hasattr(g, 'gi_frame')", "uses .gi_frame"),
        ("import logging\ngetattr(logging, 'os')", "uses .os"),
        ("import random\ngetattr(random, '_os')", "uses random._os"),
        ("g = getattr", "computed name"),
        ("map(getattr, [f], names)", "computed name"),
        ("getattr(*both)", "computed name"),
        ("getattr(f, name)", "computed name"),
        ("from functools import partial\npartial(getattr, f)", "computed name"),
        ("match f:\n    case object(__code__=c): pass", "uses __code__"),
        ("match g:\n    case object(gi_frame=c): pass", "uses .gi_frame"),
        ("class A:\n    __match_args__ = names", "uses __match_args__"),
        ("type('A', (), {'__match' + '_args__': ()})", "makes a class with type"),
        ("('{0._' + '_code__}').format(f)", "uses .format"),
        ("'{0.size}'.format(f)", "uses .format"),
        ("'{:{0[x]}}'.format(f)", "uses .format"),
        ("template.format(f)", "uses .format"),
        ("str.format(template, f)", "uses .format"),
        ("f'{template}'.format(f)", "uses .format"),
        ("'{x.y}'.format_map(names)", "uses .format_map"),
        ("import string\nstring.Formatter", "uses .Formatter"),
        ("import typing\ntyping.get_type_hints(f)", "uses .get_type_hints"),
        ("from typing import ForwardRef", "imports typing.ForwardRef"),
        ("from functools import singledispatch", "imports functools.singledispatch"),
        ("import pytest\npytest.MonkeyPatch()", "uses .MonkeyPatch"),
        ("import pytest\npytest.importorskip('os')", "uses .importorskip"),
        ("import logging.config", "imports logging.config"),
        ("from logging import config", "imports logging.config"),
        ("import logging\nlogging.config.dictConfig(c)", "uses .config"),
    ],
)
def test_ways_to_look_inside_are_refused(source, reason):
    assert reason in judged(source)


@pytest.mark.parametrize(
    "source",
    [
        "assert f(1) == 2",
        "import focal\nfrom focal import f\nassert focal.f(1) == f(1)",
        "from node import Node",
        "import pytest\nwith pytest.raises(ValueError, match='x'): f()",
        "from unittest import TestCase\nclass T(TestCase):\n    def setUp(self): self.x = 1",
        "import math, collections\nfrom collections.abc import Iterator",
        "from inspect import isgenerator\nimport inspect\nassert inspect.isgenerator(f())",
        "import sys\nassert f(sys.maxsize)",
        "assert f.__name__ == 'f' and f.__doc__",
        "assert box.__len__() == 2 and box._private == 1 and a.__iadd__(b)",
        "import focal\nassert focal._helper(1)",
        "assert getattr(box, 'size') == 2 and hasattr(box, 'size')",
        "from focal import Box\nBox.size = 3",
        "box.value = 3\nassert node.f_score == 1",
        "assert f('__main__') == '__init__'",
        "'{:.2f} {} {name!r:>{width}}'.format(1, 2, name=3, width=4)",
        "import focal\nassert focal.format('x') == 'x'",
        "match f():\n    case Point(x=1, y=y): pass",
        "class A:\n    __slots__ = ('x',)",
        "class Odd:\n    def __getattribute__(self, name): return 1",
    ],
)
def test_ordinary_tests_pass(source):
    assert judged(source) == ""
