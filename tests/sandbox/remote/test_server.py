"""A server as strangers, busy trainers and its own machine meet it."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx2
import pytest

from astor_rl.errors import SandboxError
from astor_rl.sandbox.api import CallJob, Limits, Outcome
from astor_rl.sandbox.remote import wire
from astor_rl.sandbox.remote.client import RemotePool
from astor_rl.sandbox.remote.server import ServeOptions
from astor_rl.sandbox.remote.server import serve as serve_here

Descendants = Callable[[int], set[int]]
ROOM = Limits(wall_s=60, cpu_s=20)
ENDLESS = CallJob("while True: pass", (), limits=Limits(wall_s=600, cpu_s=600))
SECOND = CallJob("import time\nwhile time.process_time() < 1: pass", ("7",), limits=ROOM)


@pytest.fixture
def http(server: Any, token: str) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60) as client:
        yield client


def post(http: httpx2.Client, body: bytes, **given: Any) -> httpx2.Response:
    return http.post(wire.JOBS_PATH, content=body, **given)


def running(http: httpx2.Client) -> int:
    return int(http.get(wire.HEALTH_PATH).json()["running"])


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it never came")


def start(pool: RemotePool, job: CallJob) -> Future[Outcome]:
    return pool._enqueue(job)


def test_a_job_by_hand(http: httpx2.Client) -> None:
    reply = post(http, wire.pack_job(CallJob("", ("1 + 1",), limits=ROOM)))
    assert reply.status_code == 200
    assert wire.unpack_outcome(reply.content).calls[0].value == 2
    info = wire.unpack_info(http.get(wire.HEALTH_PATH).content)
    assert (info.workers, info.queue, info.tier) == (2, 8, "full")
    assert (info.running, info.queued, info.stopping) == (0, 0, False)
    assert "seccomp" in info.applied


@pytest.mark.parametrize(
    "header",
    [{}, {"authorization": "Bearer"}, {"authorization": "Bearer correct-horse-battery-stapl"},
     {"authorization": "Basic correct-horse-battery-staple"}, {"x-token": "1"}],
)  # fmt: skip
def test_without_the_token_nothing_is_said(server: Any, header: dict[str, str]) -> None:
    for method, path in (("GET", wire.HEALTH_PATH), ("POST", wire.JOBS_PATH), ("GET", "/")):
        reply = httpx2.request(method, server.url + path, headers=header, trust_env=False)
        assert (reply.status_code, reply.json()) == (
            401,
            {"error": "the token is missing or wrong"},
        )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "job is not JSON"),
        (b"\x80\x04K\x01.", "job is not JSON"),
        (b"{}", "it must be a table with one key of"),
        (b'{"CallJob": {"code": "1"}}', "lacks the key 'calls'"),
        (b"[" * 1_000_000, "job is not JSON"),
        (wire.forms.dumps(CallJob("", (), limits=Limits(wall_s=1e9)), wire.Job), "wall_s"),
    ],
)
def test_garbage_is_answered_with_one_line(http: httpx2.Client, body: bytes, says: str) -> None:
    reply = post(http, body)
    assert reply.status_code == 400
    (line,) = reply.json().values()
    assert says in line
    assert "\n" not in line


def test_other_paths_and_methods(http: httpx2.Client) -> None:
    assert http.get("/").status_code == 404
    assert http.get("/v2/health").json() == {
        "error": "nothing is here; this server speaks version 1"
    }
    assert http.get(wire.JOBS_PATH).status_code == 405
    assert http.post(wire.HEALTH_PATH).status_code == 405


def test_what_is_too_large_is_not_read(http: httpx2.Client, server: Any, token: str) -> None:
    head = f"POST {wire.JOBS_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(f"{head}content-length: {wire.MAX_REQUEST + 1}\r\n\r\n".encode())
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 413")

    def endless() -> Iterator[bytes]:  # says no length
        for _ in range((wire.MAX_REQUEST >> 20) + 8):
            yield b" " * (1 << 20)

    with contextlib.suppress(httpx2.TransportError):  # it leaves while more is being sent
        assert http.post(wire.JOBS_PATH, content=endless()).status_code == 413
    assert running(http) == 0


def test_a_long_header_is_refused(server: Any) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000)
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 4")


def test_half_requests_hold_nobody_up(server: Any, token: str, remote: RemotePool) -> None:
    head = f"POST {wire.JOBS_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
    try:
        for index, raw in enumerate(sockets):
            whole = f"{head}content-length: 1000\r\n\r\n{{"
            raw.sendall((whole if index % 2 else whole[: index % 50]).encode())
        jobs = [CallJob("", (str(i),), limits=ROOM) for i in range(10)]
        assert [outcome.calls[0].value for outcome in remote.map(jobs)] == list(range(10))
    finally:
        for raw in sockets:
            raw.close()


def test_a_full_server_says_when_to_come_back(serve: Any, token: str) -> None:
    server = serve("--workers", "1", "--queue", "1")
    headers = {"authorization": f"Bearer {token}"}
    with (
        RemotePool([server.url], token=token) as one,
        RemotePool([server.url], token=token) as other,
        httpx2.Client(base_url=server.url, headers=headers, trust_env=False) as http,
    ):
        held = [start(one, SECOND), start(one, SECOND)]
        wait_until(lambda: http.get(wire.HEALTH_PATH).json()["queued"] == 1 or held[0].done())
        while not held[0].done():
            reply = post(http, wire.pack_job(CallJob("", ("1",), limits=ROOM)))
            if reply.status_code == 503:
                assert reply.headers["retry-after"] == "1"
                assert reply.json() == {"error": "the server is full"}
                break
        # Those who wait get their turn, from whichever trainer they come.
        jobs = [CallJob("", (str(i),), limits=ROOM) for i in range(6)]
        assert [outcome.calls[0].value for outcome in other.map(jobs)] == list(range(6))
        assert [future.result().calls[0].value for future in held] == [7, 7]


def test_a_caller_that_leaves_takes_its_waiting_job_along(serve: Any, token: str) -> None:
    server = serve("--workers", "1", "--queue", "4")
    with httpx2.Client(
        base_url=server.url, headers={"authorization": f"Bearer {token}"}, trust_env=False
    ) as http:
        one = RemotePool([server.url], token=token)
        start(one, ENDLESS)
        wait_until(lambda: running(http) == 1)
        start(one, ENDLESS)
        wait_until(lambda: http.get(wire.HEALTH_PATH).json()["queued"] == 1)
        one.close()
        wait_until(lambda: http.get(wire.HEALTH_PATH).json()["queued"] == 0)
        assert running(http) == 1


def test_sigterm_lets_running_jobs_end(serve: Any, token: str, descendants: Descendants) -> None:
    server = serve("--workers", "1", "--grace", "120")
    with RemotePool([server.url], token=token) as pool, httpx2.Client(
        base_url=server.url, headers={"authorization": f"Bearer {token}"}, trust_env=False
    ) as http:  # fmt: skip
        held = start(pool, SECOND)
        # A job counts as running while its zygote is still being started.
        wait_until(lambda: (running(http) == 1 and descendants(server.process.pid)) or held.done())
        below = descendants(server.process.pid)
        server.process.terminate()
        assert held.result(timeout=20).calls[0].value == 7
        assert server.process.wait(timeout=20) == 0
        assert server.process.stdout.read() == ""
    assert below
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_jobs_that_outlast_their_grace_end_with_the_server(
    name: str, serve: Any, token: str, descendants: Descendants, capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve("--workers", "1", "--grace", "0")
    pool = RemotePool([server.url], token=token, patience_s=0.1)
    held = start(pool, ENDLESS)
    with httpx2.Client(headers={"authorization": f"Bearer {token}"}, trust_env=False) as http:
        wait_until(lambda: http.get(server.url + wire.HEALTH_PATH).json()["running"] == 1)
    below = descendants(server.process.pid)
    server.process.send_signal(getattr(signal, name))
    assert server.process.wait(timeout=20) == 0
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
    with pytest.raises(SandboxError, match=r"no sandbox server has answered for 0\.1 s: http://"):
        held.result(timeout=20)
    pool.close()
    assert "Traceback" not in capfd.readouterr().err


def test_kill_9_of_a_server_ends_everything(
    serve: Any, token: str, descendants: Descendants
) -> None:
    server = serve("--workers", "2")
    pool = RemotePool([server.url], token=token)
    start(pool, ENDLESS)
    with httpx2.Client(headers={"authorization": f"Bearer {token}"}, trust_env=False) as http:
        wait_until(lambda: http.get(server.url + wire.HEALTH_PATH).json()["running"] == 1)
    below = descendants(server.process.pid)
    assert below
    server.kill()
    wait_until(lambda: not [pid for pid in below if alive(pid)])
    pool.close()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_the_token_is_nowhere_to_be_read(server: Any, token: str) -> None:
    pid = server.process.pid
    for name in ("cmdline", "environ"):
        assert token.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"host": "0.0.0.0"}, "there is no token; pass --token-file or set ASTOR_SANDBOX_TOKEN"),
        ({"host": "::", "token_file": "TOKEN"}, "there is no TLS.*--tls-cert.*or --insecure"),
        ({"tls_cert": "x"}, "TLS needs both --tls-cert and --tls-key"),
        ({"tls_cert": "/gone", "tls_key": "/gone"}, "TLS certificate '/gone' .*can't be used"),
        ({"token_file": "/gone"}, "token file '/gone' can't be read"),
        ({"host": "203.0.113.1", "insecure": True, "token_file": "TOKEN"}, "can't listen on 203"),
        ({"allow_missing": ("nets",)}, "allow_missing names 'nets'"),
    ],
)
def test_what_would_be_unsafe_or_wrong_is_refused(
    options: dict[str, Any], says: str, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ASTOR_SANDBOX_TOKEN", raising=False)
    if options.get("token_file") == "TOKEN":
        options = {**options, "token_file": str(token_file)}
    with pytest.raises(SandboxError, match=says):
        serve_here(ServeOptions(workers=1, **options), note=pytest.fail)


def test_a_port_in_use_is_one_line_on_the_command_line(server: Any) -> None:
    command = [sys.executable, "-m", "astor_rl", "sandbox", "serve", "--port", str(server.port)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"error: can't listen on 127\.0\.0\.1:{server.port}: .*\n", done.stderr)


def test_the_token_may_come_from_the_environment(
    serve: Any, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTOR_SANDBOX_TOKEN", token)
    server = serve("--workers", "1", token=False)
    with pytest.raises(SandboxError, match="answers 401"):
        RemotePool([server.url])
    with RemotePool([server.url], token=token) as pool:
        job = CallJob("import os", ("'ASTOR_SANDBOX_TOKEN' in os.environ",), limits=ROOM)
        assert next(pool.map([job])).calls[0].value is False
