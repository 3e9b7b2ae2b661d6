from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import common


def test_a_percentile_is_a_value_that_so_many_do_not_exceed() -> None:
    values = list(range(100, 0, -1))
    assert common.percentile(values, 50) == 50
    assert common.percentile(values, 99) == 99
    assert common.percentile(values, 100) == 100
    assert common.percentile(values, 0) == 1
    assert common.percentile([7.0], 99) == 7.0


def test_a_summary_has_the_median_between_its_quartiles() -> None:
    assert common.summary([4.0, 1.0, 3.0, 2.0]) == {"median": 2.5, "q1": 1.0, "q3": 3.0, "n": 4}


def test_ratios_and_differences_are_paired() -> None:
    assert common.ratios([10.0, 1.0], [5.0, 0.5])["median"] == 2.0
    assert common.differences([10.0, 1.0], [5.0, 4.0])["q1"] == -3.0
    with pytest.raises(ValueError, match="zip"):
        common.ratios([1.0], [])


def test_usage_counts_a_child_before_and_after_it_is_reaped() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    before = common.tree_cpu_s()
    child = subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    assert child.pid in common.descendants(os.getpid())
    assert common.usage([child.pid]).user_s + common.usage([child.pid]).system_s >= 0.25
    assert common.tree_cpu_s() - before >= 0.25
    child.communicate(b"\n")
    assert common.tree_cpu_s() - before >= 0.25
    assert common.usage([child.pid]) == common.Usage()


def test_a_result_is_written_and_printed_with_four_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "result.json"
    common.publish({"a": 1.23456, "b": [{"c": 1234567.0}], "d": None, "n": 12345}, path)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    expected = {"a": 1.235, "b": [{"c": 1235000.0}], "d": None, "n": 12345}
    assert json.loads(printed) == json.loads(path.read_text()) == expected


def test_the_machine_is_described_without_its_name() -> None:
    text = json.dumps(common.machine())
    assert common.machine()["cores"] >= 1
    assert os.uname().nodename not in text
    assert common.versions("no-such-thing")["no-such-thing"] is None
