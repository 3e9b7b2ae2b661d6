"""What a toolchain's container keeps in, and what it ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from astor_rl.evaluate.suites.container import (
    TEMPORARY,
    Bubblewrap,
    Container,
    Unconfined,
    find_bubblewrap,
)

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": TEMPORARY}


@pytest.fixture
def bubblewrap() -> Bubblewrap:
    found = find_bubblewrap()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def sh(container: Container, script: str, folder: Path, timeout_s: float = 60, **more):
    return container.run(
        ["sh", "-c", script],
        folder=folder,
        readable=more.get("readable", ()),
        environment=ENVIRONMENT,
        timeout_s=timeout_s,
    )


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_exit_codes_and_both_streams_come_back(tmp_path: Path):
    ran = sh(Unconfined(), "echo out; echo err >&2; cat; exit 3", tmp_path)
    assert (ran.code, sorted(ran.output.split())) == (3, ["err", "out"])


def test_what_was_started_does_not_outlive_the_deadline(tmp_path: Path):
    ran = sh(Unconfined(), "sleep 600 & echo $! > pid; wait", tmp_path, timeout_s=1)
    assert ran.code is None
    pid = int((tmp_path / "pid").read_text())
    for _ in range(200):
        if gone(pid):
            break
        time.sleep(0.05)
    assert gone(pid)


def test_long_output_keeps_its_ends(tmp_path: Path):
    ran = sh(Unconfined(), "echo begin; yes | head -c 300000; echo end", tmp_path)
    assert len(ran.output) < 60_000
    assert ran.output.startswith("begin")
    assert ran.output.endswith("end\n")
    assert "250010 bytes left out" in ran.output


def test_environment_is_what_was_given(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ASTOR_SECRET", "1")
    assert "ASTOR_SECRET" not in sh(Unconfined(), "env", tmp_path).output


def test_bubblewrap_shows_only_what_it_should(bubblewrap, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ASTOR_SECRET", "1")
    work, shown, hidden = (tmp_path / name for name in ("work", "shown", "hidden"))
    for folder in (work, shown, hidden):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    script = (
        f"pwd; cat file; cat {shown}/file; cat {hidden}/file; ls {Path.home()}; env;"
        f" echo x > made; echo x > {shown}/made; echo x > /usr/made; ls /proc | grep -c '^[0-9]'"
    )
    ran = sh(bubblewrap, script, work, readable=[shown])
    assert ran.output.startswith("/work/work\nworkshown")
    assert "hidden/file: No such file" in ran.output.replace("'", "")
    assert "ASTOR_SECRET" not in ran.output
    assert (work / "made").exists()
    assert not (shown / "made").exists()
    assert not Path("/usr/made").exists()
    assert int(ran.output.split()[-1]) < 8  # its own processes only


def test_bubblewrap_has_no_network(bubblewrap, tmp_path: Path):
    ran = sh(bubblewrap, "cat /proc/net/dev | tail -n +3 | cut -d: -f1", tmp_path)
    assert ran.output.split() in (["lo"], [])


def test_bubblewrap_ends_everything_at_the_deadline(bubblewrap, tmp_path: Path):
    mark = f"6{os.getpid()}"
    ran = sh(bubblewrap, f"setsid sleep {mark} & sleep {mark}", tmp_path, timeout_s=1)
    assert ran.code is None
    for _ in range(200):
        if not running(mark):
            break
        time.sleep(0.05)
    assert not running(mark)


def running(mark: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if command[:2] == [b"sleep", mark.encode()]:
            found.append(entry.name)
    return found


def test_a_container_fills_in_where_temporary_files_go(tmp_path: Path):
    shown = tmp_path / "shows-its-arguments"
    shown.write_text('#!/bin/sh\necho "$@"\n')
    shown.chmod(0o755)
    environment = {"HOME": TEMPORARY, "GOCACHE": f"{TEMPORARY}/go", "PATH": "/usr/bin"}
    ran = Bubblewrap(str(shown)).run(
        ["true"], folder=tmp_path, environment=environment, timeout_s=30
    )
    assert "--setenv HOME /tmp --setenv GOCACHE /tmp/go --setenv PATH /usr/bin" in ran.output
