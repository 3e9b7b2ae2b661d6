from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from astor_rl.report.closing import summarize
from astor_rl.report.console import LiveConsole, PlainConsole, make_console
from astor_rl.report.views import COLUMNS, StepView, TaskView, cells, step_lines

VIEW = StepView(
    step=12,
    max_steps=100,
    phase="scheduled",
    tokens_per_s=1234.5,
    seconds_left=200.0,
    shares={"rollout": 0.5, "update": 0.25},
    tasks=(
        TaskView("io", 9, 0.5625, 0.00125, 0.4, 9, 4, 0.0123, 0.31, 0.04, 0.02, 0.01),
        TaskView("commit", 7, 0.4375, 0.001, groups=7),
    ),
)


def test_plain_lines_name_every_number() -> None:
    assert list(step_lines(VIEW)) == [
        "step 12/100 | scheduled | 1,234 tokens/s | rollout 50% update 25% | 3m 20s left",
        "  io: reward 0.400, quota 9 (56%), beta 0.00125, groups 4/9, KL 0.0123, "
        "utility 0.310 ± 0.040, synergy 0.020 ± 0.010",
        "  commit: reward unknown, quota 7 (44%), beta 0.001, groups 0/7, KL unknown, "
        "utility unknown, synergy unknown",
    ]


def test_unresolved_synergy_is_unknown_and_zero_is_zero() -> None:
    column = COLUMNS.index("synergy")
    assert cells(TaskView("a", 1, 1.0, 0.1))[column] == "unknown"
    assert cells(TaskView("a", 1, 1.0, 0.1, synergy=0.0))[column] == "0.000"


def test_a_pipe_gets_plain_lines_at_once() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    console = make_console(stream)
    assert isinstance(console, PlainConsole)
    with console:
        console.stage("loading", "a model")
        assert stream.buffer.getvalue() == b"loading: a model\n"  # type: ignore[attr-defined]
        console.evaluation("before RL", {"io": (0.25, 0.05), "commit": (0.5, None)})
        console.note("a task ran out of prompts")
    assert stream.buffer.getvalue().decode().splitlines()[1:] == [  # type: ignore[attr-defined]
        "evaluation before RL: io 0.250 ± 0.050, commit 0.500",
        "note: a task ran out of prompts",
    ]


def test_plain_progress_is_rare_but_has_its_first_and_last_line() -> None:
    now = 0.0
    stream = io.StringIO()
    console = PlainConsole(stream, progress_every_s=10, clock=lambda: now)
    for done in range(1, 101):
        console.progress("warm-up", done, 100, loss=1.23456, at="x")
        now += 1.0
    lines = stream.getvalue().splitlines()
    assert lines[0] == "  warm-up 1/100 loss 1.235 at x"
    assert lines[1].startswith("  warm-up 11/100")
    assert lines[-1].startswith("  warm-up 100/100")
    assert len(lines) == 11


def test_a_new_stage_of_the_same_name_shows_its_first_progress() -> None:
    stream = io.StringIO()
    console = PlainConsole(stream, clock=lambda: 0.0)
    for _ in range(2):
        console.stage("evaluation")
        console.progress("evaluation", 1, 9)
    assert stream.getvalue().count("evaluation 1/9") == 2


DISPLAY = """
import sys, warnings
sys.path.insert(0, {folder!r})
from test_console import VIEW
from astor_rl.report.console import LiveConsole, make_console
console = make_console()
assert isinstance(console, LiveConsole)
with console:
    console.stage("warm-up")
    console.progress("warm-up", 3, 9, loss=0.5)
    console._live.refresh()
    console.stage("training", "100 steps")
    console.step(VIEW)
    console.note("[bold]markup is text[/]")
    console._live.refresh()
    raise {ending}
"""


@pytest.mark.parametrize("ending", ["SystemExit(0)", "KeyboardInterrupt", "ValueError('x')"])
def test_the_terminal_is_restored_however_a_run_ends(ending: str) -> None:
    folder = str(Path(__file__).parent)
    ours, theirs = pty.openpty()
    program = DISPLAY.format(folder=folder, ending=ending)
    environment = {**os.environ, "COLUMNS": "160", "LINES": "40", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    os.close(theirs)
    screen = read_all(ours)
    process.wait()
    assert screen.rfind("\x1b[?25h") > screen.rfind("\x1b[?25l") >= 0  # the cursor is back
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen)
    assert "training: 100 steps" in shown
    assert "step 12/100 | scheduled" in shown
    assert "0.310 ± 0.040" in shown
    assert "3/9 loss 0.5" in shown
    assert re.search("training .* 12/100", shown)
    assert "note: [bold]markup is text[/]" in shown


def read_all(descriptor: int) -> str:
    parts = []
    try:
        while part := os.read(descriptor, 65536):
            parts.append(part)
    except OSError:  # EIO: the other side is closed
        pass
    os.close(descriptor)
    return b"".join(parts).decode()


def test_the_live_console_prints_the_closing_table_and_stages(finished: Path) -> None:
    stream = io.StringIO()
    with LiveConsole(stream) as console:
        console.stage("evaluation")
        console.progress("evaluation", 1, 2)
        console.stage("training")
        console.progress("training", 1, 2)
        console.evaluation("after RL", {})
        console.closing(summarize(finished))
    assert "evaluation after RL: no tasks" in stream.getvalue()
    assert f"run folder: {finished}" in stream.getvalue()


def test_others_warnings_are_kept_off_and_ours_shown(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    theirs = logging.getLogger("transformers.modeling_utils")
    ours = str(Path(sys.modules["astor_rl"].__file__ or "") / ".." / "engines" / "x.py")
    level = logging.getLogger("transformers").level
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with PlainConsole(stream):
            warnings.warn("theirs", stacklevel=1)
            warnings.warn_explicit("ours is\nshown", UserWarning, ours, 1)
            theirs.warning("chatter")
            assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
        assert logging.getLogger("transformers").level == level
    assert stream.getvalue() == "note: ours is shown\n"
    assert capfd.readouterr() == ("", "")


def test_the_environment_a_user_set_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with PlainConsole(io.StringIO()):
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
        assert os.environ["TQDM_DISABLE"] == "1"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
    assert "TQDM_DISABLE" not in os.environ


def test_debug_leaves_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with make_console(io.StringIO(), quiet=False):
        assert "TQDM_DISABLE" not in os.environ
