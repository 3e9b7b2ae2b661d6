"""The mean of ten is of ten, or isn't called so."""

from __future__ import annotations

import math

import pytest

from astor_rl.evaluate.suites.paper import METRICS, SUITES, summarize_paper
from astor_rl.evaluate.suites.results import not_run_result, paper_lines, table


def complete():
    suites = {name: {"metrics": {}, "not_run": {}} for name in SUITES}
    for number, (suite, metric) in enumerate(METRICS):
        suites[suite]["metrics"][metric] = {"value": number / 10, "se": 0.01, "examples": 9}
    return suites


def test_ten_metrics_have_a_mean():
    found = summarize_paper(complete())
    assert found.mean_of_10 == found.mean_of_measured == pytest.approx(0.45)
    # One suite with 1, one with 1, one with 2 and two with 3 metrics, added within each.
    assert found.se_at_most == pytest.approx(0.01 * math.sqrt(1 + 1 + 4 + 9 + 9) / 10)
    assert list(paper_lines(found)) == ["mean of 10 metrics: 45.00 ±< 0.49"]


def test_what_is_missing_is_named_and_no_mean_of_ten_is_made():
    suites = complete()
    suites["defects4j"] = not_run_result("needs the program defects4j")
    suites["aider-polyglot"]["not_run"] = {"java": "no jars", "go": "go not found"}
    found = summarize_paper(suites)
    assert found.mean_of_10 is None
    assert found.mean_of_measured == pytest.approx((0 + 1 + 2 + 3 + 7 + 8 + 9) / 70)
    assert found.as_dict()["count"] == 7
    assert found.missing == {
        f"defects4j {metric}": "needs the program defects4j"
        for metric in ("line_coverage", "branch_coverage", "compile_rate")
    }
    assert found.partial["aider-polyglot pass@2"] == "without java, go"
    lines = list(paper_lines(found))
    assert lines[0] == "mean of 10 metrics: unknown: 3 not measured, 2 in part"
    assert lines[1].startswith("mean of the 7 measured: 42.86 ±<")
    assert "  in part: aider-polyglot pass@1: without java, go" in lines


def test_a_part_that_was_not_run_keeps_the_ten_from_being_complete():
    suites = complete()
    suites["defects4j"]["not_run"] = {"Lang-2": "can't be checked out"}
    assert summarize_paper(suites).mean_of_10 is None


def test_a_metric_that_lacks_something_is_not_the_paper_s():
    suites = complete()
    suites["commit-messages"]["lacking"] = {"meteor": "without WordNet's synonyms"}
    found = summarize_paper(suites)
    assert found.mean_of_10 is None
    assert found.partial == {"commit-messages meteor": "without WordNet's synonyms"}


def test_a_few_of_the_questions_are_a_part_too():
    suites = complete()
    suites["commit-messages"] |= {"questions": 20, "rows": 395}
    found = summarize_paper(suites)
    assert found.mean_of_10 is None
    assert found.partial["commit-messages meteor"] == "20 of 395 questions"


def test_answers_that_were_not_judged_keep_the_ten_from_being_complete():
    suites = complete()
    suites["cruxeval-input"] |= {"questions": 800, "rows": 800, "invalid": 3}
    found = summarize_paper(suites)
    assert found.mean_of_10 is None
    assert found.partial == {"cruxeval-input pass@1": "3 answers could not be judged"}


def test_nothing_measured():
    found = summarize_paper({})
    assert found.mean_of_measured is None
    assert set(found.missing.values()) == {"not asked for"}
    assert len(list(paper_lines(found))) == 11


def test_table_shows_percent_with_errors_and_says_what_was_not_run():
    suites = complete()
    suites["aider-polyglot"] |= {
        "parts": {"python": {"pass@1": {"value": 0.25, "se": None, "examples": 1}}, "go": {}},
        "not_run": {"rust": "cargo not found (30 exercises)"},
        "questions": 3,
        "rows": 5,
        "invalid": 2,
        "truncated": 0.5,
    }
    lines = list(table(suites))
    assert lines[1].split() == ["cruxeval-output", "pass@1", "10.00", "±", "1.00", "9", "examples"]
    assert any(line.split()[1:4] == ["pass@1", "(python)", "25.00"] for line in lines)
    assert "aider-polyglot: not run: rust: cargo not found (30 exercises)" in lines
    assert "aider-polyglot: 3 of 5 rows were asked" in lines
    assert "aider-polyglot: 2 answers could not be judged and count nowhere" in lines
