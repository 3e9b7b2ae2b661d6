"""Quota and beta over time as one SVG file, drawn without a plotting library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path

from astor_rl.report import text
from astor_rl.report.atomic import write_text
from astor_rl.report.closing import Summary

# Okabe and Ito's palette: told apart with every common kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _GAP = 720, 200, 60, 170, 30, 60

Course = tuple[str, Sequence[float | None]]
"""A task's name and its values by step."""


def write_plot(summary: Summary, path: Path) -> None:
    """Write the picture. Raises `CheckpointError` when it can't be written."""
    write_text(path, plot(summary))


def plot(summary: Summary) -> str:
    """The picture as SVG text: the share of the batch above, the KL coefficient below."""
    panels = (
        ("quota (share of the batch)", [(task.name, task.quota) for task in summary.tasks], 1.0),
        ("beta (KL coefficient)", [(task.name, task.beta) for task in summary.tasks], None),
    )
    height = _TOP + len(panels) * (_HEIGHT + _GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for index, (title, courses, top) in enumerate(panels):
        lines += _panel(title, courses, top, _TOP + index * (_HEIGHT + _GAP))
    return "\n".join([*lines, "</svg>", ""])


def _panel(title: str, courses: Sequence[Course], top: float | None, y: int) -> Iterator[str]:
    known = [value for _, values in courses for value in values if value is not None]
    top = top or max(known, default=0.0) or 1.0
    steps = max((len(values) for _, values in courses), default=0)
    right, bottom = _WIDTH - _RIGHT, y + _HEIGHT

    def place(step: int, value: float) -> tuple[float, float]:
        across = step / max(1, steps - 1) * (right - _LEFT)
        return _LEFT + across, bottom - min(value / top, 1.0) * _HEIGHT

    yield f'<text x="{_LEFT}" y="{y - 10}" font-weight="bold">{escape(title)}</text>'
    yield f'<path d="M{_LEFT} {y}V{bottom}H{right}" fill="none" stroke="#888"/>'
    for share in (0.0, 0.5, 1.0):
        label = text.small(share * top)
        across, down = _LEFT - 6, bottom - share * _HEIGHT + 4
        yield f'<text x="{across}" y="{down:g}" text-anchor="end">{label}</text>'
    yield f'<text x="{right}" y="{bottom + 16}" text-anchor="end">step {steps}</text>'
    for index, (name, values) in enumerate(courses):
        yield from _course(name, values, place, _COLOURS[index % len(_COLOURS)], y + 14 * index)


def _course(
    name: str,
    values: Sequence[float | None],
    place: Callable[[int, float], tuple[float, float]],
    colour: str,
    y: int,
) -> Iterator[str]:
    pen, path = "M", []
    for step, value in enumerate(values):
        if value is None:
            pen = "M"  # unknown is a gap, not a zero
            continue
        path.append("{}{:.1f} {:.1f}".format(pen, *place(step, value)))
        pen = "L"
    yield f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    across = _WIDTH - _RIGHT + 12
    yield f'<rect x="{across}" y="{y}" width="10" height="10" fill="{colour}"/>'
    yield f'<text x="{across + 16}" y="{y + 9}">{escape(name)}</text>'
