"""Empties a directory that a job could fill as it liked: any depth, any modes, links anywhere.

Paths are never put together: a tree may be deeper than a path may be long. One directory is open at
a time, however deep, and nothing is recursive. Links aren't followed.
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_START: Final = (0, 0)


class _Level(NamedTuple):
    """A directory on the way down.

    Attributes:
        name: in the directory above.
        identity: device and inode, to know it again on the way up.
        left: names of directories in it.
    """

    name: str
    identity: tuple[int, int]
    left: list[str]


def reset(folder: str) -> bool:
    """Give a directory its mode and times back: they would tell the next what the last one left.

    Returns:
        whether it is empty.

    Raises:
        OSError: it is gone, or another's.
    """
    os.chmod(folder, stat.S_IRWXU)
    empty = not os.listdir(folder)
    os.utime(folder, _START)
    return empty


def emptied(folder: str) -> bool:
    """Empty a directory, and reset it; False where that is impossible.

    Nobody may change it meanwhile; who does makes it fail, but not go elsewhere.
    """
    try:
        if reset(folder):
            return True
        _empty(os.open(folder, _FOLDER))
        return reset(folder)
    except OSError:
        return False


def _empty(descriptor: int) -> None:
    """Empty the open directory, and close it."""
    try:
        levels = [_entered("", descriptor)]
        while True:
            level = levels[-1]
            if level.left:
                name = level.left.pop()
                below = _opened(name, descriptor)
                os.close(descriptor)
                descriptor = below
                levels.append(_entered(name, descriptor))
                continue
            levels.pop()
            if not levels:
                return
            above = os.open("..", _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = above
            if _identity(descriptor) != levels[-1].identity:
                raise OSError(f"the directory above {level.name!r} is another one")
            os.rmdir(level.name, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _entered(name: str, descriptor: int) -> _Level:
    """Remove what isn't a directory."""
    os.fchmod(descriptor, stat.S_IRWXU)
    with os.scandir(descriptor) as found:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    for entry, is_folder in entries:
        if not is_folder:
            os.unlink(entry, dir_fd=descriptor)
    folders = [entry for entry, is_folder in entries if is_folder]
    return _Level(name, _identity(descriptor), folders)


def _opened(name: str, above: int) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except PermissionError:
        _unlock(name, above)
        return os.open(name, _FOLDER, dir_fd=above)


def _unlock(name: str, above: int) -> None:
    handle = os.open(name, _HANDLE, dir_fd=above)
    try:
        os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)
    except FileNotFoundError:
        # Where there is no /proc, no process of the job is left that could put a link there.
        os.chmod(name, stat.S_IRWXU, dir_fd=above)
    finally:
        os.close(handle)


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino
