from __future__ import annotations

import importlib.metadata
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from astor_rl import doctor
from astor_rl.cli.app import run
from astor_rl.doctor import Check, ready


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_the_machine_is_described() -> None:
    found = by_name(list(doctor.machine()))
    assert found["python"].status == "ok"
    assert ".".join(map(str, sys.version_info[:3])) in found["python"].detail
    assert found["cores"].detail == f"{doctor.usable_cores()} usable"
    assert found["disk"].detail.endswith("free")


def test_cores_and_memory_are_those_this_process_may_use() -> None:
    assert 1 <= doctor.usable_cores() <= (os.cpu_count() or 1)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = doctor.memory_bytes()
    assert available is not None
    assert 0 < available <= total


def test_too_little_says_how_much_is_needed() -> None:
    assert doctor._amount("disk", 10**9, 4 * 10**9, "take a place with") == Check(
        "machine",
        "disk",
        "limited",
        "1.0 GB free",
        "take a place with 4.0 GB free for the quickstart",
    )
    unknown = doctor._amount("memory", None, 6 * 10**9, "")
    assert (unknown.status, unknown.detail) == ("limited", "unknown")


def test_every_protection_of_the_sandbox_is_probed() -> None:
    from astor_rl.sandbox.protections import GUARANTEES

    checks = list(doctor.sandbox())
    assert {check.name for check in checks} in ({"sandbox"}, set(GUARANTEES))
    for check in checks:
        assert (check.status == "ok") == (check.remedy == "")


def test_versions_are_held_against_what_is_asked_for() -> None:
    version = importlib.metadata.version("numpy")
    assert doctor._satisfies(version, f"numpy>={version}")
    assert not doctor._satisfies(version, f"numpy<{version}")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor,
        "extras",
        lambda: {"tasks": ("no-such-package>=1",), "hf": ("numpy<1",), "dev": ("none",)},
    )
    tasks, hf = doctor.packages()
    assert tasks.status == "missing"  # the quickstart needs it
    assert tasks.detail == "needs no-such-package>=1 (not installed)"
    assert tasks.remedy == "pip install 'astor-rl[tasks]'"
    assert hf.status == "limited"  # it can do without
    assert "needs numpy<1 (" in hf.detail
    assert not ready([tasks, hf])
    assert ready([hf])


def test_without_torch_it_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (check,) = doctor.compute()
    assert (check.status, check.remedy) == ("missing", "pip install 'astor-rl[local]'")


def test_torch_is_measured() -> None:
    pytest.importorskip("torch", reason="the local extra is not installed")
    (check,) = doctor.compute()
    assert "bfloat16" in check.detail
    assert "GFLOP/s" in check.detail


def test_a_model_nobody_has_is_missing_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub", reason="the local extra is not installed")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    (check,) = doctor.model("nobody/has-this")
    assert check.status == "missing"
    assert "local folder" in check.remedy


def test_a_model_in_the_cache_is_found_without_asking_anyone(
    tmp_path: Path,
) -> None:
    pytest.importorskip("huggingface_hub", reason="the local extra is not installed")
    commit = "0" * 40
    repo = tmp_path / "models--owner--name"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "config.json").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    program = "from astor_rl import doctor; print(next(doctor.model('owner/name')).detail)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"},
    )
    assert done.stdout == "found in the Hugging Face cache\n"


def test_findings_are_shown_with_their_remedies() -> None:
    stream = io.StringIO()
    doctor.show(Check("model", "m", "missing", "not there", "get it"), stream)
    doctor.show(Check("machine", "cores", "ok", "2 usable"), stream)
    assert stream.getvalue().splitlines() == [
        "missing  model     m: not there",
        "         -> get it",
        "ok       machine   cores: 2 usable",
    ]


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("limited", 0), ("missing", 1)])
def test_the_exit_code_says_whether_the_quickstart_runs(
    status: doctor.Status,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finding = Check("model", "m", status, "detail", "" if status == "ok" else "do this")
    monkeypatch.setattr(doctor, "diagnose", lambda: iter([finding]))
    assert run(["doctor", "--json"]) == code
    said = capsys.readouterr()
    assert json.loads(said.out) == {"ready": code == 0, "checks": [doctor.asdict(finding)]}
    assert said.err == ("error: the quickstart can't run here: m: do this\n" if code else "")
    run(["doctor"])
    assert ("ready: astor train" in capsys.readouterr().out) == (code == 0)
