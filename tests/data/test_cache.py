from __future__ import annotations

from pathlib import Path

import pytest

from astor_rl.data.cache import Cache, cache_dir


def test_values_come_back(own_cache: Path) -> None:
    cache = Cache("room")
    assert cache.get(["a", 1]) is None
    cache.put(["a", 1], {"x": [1, None, "é"]})
    assert cache.get(["a", 1]) == {"x": [1, None, "é"]}
    assert cache.get(["a", 2]) is None
    assert cache.get(("a", 1)) == {"x": [1, None, "é"]}
    assert cache.path(["a", 1]).is_relative_to(own_cache)


def test_equal_values_make_equal_files() -> None:
    cache = Cache("room")
    cache.put("k", [1])
    first = cache.path("k").read_bytes()
    cache.put("k", [1])
    assert cache.path("k").read_bytes() == first
    assert [path.name for path in cache.path("k").parent.iterdir()] == [cache.path("k").name]


def test_a_damaged_file_is_no_value() -> None:
    cache = Cache("room")
    cache.put("k", list(range(1000)))
    path = cache.path("k")
    whole = path.read_bytes()
    for broken in (b"", b"junk", whole[: len(whole) // 2], whole[:-8] + b"\0" * 8):
        path.write_bytes(broken)
        assert cache.get("k") is None


def test_a_file_of_another_key_is_no_value() -> None:
    cache = Cache("room")
    cache.put("k", 1)
    cache.path("k").rename(cache.path("other"))
    assert cache.get("other") is None


def test_a_folder_that_cannot_be_written_is_not_an_error(own_cache: Path) -> None:
    (own_cache / "room").write_text("a file where the folder should be")
    cache = Cache("room")
    cache.put("k", 1)
    assert cache.get("k") is None


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTOR_CACHE", "~/own")
    assert cache_dir() == Path.home() / "own"
    monkeypatch.delenv("ASTOR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/astor-rl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "astor-rl"
