"""`astor sandbox`, and the commands that use its servers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from astor_rl import doctor
from astor_rl.cli.app import run
from astor_rl.config import SandboxConfig, load_config
from astor_rl.doctor import Check, sandbox_servers
from astor_rl.errors import ConfigError

TOKEN = "correct-horse-battery-staple"
DEAD = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "astor_rl", "sandbox", "serve", "--port", "0", "--workers", "2"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ASTOR_SANDBOX_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    found = re.match(r"serving on (\S+): 2 workers, protections full\n", process.stdout.readline())
    assert found
    yield found[1]
    process.terminate()
    assert process.wait() == 0
    process.stdout.close()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"Write f{i}, which adds {i}.", "entry_point": f"f{i}",
         "reference": f"def f{i}(x):\n    return x + {i}",
         "tests": [f"assert f{i}({k}) == {i + k}" for k in range(3)]}
        for i in range(6)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "run.toml"
    path.write_text(
        'model = "m"\n[data]\nvalidation_share = 0\ntest_share = 0\n'
        '[[tasks]]\nname = "code"\ntask = "code_generation"\nsource = "jsonl:rows.jsonl"\n'
    )
    return path


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sandbox", "--help"]) == 0
    assert "serve" in capsys.readouterr().out
    assert run(["sandbox", "serve", "--help"]) == 0
    assert "--tls-cert" in capsys.readouterr().out
    assert run(["sandbox"]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--host", "0.0.0.0"], 1, "there is no token; pass --token-file"),
        (["--token-file", "/gone"], 1, "token file '/gone' can't be read"),
        (["--port", "70000"], 2, "error: Invalid value for '--port'"),
        (["--token", "x" * 20], 2, "No such option: --token"),
    ],
)
def test_what_serve_refuses(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sandbox", "serve", *arguments]) == code
    assert says in capsys.readouterr().err


def test_validate_runs_on_a_server(
    url: str, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASTOR_SANDBOX_TOKEN", TOKEN)
    assert run(["validate", str(config), "--set", f"sandbox.url={url}"]) == 0
    distant = capsys.readouterr().out
    assert run(["validate", str(config)]) == 0
    assert distant == capsys.readouterr().out
    assert distant.startswith("ok     code: 6 checked")
    monkeypatch.setenv("ASTOR_SANDBOX_TOKEN", TOKEN[::-1])
    assert run(["validate", str(config), "--set", f"sandbox.url={url}"]) == 1
    said = capsys.readouterr().err
    assert f"error: sandbox server {url} answers 401: the token is missing or wrong" in said
    assert TOKEN[::-1] not in said


def test_mine_runs_on_a_server(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text(
        'def double(x):\n    """Twice.\n\n    >>> double(2)\n    4\n    >>> double(5)\n    10\n'
        '    >>> double(-1)\n    -2\n    """\n    if x < 0:\n        return -2 * -x\n'
        "    return 2 * x\n"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "token").write_text(TOKEN)
    servers = ["--sandbox-url", url, "--token-file", str(tmp_path / "token")]
    one, other = tmp_path / "one", tmp_path / "other"
    assert run(["mine", str(package), "-o", str(one), *servers]) == 0
    assert "from the cache" not in capsys.readouterr().out
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache2"))
    assert run(["mine", str(package), "-o", str(other)]) == 0
    assert (one / "io_prediction.jsonl").stat().st_size > 0
    for path in one.glob("*.jsonl"):
        assert path.read_text() == (other / path.name).read_text()


def test_doctor_asks_the_servers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTOR_SANDBOX_TOKEN", TOKEN)
    good, bad = sandbox_servers(SandboxConfig(url=[url, DEAD]))
    assert (good.group, good.name, good.status, good.remedy) == ("servers", url, "ok", "")
    assert good.detail.startswith("2 workers, protections full, 0 jobs running, 0 waiting")
    assert (bad.name, bad.status) == (DEAD, "missing")
    assert "can't connect" in bad.detail
    assert "astor sandbox serve" in bad.remedy
    monkeypatch.setenv("ASTOR_SANDBOX_TOKEN", "short")
    (unread,) = sandbox_servers(SandboxConfig(url=url))
    assert unread == Check(
        "servers", "sandbox.url", "missing", unread.detail, "see docs/sandbox.md"
    )
    assert "holds 5 characters" in unread.detail


def test_doctor_reads_the_servers_from_a_run_file(
    url: str, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda: iter(()))
    monkeypatch.setenv("ASTOR_SANDBOX_TOKEN", TOKEN)
    assert run(["doctor", "-c", str(config)]) == 0
    assert "servers" not in capsys.readouterr().out
    assert run(["doctor", "-c", str(config), "--set", f"sandbox.url={url}"]) == 0
    assert f"ok       servers   {url}: 2 workers" in capsys.readouterr().out
    assert run(["doctor", "-c", str(config), "--set", f"sandbox.url={DEAD}"]) == 1
    assert f"missing  servers   {DEAD}: can't connect" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('sandbox.url="host:1"', "sandbox url 'host:1' must be https://host:port"),
        ('sandbox.url=["http://10.0.0.1:1"]', "use https, or set sandbox.insecure = true"),
        ('sandbox.url="https://me:secret@host:1"', "with the secret in token_file"),
        ("sandbox.url=[]", "sandbox.url"),
        ("sandbox.url=1", "sandbox.url = 1"),
        ("sandbox.token_file=1", "sandbox.token_file = 1"),
        ("sandbox.urls=1", "did you mean 'url'"),
    ],
)
def test_wrong_settings_are_named(value: str, says: str, config: Path) -> None:
    with pytest.raises(ConfigError, match=".") as caught:
        load_config(config, [value])
    assert says in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_servers_have_their_own_workers(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"sandbox.workers is 2 and sandbox.url is set"):
        load_config(config, ["sandbox.workers=2", f"sandbox.url={DEAD}"])
    one = load_config(config, [f"sandbox.url={DEAD}"]).sandbox
    two = load_config(config, [f'sandbox.url=["{DEAD}", "https://b"]']).sandbox
    assert (one.urls, two.urls) == ([DEAD], [DEAD, "https://b"])
