from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.errors import DataError
from astor_rl.report.atomic import dumps
from astor_rl.report.closing import change, footer, render, standard_error, summarize
from astor_rl.report.plot import plot, write_plot
from astor_rl.report.run_folder import RunFolder

Result = Callable[[dict[str, float], float | None], dict[str, Any]]
shares = st.lists(st.floats(0, 1), min_size=2, max_size=20)


def table(path: Path, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    render(summarize(path), stream)
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined,no-any-return]


def test_the_table_says_what_the_run_did(finished: Path) -> None:
    shown = table(finished)
    io_row = next(line for line in shown.splitlines() if line.split()[:1] == ["io"])
    assert "0.000 ± 0.000" in io_row  # before warm-up
    assert "0.500 ± 0.290" in io_row  # before RL
    assert "0.700 ± 0.210" in io_row  # after RL
    assert "+0.200 ± 0.100" in io_row  # paired: differences 0.3, 0.3, 0
    assert "50% ▅▅▅▆▆▇ 75%" in io_row
    assert "0.001 ▂▃▅▆▇█ 0.006" in io_row
    commit_row = next(line for line in shown.splitlines() if line.split()[:1] == ["commit"])
    assert commit_row.split()[1] == "-"  # never evaluated before the warm-up
    assert "+0.200 ± 0.224" in commit_row  # other examples: sqrt(0.1^2 + 0.2^2)
    assert "6 of 6 RL steps of tiny, 6,000 tokens sampled, RL 1m 00s" in shown
    assert "rollout 50%, reward 10%, update 30%, coordination 5%, other 5%" in shown
    assert "(not all on the same examples)" in shown
    assert shown.rstrip().endswith(f"run folder: {finished}")


def test_a_stream_without_block_characters_gets_ascii(finished: Path) -> None:
    shown = table(finished, "ascii")
    assert "+0.200 +- 0.100" in shown
    assert "50% +++**# 75%" in shown


def test_a_run_that_never_got_anywhere_still_has_a_table(
    make: Callable[..., RunFolder],
) -> None:
    folder = make()
    shown = table(folder.path)
    assert "io" in shown
    assert "0 of 6 RL steps" in shown
    assert "RL unknown" in shown
    assert summarize(folder.path).shares == {}


def test_a_run_that_was_killed_in_its_first_write(make: Callable[..., RunFolder]) -> None:
    folder = make()
    (folder.path / "metrics.jsonl").write_text('{"step": 0')
    (folder.path / "events.jsonl").write_text("")
    summary = summarize(folder.path)
    assert (summary.steps, summary.wall_seconds, summary.sessions) == (0, None, 0)


def test_no_run_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        summarize(tmp_path / "absent")


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20))
def test_the_paired_difference_is_the_mean_and_error_of_differences(
    pairs: list[tuple[float, float]],
) -> None:
    before = {str(index): pair[0] for index, pair in enumerate(pairs)}
    after = {str(index): pair[1] for index, pair in reversed(list(enumerate(pairs)))}
    made = change({"per_example": before}, {"per_example": after})
    gaps = np.array([new - old for old, new in pairs])
    assert made is not None
    assert made.paired
    assert made.mean == pytest.approx(gaps.mean(), abs=1e-12)
    if made.se is None:
        assert gaps.min() == pytest.approx(gaps.max(), abs=1e-12)
    else:
        assert made.se == pytest.approx(gaps.std(ddof=1) / math.sqrt(len(gaps)), abs=1e-12)


def test_identical_evaluations_differ_by_nothing_of_unknown_error() -> None:
    scores = {"a": 0.1, "b": 0.7, "c": 0.3}
    made = change({"per_example": scores}, {"per_example": dict(scores)})
    assert made is not None
    assert (made.mean, made.se) == (0.0, None)


def test_an_unknown_error_makes_the_differences_error_unknown(result: Result) -> None:
    made = change(result({"a": 0.5}, None), result({"b": 1.0}, 0.1))
    assert made is not None
    assert (made.mean, made.se, made.paired) == (0.5, None, False)
    assert change(None, result({"a": 0.5}, None)) is None


@given(shares)
def test_standard_error_is_the_textbook_one(values: list[float]) -> None:
    expected = np.std(values, ddof=1) / math.sqrt(len(values))
    assert standard_error(values) == pytest.approx(expected, abs=1e-12)


def test_one_value_has_no_standard_error() -> None:
    assert standard_error([0.5]) is None


def test_wall_time_adds_the_sessions_and_not_the_time_between(
    make: Callable[..., RunFolder],
) -> None:
    folder = make()
    events = [(0, "started"), (100, "note"), (5000, "resumed"), (5030, "stopped")]
    lines = [json.dumps({"time": time, "event": event}) for time, event in events]
    (folder.path / "events.jsonl").write_text("\n".join(lines) + "\n")
    summary = summarize(folder.path)
    assert (summary.wall_seconds, summary.sessions) == (130, 2)
    assert "in 2 sessions" in footer(summary)[0]


def test_a_session_without_an_end_has_no_time_and_is_said_to_be_unfinished(
    make: Callable[..., RunFolder],
) -> None:
    """`all 0s` stood beside an RL time of half a minute."""
    folder = make()
    summary = summarize(folder.path)
    assert (summary.wall_seconds, summary.state) == (None, "unfinished")
    first, *rest = footer(summary)
    assert " all " not in first
    assert rest[0].startswith("not finished: it is running, or was killed; --resume")
    folder.append_event("killed")
    assert footer(summarize(folder.path))[1].startswith("not finished: it was killed;")
    folder.append_event("finished")
    assert not any("not finished" in line for line in footer(summarize(folder.path)))


def test_a_summary_is_json(finished: Path) -> None:
    read = json.loads(dumps(summarize(finished).as_dict()))
    assert read["tasks"][0]["change"]["paired"] is True
    assert read["tasks"][1]["quota"] == pytest.approx([0.5, 0.45, 0.4, 0.35, 0.3, 0.25])


def test_the_picture_is_svg_with_both_tasks(finished: Path, tmp_path: Path) -> None:
    write_plot(summarize(finished), tmp_path / "plot.svg")
    root = ElementTree.fromstring((tmp_path / "plot.svg").read_text())
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert texts.count("io") == texts.count("commit") == 2
    assert "step 6" in texts


def test_gaps_and_names_in_the_picture(make: Callable[..., RunFolder]) -> None:
    folder = make(tasks=[{"name": "a<b&c"}])
    for share in (0.0, None, 1.0):
        folder.append_receipt(0, {"tasks": {"a<b&c": {"share": share, "beta": 0.0}}})
    drawn = plot(summarize(folder.path))
    ElementTree.fromstring(drawn)
    assert "a&lt;b&amp;c" in drawn
    # Share 0 at the bottom left, a gap, share 1 at the top right: two separate points.
    assert 'd="M60.0 230.0M550.0 30.0"' in drawn


def test_an_evaluation_that_judged_nothing_is_unknown(
    make: Callable[..., RunFolder], result: Result
) -> None:
    folder = make()
    folder.save_evaluation("before_rl", {"io": result({"a": 0.5}, None)})
    nothing = {"outcome": math.nan, "outcome_se": None, "examples": 0, "per_example": {}}
    folder.save_evaluation("after_rl", {"io": nothing})
    row = next(line for line in table(folder.path).splitlines() if line.split()[:1] == ["io"])
    assert row.split()[1:4] == ["0.500", "unknown", "-"]
