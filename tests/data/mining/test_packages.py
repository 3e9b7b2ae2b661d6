from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from astor_rl.data.mining.packages import find_package
from astor_rl.errors import DataError


def test_a_folder(make_package: Callable[..., Path], tmp_path: Path) -> None:
    make_package(a="x = 1", test_a="x = 1", conftest="")
    (tmp_path / "own" / "sub").mkdir()
    (tmp_path / "own" / "sub" / "__init__.py").write_text("")
    (tmp_path / "own" / "tests").mkdir()
    (tmp_path / "own" / "tests" / "b.py").write_text("")
    (tmp_path / "own" / "link.py").symlink_to("/etc/hostname")
    found = find_package("./own", base_dir=tmp_path)
    assert [(file.module, file.shown) for file in found.files] == [
        ("a", "a.py"),
        ("sub", "sub/__init__.py"),
    ]
    assert found.root == tmp_path / "own"
    assert find_package("own", base_dir=tmp_path) == found


def test_the_version_of_a_folder_is_its_content(
    make_package: Callable[..., Path], tmp_path: Path
) -> None:
    make_package(a="x = 1")
    first = find_package("./own", base_dir=tmp_path).version
    assert find_package("./own", base_dir=tmp_path).version == first
    make_package(a="x = 2")
    assert find_package("./own", base_dir=tmp_path).version != first


def test_one_file(make_package: Callable[..., Path], tmp_path: Path) -> None:
    make_package(a="x = 1", b="x = 2")
    found = find_package("./own/a.py", base_dir=tmp_path)
    assert [file.module for file in found.files] == ["a"]


def test_an_installed_package_is_not_imported(tmp_path: Path) -> None:
    before = set(sys.modules)
    found = find_package("toolz", base_dir=tmp_path)
    assert "toolz.itertoolz" in {file.module for file in found.files}
    assert {file.shown for file in found.files if file.module == "toolz.itertoolz"} == {
        "toolz/itertoolz.py"
    }
    assert found.version[0].isdigit()
    assert not {name for name in set(sys.modules) - before if name.startswith("toolz")}


@pytest.mark.parametrize("name", ["textwrap", "urllib.parse", "stdlib", "posixpath"])
def test_the_standard_library(tmp_path: Path, name: str) -> None:
    found = find_package(name, base_dir=tmp_path)
    assert found.files
    assert found.version.startswith("python3.")
    if name != "stdlib":
        assert [file.module for file in found.files] == [name]


@pytest.mark.parametrize("spec", ["./absent", "no_such_package_here", "a-b", "math", "./empty"])
def test_what_cannot_be_found_is_one_line(tmp_path: Path, spec: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        find_package(spec, base_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert f"mine:{spec}" in str(caught.value)
