"""Several servers, some of which go away, come back, or are not what they should be."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

from astor_rl.errors import SandboxError
from astor_rl.sandbox.api import CallJob, Limits, Outcome
from astor_rl.sandbox.protections import GUARANTEES
from astor_rl.sandbox.remote import fleet, wire
from astor_rl.sandbox.remote.client import RemotePool

ROOM = Limits(wall_s=60, cpu_s=20)
ENDLESS = CallJob("while True: pass", (), limits=Limits(wall_s=600, cpu_s=600))


def numbers(count: int) -> list[CallJob]:
    return [CallJob("", (str(i),), limits=ROOM) for i in range(count)]


def running(url: str, token: str) -> int:
    headers = {"authorization": f"Bearer {token}"}
    reply = httpx2.get(url + wire.HEALTH_PATH, headers=headers, trust_env=False, timeout=60)
    return int(reply.json()["running"])


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it never came")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_job_goes_on_elsewhere_when_its_server_is_killed(
    serve: Any, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    servers = [serve("--workers", "1"), serve("--workers", "1")]
    with RemotePool([s.url for s in servers], token=token, patience_s=0.1) as pool:
        assert pool.workers == 2
        held: Future[Outcome] = pool._enqueue(ENDLESS)
        wait_until(lambda: sum(running(s.url, token) for s in servers) == 1)
        servers.sort(key=lambda s: running(s.url, token))
        spare, first = servers
        first.kill()
        wait_until(lambda: running(spare.url, token) == 1)
        wait_until(lambda: warnings_of(caplog))
        assert len(warnings_of(caplog)) == 1
        assert f"sandbox server {first.url} is out" in warnings_of(caplog)[0]
        spare.kill()
        with pytest.raises(SandboxError, match="no sandbox server has answered") as caught:
            held.result(timeout=60)
        assert first.url in str(caught.value)
        assert spare.url in str(caught.value)


def test_a_server_that_comes_back_gets_jobs_again(
    serve: Any, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve("--workers", "1")
    with RemotePool([server.url], token=token) as pool:
        assert len(list(pool.map(numbers(3)))) == 3
        server.kill()
        held = pool._enqueue(numbers(1)[0])
        wait_until(lambda: warnings_of(caplog))
        serve("--workers", "1", "--port", str(server.port))
        assert held.result(timeout=60).calls[0].value == 0
        assert f"sandbox server {server.url} is back" in warnings_of(caplog)


def test_a_server_that_is_away_at_the_start_is_no_obstacle(
    server: Any, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RemotePool(["http://127.0.0.1:9", server.url], token=token) as pool:
        assert [o.calls[0].value for o in pool.map(numbers(10))] == list(range(10))
        wait_until(lambda: warnings_of(caplog))
    assert len(warnings_of(caplog)) == 1
    assert "http://127.0.0.1:9 is out: can't connect" in warnings_of(caplog)[0]


def test_no_server_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "CONNECT_S", 0.1)
    with pytest.raises(SandboxError, match=r"no sandbox server answers: http://127\.0\.0\.1:9: "):
        RemotePool(["http://127.0.0.1:9"])


def test_a_wrong_token_is_said_at_once(server: Any) -> None:
    with pytest.raises(
        SandboxError, match=f"sandbox server {server.url} answers 401: the token is missing"
    ):
        RemotePool([server.url], token="wrong-horse-battery-staple")


class Impostor(ThreadingHTTPServer):
    """Says of itself what it is told to, and answers jobs with given bytes (None: it hangs up)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.health = b""
        self.status = 200
        self.answer: bytes | None = None
        self.hangs = False
        self.ended = threading.Event()
        self.jobs = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Impostor

    def do_GET(self) -> None:
        self.reply(200, self.server.health)

    def do_POST(self) -> None:
        self.server.jobs += 1
        if self.server.hangs:
            self.server.ended.wait()
            return
        self.rfile.read(int(self.headers["content-length"]))
        if self.server.answer is not None:
            self.reply(self.server.status, self.server.answer)

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def honest(server: Any, token: str) -> wire.ServerInfo:
    headers = {"authorization": f"Bearer {token}"}
    reply = httpx2.get(server.url + wire.HEALTH_PATH, headers=headers, trust_env=False)
    return wire.unpack_info(reply.content)


@pytest.fixture
def impostor(honest: wire.ServerInfo) -> Iterator[Impostor]:
    with Impostor() as found:
        found.health = wire.pack_info(honest)
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.ended.set()
        found.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"astor": "9.9"}, r"runs astor-rl 9\.9 on Python .* verdicts could differ"),
        ({"python": "3.99"}, r"on Python 3\.99"),
        ({"wire": 7}, "speaks version 7 of the protocol, not 1"),
        ({"missing": {"netns": "EPERM"}}, r"the sandbox lacks netns \(EPERM\).*allow_missing"),
    ],
)
def test_a_server_that_does_not_suit_is_refused(
    changes: dict[str, Any], says: str, impostor: Impostor, honest: wire.ServerInfo
) -> None:
    impostor.health = wire.pack_info(replace(honest, **changes))
    with pytest.raises(SandboxError, match=says):
        RemotePool([impostor.url])


def test_a_weaker_server_may_be_allowed_by_name(
    impostor: Impostor, honest: wire.ServerInfo
) -> None:
    impostor.health = wire.pack_info(replace(honest, missing={"netns": "EPERM", "ipcns": "EPERM"}))
    with pytest.raises(SandboxError, match="lacks ipcns"):
        RemotePool([impostor.url], allow_missing=["netns"])
    RemotePool([impostor.url], allow_missing=tuple(GUARANTEES)).close()


def test_what_is_no_sandbox_server_is_refused(impostor: Impostor) -> None:
    for health in (b"", b"<html>", b"{}", b'{"wire": 1}'):
        impostor.health = health
        with pytest.raises(SandboxError, match=f"sandbox server {impostor.url}: "):
            RemotePool([impostor.url])


@pytest.mark.parametrize("answer", [None, b"", b"{}", b'{"status": "ok"}', b" " * (9 << 20)])
def test_a_job_that_gets_no_reply_three_times_is_no_verdict(
    answer: bytes | None, impostor: Impostor
) -> None:
    impostor.answer = answer
    with RemotePool([impostor.url]) as pool:
        (outcome,) = pool.map(numbers(1))
    assert outcome.status == "infra_error"
    assert outcome.message.startswith("sandbox failure: 3 servers in turn gave no reply: ")
    assert impostor.jobs == 3


def test_a_server_that_hangs_is_not_waited_for_beyond_the_jobs_limits(
    impostor: Impostor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "deadline_s", lambda job: 1.5)
    impostor.hangs = True
    with RemotePool([impostor.url]) as alone:
        (outcome,) = alone.map(numbers(1))
    assert outcome.status == "infra_error"
    assert outcome.message.endswith("no reply within 2 s")
    assert impostor.jobs == 3


def test_a_server_whose_sandbox_fails_is_an_error_and_no_verdict(impostor: Impostor) -> None:
    impostor.status, impostor.answer = 500, wire.pack_error("can't start")
    with (
        RemotePool([impostor.url]) as pool,
        pytest.raises(SandboxError, match=f"sandbox server {impostor.url}: can't start"),
    ):
        next(pool.map(numbers(1)))
    assert impostor.jobs == 3


def test_a_refused_job_is_an_error_and_no_verdict(server: Any, token: str) -> None:
    with (
        RemotePool([server.url], token=token) as pool,
        pytest.raises(SandboxError, match=r"answers 400: job\.limits\.wall_s is 1000000000\.0"),
    ):
        next(pool.map([CallJob("", (), limits=Limits(wall_s=1e9))]))


def test_one_that_comes_back_weaker_stays_out(
    impostor: Impostor, honest: wire.ServerInfo, server: Any, token: str
) -> None:
    with RemotePool([impostor.url, server.url], token=token) as pool:
        impostor.health = wire.pack_info(replace(honest, missing={"seccomp": "EINVAL"}))
        assert [o.calls[0].value for o in pool.map(numbers(20))] == list(range(20))
        before = impostor.jobs
        assert [o.calls[0].value for o in pool.map(numbers(20))] == list(range(20))
        assert impostor.jobs == before


@pytest.mark.slow
def test_2000_jobs_in_order_through_two_servers_one_of_which_is_killed(
    serve: Any, token: str
) -> None:
    servers = [serve("--workers", "1"), serve("--workers", "1")]
    seen = []
    with RemotePool([s.url for s in servers], token=token) as pool:
        for outcome in pool.map(numbers(2000)):
            seen.append(outcome.calls[0].value)
            if len(seen) == 500:
                servers[0].kill()
    assert seen == list(range(2000))
