"""Directories that can't be removed by path, or not by recursion."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from astor_rl.sandbox.inside import emptying


def _descend(folder: Path, name: str, levels: int, mode: int = 0o700) -> None:
    """Nest directories below `folder`, each with a file, the innermost first made unreadable."""
    above = os.open(folder, os.O_RDONLY)
    opened = [above]
    for _ in range(levels):
        os.mkdir(name, dir_fd=opened[-1])
        below = os.open(name, os.O_RDONLY, dir_fd=opened[-1])
        os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=below))
        if mode != 0o700:
            os.fchmod(opened[-1], mode)
        os.close(opened.pop())
        opened.append(below)
    os.fchmod(opened[-1], mode)
    os.close(opened.pop())


@pytest.mark.parametrize(
    ("name", "levels"), [("d", 3000), ("d" * 250, 40)], ids=["deep", "longer than a path"]
)
def test_any_depth(tmp_path: Path, name: str, levels: int) -> None:
    _descend(tmp_path, name, levels)
    assert emptying.emptied(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_any_mode(tmp_path: Path) -> None:
    _descend(tmp_path, "d" * 250, 20, mode=0o300)
    (tmp_path / "other").mkdir(mode=0)
    tmp_path.chmod(0)
    assert emptying.emptied(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_links_lead_to_stays(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o500)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "d").mkdir()
    for link in ("link", "d/link"):
        (tmp_path / "work" / link).symlink_to(kept)
    assert emptying.emptied(str(tmp_path / "work"))
    assert list((tmp_path / "work").iterdir()) == []
    assert kept.stat().st_mode & 0o777 == 0o500


def test_times_and_mode_tell_nothing(tmp_path: Path) -> None:
    for fill in (False, True):
        if fill:
            (tmp_path / "f").write_text("x")
        os.utime(tmp_path, ns=(4242, 4343))
        tmp_path.chmod(0o751)
        assert emptying.emptied(str(tmp_path))
        found = tmp_path.stat()
        assert (found.st_atime_ns, found.st_mtime_ns, found.st_mode & 0o777) == (0, 0, 0o700)


def test_what_is_gone_is_not_emptied(tmp_path: Path) -> None:
    assert not emptying.emptied(str(tmp_path / "absent"))


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    _descend(tmp_path, "d", 5)
    assert emptying.emptied(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before
