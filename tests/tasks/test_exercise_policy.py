from __future__ import annotations

import ast

import pytest

from astor_rl.tasks.exercise_policy import forgery


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import unittest", "imports unittest"),
        ("from unittest import TestCase", "imports unittest"),
        ("import unittest.case as c", "imports unittest.case"),
        ("import gc", "imports gc"),
        ("import ctypes.util", "imports ctypes.util"),
        ("from inspect import stack", "imports inspect"),
        ("import os\nos._exit(0)", "imports os"),
        ("from random import _os as os\nos._exit(0)", "uses _exit"),
        ("import sys\nsys._getframe()", "uses _getframe"),
        ("import sys as s\ns.modules", "uses modules"),
        ("from sys import _getframe", "imports sys._getframe"),
        ("from sys import *", "imports sys.*"),
        ("import sys\ngetattr(sys, '_getframe')()", "uses _getframe"),
        ("import sys\ngetattr(sys, '_get' + 'frame')()", "computed name"),
        ("__import__('unittest')", "uses __import__"),
        ("eval('1')", "uses eval"),
        ("f.__globals__", "uses __globals__"),
        ("g.gi_frame.f_back", "uses f_back"),
        ("e.__traceback__", "uses __traceback__"),
        ("class A:\n    def __eq__(self, other): return True", "equals everything"),
        ("def __getattr__(name): return 1", "the module's __getattr__"),
    ],
)
def test_means_to_forge_a_verdict_are_refused(source, reason):
    assert reason in forgery(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nLIMIT = sys.maxsize\nsys.setrecursionlimit(9999)",
        "import re, math, itertools, threading, json, io\nfrom datetime import datetime",
        "class A:\n    def __eq__(self, other): return self.x == other.x",
        "class A:\n    def __getattr__(self, name): return getattr(self.inner, name)",
        "class A:\n    def __enter__(self): return self.__dict__",
        "import unit",
        "from . import helper",
    ],
)
def test_ordinary_solutions_pass(source):
    assert forgery(ast.parse(source)) == ""
