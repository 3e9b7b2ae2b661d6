"""TLS with an authority made for the test."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from astor_rl.errors import SandboxError
from astor_rl.sandbox.api import CallJob, Limits
from astor_rl.sandbox.remote import fleet
from astor_rl.sandbox.remote.client import RemotePool

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ca.pem`, and `cert.pem` / `key.pem` that it signed for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(line: str) -> None:
        subprocess.run(["openssl", *line.split()], cwd=folder, check=True, capture_output=True)

    new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    openssl(f"req -x509 {new} -keyout ca.key -out ca.pem -subj /CN=Test")
    openssl(f"req {new} -keyout key.pem -out request.pem -subj /CN=server")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 "
        "-extfile names -out cert.pem"
    )
    return folder


def test_an_encrypted_server(
    keys: Path, serve: Any, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "CONNECT_S", 0.1)
    server = serve(
        "--workers", "1", "--tls-cert", str(keys / "cert.pem"), "--tls-key", str(keys / "key.pem")
    )
    assert server.url.startswith("https://127.0.0.1:")
    job = CallJob("", ("6 * 7",), limits=Limits(wall_s=60, cpu_s=20))
    with RemotePool([server.url], token=token, ca_file=str(keys / "ca.pem")) as pool:
        assert [outcome.calls[0].value for outcome in pool.map([job] * 5)] == [42] * 5
    # An authority that nobody trusts, a name it wasn't made for, no TLS at all: no token is sent.
    other_name = server.url.replace("127.0.0.1", "localhost")
    for url, ca_file, says in (
        (server.url, None, "CERTIFICATE_VERIFY_FAILED"),
        (other_name, str(keys / "ca.pem"), "CERTIFICATE_VERIFY_FAILED"),
        (server.url.replace("https", "http"), None, "the connection broke"),
    ):
        with pytest.raises(SandboxError, match=says):
            RemotePool([url], token=token, ca_file=ca_file)


def test_a_key_that_does_not_fit_is_named(keys: Path) -> None:
    from astor_rl.sandbox.remote.server import ServeOptions, serve

    options = ServeOptions(tls_cert=str(keys / "cert.pem"), tls_key=str(keys / "ca.key"))
    with pytest.raises(SandboxError, match=r"cert\.pem.*can't be used: .*MISMATCH"):
        serve(options, note=pytest.fail)
