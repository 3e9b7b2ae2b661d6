"""Untrusted source as a module in a namespace of its own."""

from __future__ import annotations

import builtins
import linecache
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any, Final

from astor_rl.sandbox import codec

_TEXT_LIMIT = 300


def describe(error: BaseException, limit: int = _TEXT_LIMIT) -> tuple[str, str]:
    """Type name and cut text of an exception, whose `__str__` may be hostile."""
    try:
        text = str(error)
        text = text[:limit] if type(text) is str else ""
    except BaseException:  # noqa: BLE001 - anything can come out of an untrusted __str__
        text = ""
    return codec.class_name(error), text


def one_line(error: BaseException, limit: int = _TEXT_LIMIT) -> str:
    """`TypeError: text`, or the name alone."""
    return ": ".join(filter(None, describe(error, limit)))


def _copied_builtins() -> ModuleType:
    copy = ModuleType("builtins", builtins.__doc__)
    copy.__dict__.update(builtins.__dict__)
    return copy


# A copy counts a reference to everything in it, which is on dozens of pages: after the fork each of
# them would have to be copied too. Every process has this one to itself and uses it once.
_prepared: Final = [_copied_builtins()]


def share_no_builtins() -> ModuleType:
    """A copy of `builtins` for untrusted code to patch; the harness keeps the original."""
    copy = _prepared.pop() if _prepared else _copied_builtins()
    sys.modules["builtins"] = copy
    return copy


def show(filename: str, text: str) -> None:
    """Give tracebacks and `inspect` the text of a file that isn't there; none if it is empty."""
    linecache.cache.pop(filename, None)
    if text:
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)


def compiled(source: Any, filename: str, text: str | None = None) -> CodeType:
    """Compile source or a tree, showing the text to tracebacks and `inspect`.

    Args:
        source: text or a tree.
        filename: what tracebacks name.
        text: what they show; the source itself by default, nothing if empty.

    Raises:
        SyntaxError: also for what the parser has other errors for (null bytes, deep nesting).
    """
    show(filename, source if text is None else text)
    try:
        return compile(source, filename, "exec", dont_inherit=True)
    except SyntaxError:
        raise
    except (ValueError, MemoryError, RecursionError, OverflowError) as error:
        raise SyntaxError(f"{type(error).__name__}: {error}") from error


def execute(
    name: str, code: CodeType, filename: str, builtins_module: ModuleType | None = None
) -> ModuleType:
    """A fresh module `name`, registered (with its parent packages) and executed."""
    module = ModuleType(name)
    module.__file__ = filename
    module.__dict__["__builtins__"] = builtins_module or share_no_builtins()
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(_package(parent), leaf, module)
        module.__package__ = parent
    sys.modules[name] = module
    exec(code, module.__dict__)
    return module


def _package(name: str) -> ModuleType:
    package = sys.modules.get(name)
    if package is None:
        package = sys.modules[name] = ModuleType(name)
        package.__path__ = []
    return package


def load(name: str, source: str) -> tuple[ModuleType | None, tuple[str, str]]:
    """Execute source as module `name`.

    Returns:
        the module, or None and (status, message).
    """
    filename = f"{name}.py"
    try:
        return execute(name, compiled(source, filename), filename), ("ok", "")
    except MemoryError:
        return None, ("memory", "MemoryError while loading")
    except BaseException as error:  # noqa: BLE001 - SystemExit is a failure to load too
        return None, ("error", one_line(error))


def module_name(path: str) -> str | None:
    """`pkg/mod.py` -> `pkg.mod`; `pkg/__init__.py` -> `pkg`; None for what isn't Python."""
    if not path.endswith(".py"):
        return None
    return path[: -len(".py")].replace("/", ".").removesuffix(".__init__")


class SourceFinder(MetaPathFinder, Loader):
    """Imports modules from a mapping of file names to sources, in memory."""

    def __init__(self, files: Mapping[str, str]) -> None:
        named = ((module_name(path), path) for path in files)
        self._paths = {name: path for name, path in named if name}
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The import system's question: do you have this module?"""
        file = self._paths.get(fullname)
        inner = any(name.startswith(fullname + ".") for name in self._paths)
        if file is None and not inner:
            return None
        spec = ModuleSpec(fullname, self, origin=file, is_package=inner)
        spec.has_location = file is not None
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """The import system's request: run it."""
        file = self._paths.get(module.__name__)
        if file is not None:
            code = compiled(self._files[file], file)
            module.__dict__["__builtins__"] = sys.modules["builtins"]
            exec(code, module.__dict__)

    def forget(self, others: Iterable[str] = ()) -> None:
        """Drop this finder's modules, and others, so that the next import is fresh."""
        for name in (*self._paths, *others):
            sys.modules.pop(name, None)
