"""Where rows come from, and what is said where they don't."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from astor_rl.data.rows import Row
from astor_rl.errors import ConfigError, DataError
from astor_rl.evaluate.suites.data import (
    PLACES,
    SuiteRows,
    limited,
    load_rows,
    parse_sources,
)
from astor_rl.evaluate.suites.polyglot import PolyglotSuite, Python


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def test_options_name_sources_by_suite():
    found = parse_sources(["mbpp=jsonl:a", "humaneval=hf:x/y@test", "mbpp=b.jsonl"])
    assert found == {"mbpp": ["jsonl:a", "b.jsonl"], "humaneval": ["hf:x/y@test"]}
    with pytest.raises(ConfigError, match="write it as SUITE=jsonl"):
        parse_sources(["mbpp"])
    with pytest.raises(ConfigError, match="no suite 'mbbp'; it must be of cruxeval-input"):
        parse_sources(["mbbp=x"])


def test_a_folder_is_searched_for_the_names_that_data_has(tmp_path: Path, pool):
    write(tmp_path / "HumanEval.jsonl.gz", {"task_id": "a"})
    write(tmp_path / "humaneval.jsonl", {"task_id": "b"})
    assert [row.fields["task_id"] for row in load_rows("humaneval", [], tmp_path, pool).rows] == [
        "a"
    ]
    for name in ("python", "other_languages"):
        write(tmp_path / f"code_generation.heldout.aider_polyglot_{name}.jsonl.gz", {"slug": name})
    polyglot = load_rows("aider-polyglot", [], tmp_path, pool)
    assert [row.fields["slug"] for row in polyglot.rows] == ["python", "other_languages"]
    named = load_rows("humaneval", [f"{tmp_path / 'humaneval.jsonl'}"], tmp_path, pool)
    assert named.rows[0].fields["task_id"] == "b"


@pytest.mark.parametrize("name", PLACES)
def test_a_suite_without_data_says_where_to_get_it(name, tmp_path: Path, pool):
    with pytest.raises(DataError) as found:
        load_rows(name, [], tmp_path, pool)
    message = str(found.value)
    assert message.startswith(f"suite {name!r} has no data in {str(tmp_path)!r}; get ")
    source = "FOLDER" if name == "aider-polyglot" else "jsonl:FILE"
    assert message.endswith(f"--data {name}={source}")
    assert "\n" not in message
    with pytest.raises(DataError, match="is no folder"):
        load_rows(name, [], tmp_path / "none", pool)


def test_a_named_source_that_is_wrong_is_named(tmp_path: Path, pool):
    with pytest.raises(DataError, match=r"no file .*gone\.jsonl"):
        load_rows("mbpp", [str(tmp_path / "gone.jsonl")], None, pool)
    with pytest.raises(DataError, match="neither a checkout of Aider's polyglot benchmark nor"):
        load_rows("mbpp", [str(tmp_path)], None, pool)


def test_data_without_rows_is_an_error(tmp_path: Path, pool):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"no rows|empty"):
        load_rows("mbpp", [str(tmp_path / "empty.jsonl")], None, pool)


def test_limits_draw_by_the_seed_and_keep_the_order():
    rows = [Row({"n": n}, str(n), str(n)) for n in range(50)]
    drawn = limited(rows, 10, "0:x")
    assert len(drawn) == 10
    assert [row.fields["n"] for row in drawn] == sorted(row.fields["n"] for row in drawn)
    assert drawn == limited(rows, 10, "0:x") != limited(rows, 10, "1:x")
    assert limited(rows, None, "") == limited(rows, 50, "") == rows


def test_digests_tell_other_content():
    one, other = (SuiteRows((Row({"a": v}, "o", "u"),), ()) for v in (1, 2))
    assert one.digest != other.digest
    assert one.digest == SuiteRows((Row({"a": 1}, "elsewhere", "u"),), ("x",)).digest


def test_a_checkout_of_aiders_benchmark_is_read(tmp_path: Path, pool, run, golden):
    folder = tmp_path / "polyglot-benchmark" / "python" / "exercises" / "practice" / "greeting"
    files = {
        ".meta/config.json": json.dumps(
            {
                "files": {
                    "solution": ["greeting.py"],
                    "test": ["greeting_test.py"],
                    "example": [".meta/example.py"],
                }
            }
        ),
        ".meta/example.py": "from helper import mark\n\n\ndef greet():\n    return 'hi' + mark()\n",
        ".docs/instructions.md": "# Instructions\n\nSay hi.",
        ".docs/introduction.md": "# Introduction",
        "greeting.py": "def greet():\n    pass\n",
        "greeting_test.py": "from greeting import greet\n\n\ndef test():\n"
        "    assert greet() == 'hi!'\n",
        "helper.py": "def mark():\n    return '!'\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    rows = load_rows("aider-polyglot", [], tmp_path, pool).rows
    assert rows[0].origin == "python/greeting"
    assert rows[0].fields["prompt"] == "# Introduction\n\n# Instructions\n\nSay hi."
    assert rows[0].fields["support_files"] == {"helper.py": files["helper.py"]}
    suite = PolyglotSuite(rows, {"python": Python(pool)}, {})
    found = run(suite, lambda question, sample, turn: golden("aider-polyglot", question))
    assert found.value("pass@1") == 1

    (folder / ".meta" / "config.json").write_text("[]")
    with pytest.raises(DataError, match="must be a JSON object"):
        load_rows("aider-polyglot", [], tmp_path, pool)


def test_mcmds_parallel_files_are_read(tmp_path: Path, pool):
    for split in ("train", "test"):
        (tmp_path / f"{split}.diff.txt").write_text("- a<nl>+ b\n- c<nl>+ d\n")
        (tmp_path / f"{split}.msg.txt").write_text(f"{split} one\n{split} two\n")
    rows = load_rows("commit-messages", [str(tmp_path)], None, pool).rows
    assert [row.fields["message"] for row in rows] == ["test one", "test two"]
    (tmp_path / "test.msg.txt").write_text("only one\n")
    with pytest.raises(DataError, match=r"test\.diff\.txt has 2 lines and test\.msg\.txt 1"):
        load_rows("commit-messages", [str(tmp_path)], None, pool)
