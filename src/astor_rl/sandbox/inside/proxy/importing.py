"""Modules of the other side, to import as if they were here."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from astor_rl.sandbox.inside import modules
from astor_rl.sandbox.inside.proxy.peer import Peer
from astor_rl.sandbox.inside.proxy.standin import attribute

_KEY: Final = "@module"


class StandInModule(ModuleType):
    """A module whose attributes are looked up in the other process, each time anew."""

    def __getattr__(self, name: str) -> Any:
        return attribute(self.__dict__[_KEY], name)

    def __setattr__(self, name: str, value: Any) -> None:
        # What the import system sets, its submodules too, is of here.
        if name.startswith("__") or isinstance(value, ModuleType):
            super().__setattr__(name, value)
        else:
            setattr(self.__dict__[_KEY], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__dict__[_KEY], name)

    def __dir__(self) -> list[str]:
        return dir(self.__dict__[_KEY])


def importable(files: Collection[str]) -> frozenset[str]:
    """Import names of the modules in files, with the packages that they are in."""
    names = set()
    for path in files:
        name = modules.module_name(path) or ""
        while name:
            names.add(name)
            name = name.rpartition(".")[0]
    return frozenset(names)


class StandInFinder(MetaPathFinder, Loader):
    """Imports modules of the other side.

    Args:
        peer: asks it.
        names: which ones.
    """

    def __init__(self, peer: Peer, names: frozenset[str]) -> None:
        self._peer = peer
        self._names = names

    def install(self) -> None:
        """Be asked first, for modules that the library has under such a name as well."""
        sys.meta_path.insert(0, self)
        for name in self._names:
            sys.modules.pop(name, None)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The import system's question: do you have this module?"""
        if fullname not in self._names:
            return None
        inner = any(name.startswith(f"{fullname}.") for name in self._names)
        return ModuleSpec(fullname, self, is_package=inner)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The import system's request: make it. What importing it raises is raised here.

        Raises:
            anything: the module does.
        """
        module = StandInModule(spec.name)
        there, names = self._peer.ask("import", spec.name)
        module.__dict__.update({_KEY: there, "__all__": names})
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The import system's request: run it. The other process has done so."""
