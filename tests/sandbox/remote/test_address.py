from __future__ import annotations

import pytest

from astor_rl.errors import SandboxError
from astor_rl.sandbox.remote.address import check_exposure, check_url, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.org", ""])
def test_everything_else_is_open_to_others(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "url", ["https://a:1", "http://[::1]:80", "https://a.example", "HTTPS://a"]
)
def test_urls(url: str) -> None:
    assert check_url(f"{url}/") == check_url(url) == url


@pytest.mark.parametrize(
    "url", ["", "a:1", "ftp://a", "https://", "https://a:x", "https://a/v1", "https://a?b", "http://a:0"]
)  # fmt: skip
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(SandboxError, match="must be https://host:port"):
        check_url(url)


def test_a_secret_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(SandboxError, match="token_file") as caught:
        check_url("https://me:hunter2@a:1")
    assert "hunter2" not in str(caught.value)


def test_other_machines_need_tls_or_a_word() -> None:
    check_exposure("https://a:1", insecure=False)
    check_exposure("http://127.0.0.1:1", insecure=False)
    check_exposure("http://a:1", insecure=True)
    with pytest.raises(SandboxError, match=r"sandbox\.insecure = true"):
        check_exposure("http://a:1", insecure=False)
