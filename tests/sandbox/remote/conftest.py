"""Real servers in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from astor_rl.sandbox.remote.client import RemotePool

TOKEN = "correct-horse-battery-staple"


@dataclass
class Server:
    """A running `astor sandbox serve`."""

    process: subprocess.Popen[str]
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


Serve = Callable[..., Server]


def _start(started: list[subprocess.Popen[str]], token_file: Path) -> Serve:
    def serve(*arguments: str, token: bool = True) -> Server:
        given = ["--token-file", str(token_file)] if token else []
        command = [sys.executable, "-m", "astor_rl", "sandbox", "serve", "--port", "0"]
        process = subprocess.Popen(
            [*command, *given, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"serving on (https?://\S+): \d+ workers, protections (\w+)\n", line)
        assert found, line
        return Server(process, found[1])

    return serve


def _stop(started: list[subprocess.Popen[str]]) -> None:
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="session")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
def serve(token_file: Path) -> Iterator[Serve]:
    """Start servers that end with the test; arguments are those of `astor sandbox serve`."""
    started: list[subprocess.Popen[str]] = []
    yield _start(started, token_file)
    _stop(started)


@pytest.fixture(scope="session")
def server(token_file: Path) -> Iterator[Server]:
    """One server for every test that leaves it as it was."""
    started: list[subprocess.Popen[str]] = []
    yield _start(started, token_file)("--workers", "2")
    _stop(started)


@pytest.fixture(scope="session")
def remote(server: Server) -> Iterator[RemotePool]:
    with RemotePool([server.url], token=TOKEN) as pool:
        yield pool


@pytest.fixture(scope="session")
def token() -> str:
    return TOKEN
