"""The findings for people: tables and sentences, on the screen and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from astor_rl.compare.analysis import Analysis, over_seeds
from astor_rl.compare.curves import at_step, reached
from astor_rl.compare.document import Status, changed, joint_of, lost, spent
from astor_rl.compare.entrants import Entrant
from astor_rl.compare.families import Versus
from astor_rl.compare.intervals import Interval, mean_interval, verdict
from astor_rl.compare.results import mean
from astor_rl.compare.spec import CompareConfig
from astor_rl.report import text

_TITLES = {
    "joint": "Joint",
    "curriculum": "Curriculum",
    "merging": "Merging",
    "best_specialist": "the best specialist",
    "best_scheduler": "the best other scheduler",
    "every_scheduler": "the best of all other schedulers, over the seeds that all have",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A title, what to know about it, columns and rows of text."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(comparison: CompareConfig, analysis: Analysis) -> Iterator[Table]:
    """All tables that the finished units have something for."""
    if not analysis.entrants:
        return
    yield _scores(comparison, analysis)
    if analysis.own:
        yield _own(comparison, analysis)
    runs = [entrant for entrant in analysis.entrants if entrant.kind == "run"]
    if runs:
        yield _speed(analysis, runs)
        yield _forgetting(analysis, runs)
    if analysis.ranking is not None:
        yield _ranks(analysis)


def _scores(comparison: CompareConfig, analysis: Analysis) -> Table:
    before = analysis.before.values()
    rows = [
        (
            "before RL",
            "",
            "",
            *(text.number(one.mean) for one in before),
            text.number(sum(one.mean for one in before) / max(1, len(before))),
            "",
        )
    ]
    rows += [
        (
            _label(entrant),
            str(len(entrant.results)),
            _tokens(entrant),
            *(_pm(_test(entrant, task)) for task in analysis.tasks),
            _pm(over_seeds(entrant, lambda result: mean(result.test))),
            _gain(analysis.gains.get(entrant.name)),
        )
        for entrant in analysis.entrants
    ]
    return Table(
        "Test scores",
        "mean over seeds ± half of its 95% t-interval; gain: of "
        f"{comparison.reference} over that arm's mean, percent, paired by seed, each interval on "
        "its own",
        ("arm", "seeds", "tokens", *analysis.tasks, "mean", f"{comparison.reference}'s gain"),
        tuple(rows),
    )


def _label(entrant: Entrant) -> str:
    if entrant.kind == "specialist":
        return f"  {entrant.name}"
    return f"{entrant.name} (best on validation)" if entrant.kind == "best" else entrant.name


def _tokens(entrant: Entrant) -> str:
    used = over_seeds(entrant, lambda result: result.tokens).mean
    return f"{used:,.0f}" + ("" if spent(entrant) else " (budget not spent)")


def _test(entrant: Entrant, task: str) -> Interval:
    return over_seeds(entrant, lambda result: result.test[task])


def _pm(one: Interval) -> str:
    return text.with_error(one.mean, None if one.high is None else one.high - one.mean)


def _gain(one: Versus | None) -> str:
    if one is None:
        return ""
    return "unknown" if one.gain is None else _percent(one.gain)


def _percent(one: Interval) -> str:
    if one.low is None or one.high is None:
        return f"{one.mean:+.1f}% [one seed]"
    return f"{one.mean:+.1f}% [{one.low:+.1f}, {one.high:+.1f}]"


def _own(comparison: CompareConfig, analysis: Analysis) -> Table:
    return Table(
        "Each task against its own specialist",
        f"{comparison.reference}'s test score minus that of the specialist trained on that task "
        "alone; each interval at 95% on its own",
        ("specialists", *analysis.tasks),
        tuple(
            (arm, *(_signed(found.get(task)) for task in analysis.tasks))
            for arm, found in analysis.own.items()
        ),
    )


def _signed(one: Interval | None) -> str:
    if one is None:
        return ""
    if one.low is None or one.high is None:
        return f"{one.mean:+.3f}"
    return f"{one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"


def _speed(analysis: Analysis, runs: Sequence[Entrant]) -> Table:
    joint = joint_of(analysis)
    rows = []
    for entrant in runs:
        scores = [at_step(result, analysis.steps) for result in entrant.results.values()]
        known = [score for score in scores if score is not None]
        found = reached(entrant, joint) if joint else None
        rows.append(
            (
                entrant.name,
                _pm(over_seeds(entrant, lambda result: float(result.steps))).partition(".")[0],
                _pm(mean_interval(known)) if known else "",
                "" if found is None else f"{found.times} of {found.seeds}",
                ""
                if found is None
                else "never"
                if found.median is None
                else f"{found.median:,.0f}",
            )
        )
    return Table(
        "At equal steps, and on the way",
        f"mean validation score at step {analysis.steps}, the last at which all runs were looked "
        "at; in how many seeds, and after how many tokens (median; `never` where most never did), "
        "a look first reached what Joint scored in the end, on average (the more noise in the "
        "looks, the sooner; Joint's own row has it, too)",
        ("arm", "steps", f"at step {analysis.steps}", "reached Joint", "tokens to it"),
        tuple(rows),
    )


def _forgetting(analysis: Analysis, runs: Sequence[Entrant]) -> Table:
    return Table(
        "Forgetting",
        "best minus final validation score of a task, over the looks that all runs have (0: none; "
        "noise in the looks adds to it), "
        "and in brackets the change of its test score against before RL",
        ("arm", *analysis.tasks),
        tuple((run.name, *(_kept(run, task, analysis) for task in analysis.tasks)) for run in runs),
    )


def _kept(entrant: Entrant, task: str, analysis: Analysis) -> str:
    return f"{lost(entrant, task, analysis.looks).mean:.3f} ({changed(entrant, task).mean:+.3f})"


def _ranks(analysis: Analysis) -> Table:
    ranking = analysis.ranking
    if ranking is None:
        raise TypeError("there is no ranking to show")
    order = sorted(ranking.average, key=lambda name: ranking.average[name])
    w = "undefined" if ranking.w is None else f"{ranking.w:.2f}"
    return Table(
        "Ranks by mean test score",
        f"how often each arm was at each rank over {len(ranking.seeds)} seeds; Kendall's W {w} "
        "(1: every seed ranks them alike, 0: no agreement)",
        ("arm", "mean rank", *(f"{place + 1}." for place in range(len(order)))),
        tuple(
            (
                name,
                f"{ranking.average[name]:.1f}",
                *(str(count or "") for count in ranking.counts[name]),
            )
            for name in order
        ),
    )


def sentences(comparison: CompareConfig, analysis: Analysis, status: Status) -> Iterator[str]:
    """What it comes down to, one line each, for better or worse."""
    if status.finished < status.units:
        yield f"{status.finished} of {status.units} units are finished"
    for name, found in analysis.headline.items():
        yield f"{comparison.reference} against {_TITLES[name]}: {_verdict(found)}"
    if len(status.codes) > 1:
        yield (
            f"runs were trained with {len(status.codes)} states of astor-rl's code "
            f"({', '.join(code[:10] for code in status.codes)})"
        )
    over = [entrant.name for entrant in analysis.entrants if not spent(entrant)]
    if over:
        yield (
            f"not at equal tokens: {', '.join(over)} ran into max_steps before the budget was spent"
        )


def _verdict(found: Versus) -> str:
    who = found.arms[0] if len(found.arms) == 1 else f"best of {', '.join(found.arms)}"
    left = f"; left out, fewer seeds or a score of 0: {', '.join(found.left_out)}"
    left = left if found.left_out else ""
    gain = found.gain
    if gain is None:
        why = f"a score of 0 in {found.seeds} seeds has no ratio" if found.seeds else "no seed"
        return f"unknown, {why} ({who}){left}"
    if gain.low is None or gain.high is None:
        return f"{gain.mean:+.1f}% with one seed: no interval, nothing is shown ({who}){left}"
    said = verdict(gain.low, gain.high, gain.seeds)
    return (
        f"{said}, {gain.mean:+.1f}% [{gain.low:+.1f}, {gain.high:+.1f}] "
        f"over {gain.seeds} seeds ({who}){left}"
    )


def markdown(comparison: CompareConfig, analysis: Analysis, status: Status) -> str:
    """The whole report."""
    parts = [
        "# Comparison",
        f"Base `{comparison.base}`, {comparison.max_tokens:,} generated tokens an arm and seed.",
        "\n".join(f"- {line}" for line in sentences(comparison, analysis, status)),
    ]
    for table in tables(comparison, analysis):
        parts += [f"## {table.title}", f"{table.note[0].upper()}{table.note[1:]}."]
        lines = [table.columns, tuple("---" for _ in table.columns), *table.rows]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    if status.failed:
        parts += ["## Failed", "\n".join(f"- {n}: {why}" for n, why in status.failed.items())]
    return "\n\n".join(part for part in parts if part) + "\n"


def render(comparison: CompareConfig, analysis: Analysis, status: Status, stream: IO[str]) -> None:
    """Print it: with colour on a terminal, as plain lines elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    ascii_only = not text.shows_blocks(stream)

    def plain(line: str) -> str:
        return line.replace("±", "+-") if ascii_only else line

    width = None if stream.isatty() else 240
    console = Console(file=stream, width=width, highlight=False, safe_box=True)
    frame = box.ASCII if ascii_only else box.SIMPLE_HEAD
    for table in tables(comparison, analysis):
        shown = RichTable(title=Text(table.title), title_justify="left", box=frame)
        for index, title in enumerate(table.columns):
            shown.add_column(plain(title), justify="right" if index else "left")
        for row in table.rows:
            shown.add_row(*(Text(plain(cell)) for cell in row))
        console.print(shown)
        console.print(Text(plain(table.note), style="dim"), soft_wrap=True)
    for line in sentences(comparison, analysis, status):
        console.print(Text(plain(line)), soft_wrap=True)
