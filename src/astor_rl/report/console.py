"""What a person sees while a run goes on: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

from astor_rl.report import text
from astor_rl.report.closing import Summary, render
from astor_rl.report.quiet import quiet_third_parties
from astor_rl.report.views import COLUMNS, StepView, cells, step_lines

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

Scores = Mapping[str, tuple[float | None, float | None]]
"""Mean outcome and its standard error (None: unknown) by task."""


class Console(Protocol):
    """Where an engine reports to. Use as a context manager: the terminal is always restored."""

    def stage(self, name: str, detail: str = "") -> None:
        """A new part of the run begins: loading, warm-up, evaluation, training."""
        ...

    def progress(self, stage: str, done: int, total: int, **info: float | str) -> None:
        """How far a stage is, with a few facts to show beside it."""
        ...

    def step(self, view: StepView) -> None:
        """An RL step is done."""
        ...

    def evaluation(self, name: str, scores: Scores) -> None:
        """A held-out evaluation is done."""
        ...

    def note(self, message: str) -> None:
        """One line that a person should see."""
        ...

    def closing(self, summary: Summary) -> None:
        """The run is over: print the closing table."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def make_console(
    stream: TextIO | None = None, *, live: bool | None = None, quiet: bool = True
) -> Console:
    """A console on `stream` (default: standard output).

    Args:
        stream: where to write.
        live: True for the live display, False for plain lines; by default live on a terminal.
        quiet: keep other packages' warnings and log lines off it.
    """
    stream = stream or sys.stdout
    if live is None:
        live = stream.isatty() and text.shows_blocks(stream)
    if live:
        return LiveConsole(stream, quiet=quiet)
    return PlainConsole(stream, quiet=quiet)


class PlainConsole:
    """One line for each thing that happens, flushed at once; for logs and pipes.

    Args:
        stream: where to write.
        progress_every_s: seconds between two progress lines of a stage; its first and last are
            always printed.
        clock: seconds, monotonic.
        quiet: see `make_console`.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        progress_every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        quiet: bool = True,
    ) -> None:
        self._stream = stream
        self._every = progress_every_s
        self._clock = clock
        self._last: dict[str, float] = {}
        self._quiet = quiet_third_parties(self.note) if quiet else nullcontext()

    def _line(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def stage(self, name: str, detail: str = "") -> None:
        """See `Console.stage`."""
        self._last.pop(name, None)
        self._line(f"{name}: {detail}" if detail else name)

    def progress(self, stage: str, done: int, total: int, **info: float | str) -> None:
        """See `Console.progress`."""
        now = self._clock()
        last = self._last.get(stage)
        if last is not None and now - last < self._every and done < total:
            return
        self._last[stage] = now
        self._line("  " + " ".join([f"{stage} {done}/{total}", *facts(info)]))

    def step(self, view: StepView) -> None:
        """See `Console.step`."""
        for line in step_lines(view):
            self._line(line)

    def evaluation(self, name: str, scores: Scores) -> None:
        """See `Console.evaluation`."""
        self._line(evaluation_line(name, scores))

    def note(self, message: str) -> None:
        """See `Console.note`."""
        self._line(f"note: {message}")

    def closing(self, summary: Summary) -> None:
        """See `Console.closing`."""
        render(summary, self._stream)

    def __enter__(self) -> Self:
        self._quiet.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._quiet.__exit__(kind, error, trace)


class LiveConsole:
    """A display that is redrawn in place: stage, progress, the last step's table.

    Stages, evaluations and notes scroll past above it and stay.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = True) -> None:
        from rich.console import Console as RichConsole
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._stream = stream
        self._console = RichConsole(file=stream, highlight=False)
        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            console=self._console,
        )
        self._bar: tuple[str, TaskID] | None = None
        self._view: StepView | None = None
        # Everything of the live part is in the closing table too: it goes when the run ends.
        self._live = Live(
            console=self._console, transient=True, get_renderable=self._draw, refresh_per_second=4
        )
        self._quiet = quiet_third_parties(self.note) if quiet else nullcontext()

    def _draw(self) -> RenderableType:
        from rich.console import Group

        parts: list[Any] = [] if self._view is None else [step_table(self._view)]
        return Group(*parts, self._progress)

    def _print(self, line: str, style: str = "") -> None:
        from rich.text import Text

        self._console.print(Text(line, style=style), soft_wrap=True)

    def stage(self, name: str, detail: str = "") -> None:
        """See `Console.stage`."""
        self._print(f"{name}: {detail}" if detail else name, "bold")
        self._show_bar(name, 0, None, "")

    def progress(self, stage: str, done: int, total: int, **info: float | str) -> None:
        """See `Console.progress`."""
        self._show_bar(stage, done, total, " ".join(facts(info)))

    def _show_bar(self, stage: str, done: int, total: int | None, beside: str) -> None:
        if self._bar is not None and self._bar[0] != stage:
            self._progress.remove_task(self._bar[1])
            self._bar = None
        if self._bar is None:
            self._bar = (stage, self._progress.add_task(stage, total=total, facts=beside))
        self._progress.update(self._bar[1], completed=done, total=total, facts=beside)

    def step(self, view: StepView) -> None:
        """See `Console.step`."""
        self._view = view
        if self._bar is not None:
            self._show_bar(self._bar[0], view.step, view.max_steps, "")

    def evaluation(self, name: str, scores: Scores) -> None:
        """See `Console.evaluation`."""
        self._print(evaluation_line(name, scores))

    def note(self, message: str) -> None:
        """See `Console.note`."""
        self._print(f"note: {message}", "yellow")

    def closing(self, summary: Summary) -> None:
        """See `Console.closing`."""
        self._live.stop()
        render(summary, self._stream)

    def __enter__(self) -> Self:
        self._quiet.__enter__()
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        self._quiet.__exit__(kind, error, trace)


def step_table(view: StepView) -> RenderableType:
    """A step as a rich table, its heading above."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(view.heading()), title_justify="left", box=box.SIMPLE_HEAD)
    for index, title in enumerate(COLUMNS):
        table.add_column(title, justify="left" if index == 0 else "right", no_wrap=True)
    for task in view.tasks:
        table.add_row(
            *(Text(cell, style="dim" if cell == text.UNKNOWN else "") for cell in cells(task))
        )
    return table


def evaluation_line(name: str, scores: Scores) -> str:
    """An evaluation in one line."""
    listed = ", ".join(f"{task} {text.with_error(*score)}" for task, score in scores.items())
    return f"evaluation {name}: {listed or 'no tasks'}"


def facts(info: Mapping[str, float | str]) -> list[str]:
    """`name value` for each fact beside a progress bar."""
    return [
        f"{name} {value if isinstance(value, str) else f'{value:.4g}'}"
        for name, value in info.items()
    ]
