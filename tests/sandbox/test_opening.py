from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest

from astor_rl.config import SandboxConfig
from astor_rl.errors import DependencyError, SandboxError
from astor_rl.sandbox.opening import open_pool, survey_servers
from astor_rl.sandbox.pool import ProcessPool


def test_without_servers_the_pool_is_this_machines() -> None:
    with open_pool(SandboxConfig(workers=3)) as pool:
        assert isinstance(pool, ProcessPool)
        assert pool.workers == 3
    with pytest.raises(SandboxError, match="allow_missing names 'nets'"):
        open_pool(SandboxConfig(allow_missing=["nets"]))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("astor_rl.sandbox.remote.")]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "httpx2":
            raise ModuleNotFoundError("No module named 'httpx2'", name="httpx2")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    settings = SandboxConfig(url="http://127.0.0.1:9")
    for use in (open_pool, survey_servers):
        with pytest.raises(DependencyError, match=r"'httpx2'; pip install 'astor-rl\[remote\]'"):
            use(settings)
