"""Finding the Python files of an installed package or a folder, without importing anything."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import sysconfig
from dataclasses import dataclass
from hashlib import blake2b
from importlib.machinery import PathFinder
from pathlib import Path

from astor_rl.errors import DataError

STANDARD_LIBRARY = "stdlib"
"""The name under which `MINED_STANDARD_MODULES` are mined as one package."""

_STANDARD_WORDS = """
_markupbase _osx_support _pydecimal _strptime _weakrefset ast base64 bdb bisect bz2 calendar
cgi chunk cmd codecs collections colorsys configparser copy crypt csv dataclasses datetime
decimal difflib dis email encodings enum fileinput filecmp fnmatch formatter fractions ftplib
functools genericpath getopt gettext glob graphlib gzip hashlib heapq hmac html http
imaplib inspect ipaddress json keyword linecache locale logging mailcap mimetypes msilib
nntplib ntpath nturl2path numbers opcode operator optparse os pathlib pickletools pkgutil
plistlib posixpath pprint pstats pydoc quopri random re reprlib rlcompleter
sched secrets shlex shutil smtplib sre_compile sre_parse stat statistics string stringprep
sysconfig tabnanny tarfile telnetlib textwrap timeit token tokenize trace traceback types
typing unittest urllib uu uuid warnings wave weakref wsgiref xdrlib xml zipapp zipfile
"""
MINED_STANDARD_MODULES: tuple[str, ...] = tuple(_STANDARD_WORDS.split())
"""Modules and packages of the standard library worth looking into; absent ones are passed by."""

_SKIPPED_WORDS = """
tests test testing __pycache__ node_modules build dist site-packages venv env vendor _vendor
third_party docs doc examples benchmarks idlelib lib2to3
"""
_SKIPPED_FOLDERS = frozenset(_SKIPPED_WORDS.split())
_MAX_FILE_BYTES = 400_000
_MAX_FILES = 4000


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to mine.

    Attributes:
        path: where it is.
        module: dotted name, `toolz.itertoolz`.
        shown: relative path for diffs, with `/`.
    """

    path: Path
    module: str
    shown: str


@dataclass(frozen=True, slots=True)
class Package:
    """What is mined as one thing.

    Attributes:
        name: distribution or folder name.
        version: of the distribution or Python; a folder's is a hash of its files.
        files: its Python files in a fixed order; tests and vendored code left out.
        root: the folder, when it was given as a path.
    """

    name: str
    version: str
    files: tuple[SourceFile, ...]
    root: Path | None = None


def find_package(spec: str, *, base_dir: Path) -> Package:
    """The package that one `mine:` part names.

    Args:
        spec: a path (it has a separator or starts with `.` or `~`, or such a folder exists below
            `base_dir`), `stdlib`, or the import name of an installed package or module.
        base_dir: what relative paths are relative to.

    Raises:
        DataError: nothing of that name, or no Python files in it.
    """
    folder = (base_dir / Path(spec).expanduser()).resolve()
    looks_like_path = spec.startswith((".", "~", "/")) or os.sep in spec or "/" in spec
    if looks_like_path or (folder.is_dir() and _find(spec) is None):
        return _from_folder(spec, folder)
    if spec == STANDARD_LIBRARY:
        found = [file for name in MINED_STANDARD_MODULES for file in _installed_files(name) or ()]
        return Package(STANDARD_LIBRARY, _python_version(), tuple(found))
    files = _installed_files(spec)
    if files is None:
        raise DataError(
            f"mine:{spec} is neither a folder below {base_dir} nor an installed package; "
            f"install it (pip install {spec}) or give a path (mine:./{spec})"
        )
    if not files:
        raise DataError(f"mine:{spec} has no Python source files to mine")
    return Package(spec, _version(spec), files)


def _from_folder(spec: str, folder: Path) -> Package:
    if folder.is_file() and folder.suffix == ".py":
        single = SourceFile(folder, folder.stem, folder.name)
        return Package(folder.stem, _digest((single,)), (single,), folder.parent)
    if not folder.is_dir():
        raise DataError(f"mine:{spec}: no folder or Python file at {folder}")
    files = _walk(folder, prefix="")
    if not files:
        raise DataError(f"mine:{spec}: no Python files below {folder} (tests are left out)")
    return Package(folder.name, _digest(files), files, folder)


def _find(name: str) -> Path | None:
    """Where a module's file or a package's folder is; parents are not imported."""
    locations: list[str] | None = None
    origin: str | None = None
    qualified = ""
    for part in name.split("."):
        if not part.isidentifier():
            return None
        qualified = f"{qualified}.{part}" if qualified else part
        spec = PathFinder.find_spec(qualified, locations)
        if spec is None:
            return None
        locations = list(spec.submodule_search_locations or ())
        origin = spec.origin
    if locations:
        return Path(locations[0])
    return Path(origin) if origin and origin.endswith(".py") else None


def _installed_files(name: str) -> tuple[SourceFile, ...] | None:
    found = _find(name)
    if found is None:
        # A frozen or compiled module of the standard library may still have its source there.
        candidate = Path(sysconfig.get_path("stdlib")) / Path(*name.split(".")).with_suffix(".py")
        return (SourceFile(candidate, name, f"{name}.py"),) if candidate.is_file() else None
    if found.is_dir():
        return _walk(found, prefix=name)
    return (SourceFile(found, name, name.replace(".", "/") + ".py"),)


def _walk(folder: Path, *, prefix: str) -> tuple[SourceFile, ...]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(d for d in folders if d not in _SKIPPED_FOLDERS and d[0] not in "._")
        for name in sorted(names):
            path = Path(place, name)
            if _is_source(path):
                relative = path.relative_to(folder)
                parts = [p for p in (*prefix.split("."), *relative.with_suffix("").parts) if p]
                module = ".".join(part for part in parts if part != "__init__") or folder.name
                shown = "/".join([*(p for p in prefix.split(".") if p), relative.as_posix()])
                found.append(SourceFile(path, module, shown))
        if len(found) > _MAX_FILES:
            raise DataError(f"{folder} has more than {_MAX_FILES} Python files; mine a subfolder")
    return tuple(found)


def _is_source(path: Path) -> bool:
    if path.suffix != ".py" or path.name.startswith("test_") or path.name == "conftest.py":
        return False
    # A link could lead out of the folder that was asked for.
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= _MAX_FILE_BYTES


def _version(name: str) -> str:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return _python_version()
    owners = importlib.metadata.packages_distributions().get(top, [])
    return importlib.metadata.version(owners[0]) if owners else "unknown"


def _python_version() -> str:
    return f"python{'.'.join(map(str, sys.version_info[:3]))}"


def _digest(files: tuple[SourceFile, ...]) -> str:
    digest = blake2b(digest_size=8)
    for file in files:
        digest.update(f"{file.shown}\0".encode())
        digest.update(file.path.read_bytes())
    return digest.hexdigest()
