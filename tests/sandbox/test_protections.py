"""Missing protections stop the sandbox by name, unless they are allowed by name."""

from __future__ import annotations

import pytest

from astor_rl.errors import SandboxError
from astor_rl.sandbox import protections

_ALL = [name for name in protections.GUARANTEES if name != "userns"]


def _without(*names: str) -> tuple[list[str], dict[str, str]]:
    return [n for n in _ALL if n not in names], dict.fromkeys(names, "no such thing")


def test_a_missing_protection_stops_with_its_name_reason_and_loss() -> None:
    applied, missing = _without("netns")
    with pytest.raises(SandboxError, match=r"lacks netns \(no such thing\): no network interface"):
        protections.check(applied, missing, ())
    with pytest.raises(SandboxError, match=r"allow_missing=\('netns',\)"):
        protections.check(applied, missing, ("seccomp",))
    protections.check(applied, missing, ("netns",))


def test_landlock_is_spare_only_while_the_private_root_stands() -> None:
    protections.check(*_without("landlock"), ())
    assert protections.tier(*_without("landlock")) == "full"
    with pytest.raises(SandboxError, match="landlock"):
        protections.check(*_without("landlock", "root"), ("root",))


@pytest.mark.parametrize(
    ("absent", "tier"),
    [
        ((), "full"),
        (("mountns", "root"), "landlock"),
        (("netns",), "landlock"),
        (("seccomp",), "unsafe"),
        (("root", "landlock"), "unsafe"),
    ],
)
def test_tier(absent: tuple[str, ...], tier: str) -> None:
    assert protections.tier(*_without(*absent)) == tier


def test_unknown_names_are_refused() -> None:
    protections.check_names(("netns", "root"))
    with pytest.raises(SandboxError, match="'network'; known: userns, "):
        protections.check_names(("network",))
