"""`python -m benchmarks.learning.results`: docs/results.md from the results that are kept.

`benchmarks/learning/kept/` has, for each comparison that was run, what `astor compare --export`
wrote. `--keep` first adds what has finished in the run folders since.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from astor_rl.compare.analysis import analyse
from astor_rl.compare.document import Status, document
from astor_rl.compare.exchange import check_one_making, export_results, import_results
from astor_rl.compare.intervals import verdict
from astor_rl.compare.reading import environments
from astor_rl.compare.records import is_finished
from astor_rl.compare.results import codes
from astor_rl.compare.spec import CompareConfig, load_comparison
from astor_rl.compare.units import Unit, plan_units
from benchmarks.common import RESULTS, ROOT, publish, tell

OUTPUT: Final = RESULTS / "learning.json"
PAGE: Final = ROOT / "docs" / "results.md"
COMPARISONS: Final = {"A": "compare.toml", "B": "compare-b.toml"}
MORE: Final = {
    "A, first round": "first.toml",
    "B, first round": "first-b.toml",
    "B, second round": "second-b.toml",
    "A, third round": "third.toml",
    "A, with data that teaches nothing": "compare-mixed.toml",
    "A, at twice the learning rate": "compare-rate.toml",
    "A, ablations": "ablations.toml",
}
"""What `make bench-learning` leaves out; `astor compare FILE` runs them."""
_HERE: Final = Path(__file__).parent
KEPT: Final = _HERE / "kept"
"""Results by comparison; their runs are not kept."""
_HEADLINES: Final = ("joint", "curriculum", "merging", "best_specialist", "best_scheduler")
_ROWS: Final = (*_HEADLINES, "every_scheduler")
_PAPER: Final = {"joint": 12.8, "curriculum": 16.8, "merging": 19.2, "best_specialist": 9.0}
_TITLES: Final = {
    "joint": "Joint",
    "curriculum": "Curriculum",
    "merging": "Merging",
    "best_specialist": "the best specialist",
    "best_scheduler": "the best other scheduler",
    "every_scheduler": "the best of all other schedulers",
}
_INTRO: Final = """# Results

{source} What the laboratories are, and what they can and can't show:
[Laboratory](laboratory.md).

Scores are mean outcomes on the test split, in [0, 1]. An interval is a 95% t-interval over seeds:
it speaks of other seeds, not of other test examples or another start. Gains are ASTOR's over the
other arm's mean over tasks, in percent: geometric means of the ratios by seed, over the seeds that
both have (so a ratio of two means in a table may differ). Against the best of several arms the
interval is for the truly best. Each row stands alone: nothing is corrected for there being several.
"""

FROM_KEPT: Final = """\
Made by `python -m benchmarks.learning.results` from the results of single runs in
`benchmarks/learning/kept`, as is `benchmarks/results/learning.json`; `make bench-learning` makes
such runs anew. What was found before, and of which no single runs are left:
[Earlier results](results-earlier.md)."""
FROM_RUNS: Final = "Made by `make bench-learning` from the runs on this machine."

Record = Mapping[str, Any]


def keep(name: str) -> None:
    """Add to what is kept of a comparison the units that have finished in its run folder."""
    comparison, kept = _comparison(name), _kept(name)
    units = plan_units(comparison, base_dir=_HERE)
    if not any(map(is_finished, units)):
        return
    with tempfile.TemporaryDirectory() as folder:
        mine = Path(folder) / "mine.jsonl"
        export_results(units, mine)
        if not kept.is_file():
            kept.parent.mkdir(exist_ok=True)
            mine.rename(kept)
            return
        both = _laid_out(comparison, Path(folder), kept, mine)
        count = export_results(both, kept)
    tell(f"laboratory {name}: {count} of {len(units)} units are kept")


def _kept(name: str) -> Path:
    return (KEPT / (COMPARISONS | MORE)[name]).with_suffix(".jsonl")


def _comparison(name: str) -> CompareConfig:
    return load_comparison(_HERE / (COMPARISONS | MORE)[name])


def _laid_out(comparison: CompareConfig, folder: Path, *files: Path) -> list[Unit]:
    """The comparison's units, elsewhere, with the results in these files.

    Neither data nor model need be those of this machine: that results are of the same ones is
    checked among them.
    """
    place = comparison.model_copy(update={"output_dir": str(folder)})
    units = plan_units(place, base_dir=_HERE)
    for file in files:
        import_results(file, units, inputs=False)
    check_one_making(units)
    return units


def findings(name: str, folder: Path | None = None) -> dict[str, Any] | None:
    """The findings of a comparison, without curves; None where it has none.

    Args:
        name: of the comparison.
        folder: where to lay out what is kept of it; None: from its run folder.
    """
    comparison = _comparison(name)
    if folder is None:
        units = plan_units(comparison, base_dir=_HERE)
    else:
        units = _laid_out(comparison, folder, _kept(name))
    status = Status(sum(map(is_finished, units)), len(units), {}, codes(units))
    found = document(comparison, analyse(comparison, units), status)
    for arm in found["arms"].values():
        del arm["curve"]
    return {**found, "environments": environments(units)} if found["arms"] else None


def kept() -> dict[str, Any]:
    """The findings of every comparison of which something is kept."""
    with tempfile.TemporaryDirectory() as folder:
        there = [name for name in COMPARISONS | MORE if _kept(name).is_file()]
        return collect({name: findings(name, Path(folder) / name) for name in there})


def collect(found: Mapping[str, Any]) -> dict[str, Any]:
    """Findings by comparison, as one result: ASTOR's gains in A on top."""
    found = {name: record for name, record in found.items() if record}
    gains = {
        key: {part: found["A"][key][part] for part in ("mean", "low", "high")}
        for key in (f"astor_vs_{headline}" for headline in _HEADLINES)
        if key in found.get("A", {})
    }
    return {"benchmark": "learning", **gains, "laboratories": found}


def page(result: Record, source: str) -> str:
    """The page about a result, which says where it is from."""
    parts = [_INTRO.format(source=source).strip()]
    for name, record in result["laboratories"].items():
        parts += _laboratory(name, record)
    return "\n\n".join(parts) + "\n"


def _laboratory(name: str, record: Record) -> Iterator[str]:
    yield f"## Laboratory {name}"
    comparison = record["comparison"]
    yield from _reservations(record)
    yield (
        f"{record['finished']} of {record['units']} units are finished. The budget is "
        f"{comparison['max_tokens']:,} tokens sampled in training, an arm and seed. Specialists "
        "have it each, or share it (`specialists-share`: a quarter each); merged models sample "
        "nothing beyond their specialists. The table of scores has what was sampled for a model."
    )
    yield f"### ASTOR against the paper's arms, laboratory {name}"
    columns = ("against", "gain", "95% interval", "seeds", "so ASTOR is", "in the paper")
    yield _table(columns, _gains(record, whole=name in COMPARISONS))
    yield from _left_out(record)
    yield f"### Test scores, laboratory {name}"
    columns = ("arm", "seeds", "tokens", *record["tasks"], "mean", "ASTOR's gain")
    yield _table(columns, _scores(record))
    if record["own_specialists"]:
        yield f"### Each task against its own specialist, laboratory {name}"
        rows = (
            (arm, *(_interval(found.get(task), "{:+.3f}") for task in record["tasks"]))
            for arm, found in record["own_specialists"].items()
        )
        yield _table(("specialists", *record["tasks"]), rows)
    yield f"### On the way, laboratory {name}"
    yield (
        "Steps that the budget bought (median over seeds); in how many seeds, and after how many "
        "tokens, a look at the validation split first reached what Joint scored in the end, on "
        "average (the more noise in the looks, the sooner: Joint's own row is what to compare "
        "with); best minus final validation score by task (forgetting; noise adds to it, too)."
    )
    columns = ("arm", "steps", "reached Joint", "tokens to it", *record["tasks"])
    yield _table(columns, _way(record))


def _reservations(record: Record) -> Iterator[str]:
    """What keeps this from being the whole comparison, or an equal one."""
    if record["finished"] < record["units"]:
        yield (
            f"**Not complete: {record['units'] - record['finished']} of {record['units']} units "
            "are missing. All that follows is of those that are finished, and may turn round.**"
        )
    if record["failed"]:
        yield f"**Failed: {', '.join(record['failed'])}.**"
    if unspent := [name for name, arm in record["arms"].items() if not arm["budget_spent"]]:
        yield f"**Not at equal tokens: the steps of {', '.join(unspent)} ended first.**"
    if len(record.get("codes", ())) > 1:
        yield (
            f"Runs were trained with {len(record['codes'])} states of the code, as far as is known "
            "(of older runs: commits of the working folder)."
        )


def _gains(record: Record, *, whole: bool) -> Iterator[Sequence[str]]:
    """A row for each headline; with `whole`, also for those without a result."""
    for name in _ROWS:
        found = record.get(f"astor_vs_{name}")
        if found is None and not (whole and name in _HEADLINES):
            continue
        against, paper = _TITLES[name], f"{_PAPER[name]:+.1f}%" if name in _PAPER else ""
        if found is None:
            yield against, "no result yet", "", "0", "", paper
            continue
        if found["against"] != [name]:
            against += f" ({', '.join(found['against'])})"
        interval = _bounds(found, "{:+.1f}") or "none"
        gain = "undefined" if found["mean"] is None else f"{found['mean']:+.1f}%"
        yield against, gain, interval, str(found["seeds"]), _verdict(found), paper


def _verdict(found: Record) -> str:
    if found["mean"] is None:
        return "unknown"
    return verdict(found["low"], found["high"], found["seeds"])


def _left_out(record: Record) -> Iterator[str]:
    for name in _HEADLINES:
        if left := record.get(f"astor_vs_{name}", {}).get("left_out"):
            yield (
                f"Against {_TITLES[name]}, arms with fewer seeds (or a score of 0) are left out: "
                f"{', '.join(left)}. The next table has each alone."
            )


def _scores(record: Record) -> Iterator[Sequence[str]]:
    before = [found["mean"] for found in record["before_rl"].values()]
    if before:
        mean = sum(before) / len(before)
        yield "before RL", "", "", *(f"{value:.3f}" for value in before), f"{mean:.3f}", ""
    for name, arm in record["arms"].items():
        test = arm["test"]
        scores = (_half(test[key]) for key in (*record["tasks"], "mean"))
        gain = _interval(record["gains"].get(name), "{:+.1f}")
        yield name, str(len(arm["seeds"])), _median(arm["tokens"]), *scores, gain


def _way(record: Record) -> Iterator[Sequence[str]]:
    for name, arm in record["arms"].items():
        if arm["kind"] != "run":
            continue
        reached = arm["tokens_to_joint"]
        times, tokens = "", ""
        if reached is not None:
            times = f"{reached['reached']} of {reached['of']}"
            tokens = "never" if reached["median"] is None else f"{reached['median']:,.0f}"
        lost = (f"{arm['forgotten'][task]['mean']:.3f}" for task in record["tasks"])
        yield name, _median(arm["steps"]), times, tokens, *lost


def _median(by_seed: Mapping[str, int]) -> str:
    return f"{statistics.median_low(by_seed.values()):,}"


def _half(found: Record) -> str:
    """A mean with half of its interval."""
    if found["high"] is None:
        return f"{found['mean']:.3f}"
    return f"{found['mean']:.3f} ± {found['high'] - found['mean']:.3f}"


def _interval(found: Record | None, form: str) -> str:
    if found is None or found["mean"] is None:
        return ""
    bounds = _bounds(found, form)
    return form.format(found["mean"]) + (f" {bounds}" if bounds else "")


def _bounds(found: Record, form: str) -> str:
    if found["low"] is None or found["high"] is None:
        return ""
    return f"[{form.format(found['low'])}, {form.format(found['high'])}]"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.results")
    parser.add_argument(
        "--keep", action="store_true", help="add what has finished in the run folders first"
    )
    options = parser.parse_args(arguments)
    if options.keep:
        for name in COMPARISONS | MORE:
            keep(name)
    result = kept()
    PAGE.write_text(page(result, FROM_KEPT), encoding="utf-8")
    publish(result, OUTPUT)


if __name__ == "__main__":
    main()
