"""Exercises with a toolchain: what is a pass, what is a failure, and what says nothing."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.data.rows import Row
from astor_rl.errors import ConfigError, DataError
from astor_rl.evaluate.suites.base import Answer
from astor_rl.evaluate.suites.compiled import Compiled, answered_files, bounded
from astor_rl.evaluate.suites.container import (
    TEMPORARY,
    Unconfined,
    find_bubblewrap,
    scratch_folder,
)
from astor_rl.evaluate.suites.polyglot import PolyglotSuite
from astor_rl.evaluate.suites.toolchains import (
    Toolchain,
    find_toolchain,
    parse_toolchains,
)
from astor_rl.tasks.parsing import fences
from astor_rl.types import Invalid, Score

RUNNER = """
. ./greet.sh
passed=0
for expected in 'Hello, Ann!' 'Hello, Bo!'; do
    name=${expected#Hello, }
    [ "$(greet "${name%!}")" = "$expected" ] || { echo "FAIL: $expected"; exit 1; }
    passed=$((passed + 1))
done
echo "STARTED"
echo "PASSED $passed"
"""
"""A test runner for a language that is everywhere: the shell. It loads the solution, as they do."""

EXERCISE: dict[str, Any] = {
    "language": "rust",
    "slug": "greet",
    "prompt": "Greet somebody.",
    "files": {"greet.sh": "greet() { :; }\n", "notes.txt": "nothing\n"},
    "reference": {".meta/example.sh": 'greet() { echo "Hello, $1!"; }\n'},
    "tests": [{"path": "run.sh", "content": RUNNER}],
    "support_files": {},
}


def shell(**changes: Any) -> Toolchain:
    def count(pattern: str):
        return lambda text: sum(int(found) for found in re.findall(pattern, text))

    options: dict[str, Any] = {
        "command": ("sh", "run.sh"),
        "readable": (),
        "environment": {"PATH": "/usr/bin:/bin"},
        "passed": count(r"PASSED (\d+)"),
        "started": lambda text: text.count("STARTED"),
        "tests": lambda source: source.count("'Hello, "),
    }
    return Toolchain(**{**options, **changes})


def judged(language: Compiled, *texts: str, row: dict[str, Any] | None = None):
    question = language.question(Row(row or EXERCISE, "rows:1", "1"))
    return asyncio.run(language.judge([Answer(question, text) for text in texts]))


def told(language: Compiled, text: str) -> str | None:
    question = language.question(Row(EXERCISE, "rows:1", "1"))
    asyncio.run(language.judge([Answer(question, text)]))
    return asyncio.run(language.follow_up(Answer(question, text)))


RIGHT = 'greet.sh\n```sh\ngreet() { echo "Hello, $1!"; }\n```'


@pytest.fixture
def language() -> Compiled:
    return Compiled("rust", shell(), Unconfined(), timeout_s=60)


def test_right_answers_pass_and_others_fail(language):
    verdicts = judged(
        language,
        RIGHT,
        "```\ngreet() { :; }\n```",
        "I can't.",
        "greet.sh\n```sh\nexit 0\n```",  # ends the runner before it has reported
        "greet.sh\n```sh\nsleep 0; kill -9 $$\n```",
        "run.sh\n```sh\necho PASSED 2\n```",  # not a file that was asked for
        "greet.sh\n```sh\necho PASSED 1; exit 0\n```",
    )
    assert [verdict.outcome for verdict in verdicts] == [1, 0, 0, 0, 0, 0, 0]
    assert verdicts[3].reason == "0 tests were reported as passed of 2"


def test_a_reference_runs_once_however_many_answers_there_are(tmp_path: Path):
    log = tmp_path / "log"
    row = {
        **EXERCISE,
        "reference": {".meta/example.sh": f'echo x >>{log}\ngreet() {{ echo "Hello, $1!"; }}\n'},
    }
    texts = [f"{RIGHT}\n{n}" for n in range(4)]
    verdicts = judged(Compiled("rust", shell(), Unconfined()), *texts, row=row)
    assert [verdict.outcome for verdict in verdicts] == [1] * 4
    assert log.read_text() == "x\n"


def test_a_second_try_is_told_the_output(language):
    said = told(language, "greet.sh\n```sh\ngreet() { echo no; }\n```")
    assert said is not None
    assert "FAIL: Hello, Ann!" in said
    assert "`greet.sh`, `notes.txt`" in said
    assert "no file was found" in (told(language, "No.") or "")
    assert told(language, RIGHT) is None


FAILS = "The tests fail:\n"


def printing(script: str) -> str:
    """An answer whose first test prints something and fails."""
    return f"greet.sh\n```sh\ngreet() {{ {script}; }} >&2\n```"


def test_a_second_try_is_told_all_of_the_output(language):
    said = told(language, printing("seq 300"))
    assert said is not None
    assert "\n51\n52\n" in said
    assert "\n300\nFAIL: Hello, Ann!" in said
    assert "left out" not in said


def test_of_a_long_output_the_second_try_is_told_both_ends(language):
    said = told(language, printing("seq 3000 7000"))
    assert said is not None
    output = said.removeprefix(FAILS).partition("\n\nThe tests are right.")[0]
    assert output.startswith("3000\n3001\n")
    assert output.endswith("7000\nFAIL: Hello, Ann!")
    # 4,001 lines of 5 characters, and the runner's own.
    left_out = 4001 * 5 + len("FAIL: Hello, Ann!") - 12_000
    assert f"\n... at least {left_out} characters left out ...\n" in output
    assert len(output) < 12_100
    assert bounded("x" * 12_000) == "x" * 12_000


def test_times_and_places_that_differ_from_run_to_run_are_not_told(language):
    lines = ["test result: FAILED; finished in 0.03s", "ok\tgreet\t1.250s", "--- FAIL: A (0.00s)"]
    lines += ["Time:        0.52 s, estimated 1 s", "Test run finished after 62 ms", "in 5 steps"]
    script = "pwd; echo '" + "\n".join(lines) + "'"
    said = told(language, printing(script))
    assert said is not None
    assert said.removeprefix(FAILS).splitlines()[:7] == [
        "greet",
        "test result: FAILED; finished ",
        "ok\tgreet",
        "--- FAIL: A ",
        "",
        "Test run finished ",
        "in 5 steps",
    ]


def test_a_deadline_is_a_failure_and_told_before_what_was_printed():
    language = Compiled("rust", shell(), Unconfined(), timeout_s=1)
    answer = "greet.sh\n```sh\necho begun\ngreet() { sleep 60; }\n```"
    (verdict,) = judged(language, answer)
    assert (verdict.outcome, verdict.reason) == (0, "timeout after 1 s")
    said = told(language, answer)
    assert said is not None
    assert said.startswith(f"{FAILS}timeout after 1 s\n\nbegun\n")


@pytest.mark.parametrize(
    ("ending", "fault"),
    [
        ("kill -9 $$", "exit code -9: begun"),
        ("exit 137", "exit code 137: begun"),
        ("exit 0", "0 tests were reported as passed of 2"),
    ],
)
def test_an_end_that_the_output_does_not_explain_is_told_first(language, ending, fault):
    said = told(language, f"greet.sh\n```sh\necho begun\n{ending}\n```")
    assert said is not None
    assert said.startswith(f"{FAILS}{fault}\n\nbegun\n")


def test_build_files_are_no_part_of_the_question_nor_of_the_answer(language):
    runner = f"cat Cargo.toml\n{RUNNER}"
    row = {
        **EXERCISE,
        "files": {"greet.sh": "greet() { :; }\n", "Cargo.toml": "[package]\n"},
        "tests": [{"path": "run.sh", "content": runner}],
    }
    question = language.question(Row(row, "rows:1", "1"))
    assert "Cargo.toml" not in question.messages[0]["content"]
    assert question.example.fields["files"] == {"greet.sh": "greet() { :; }\n"}
    text = "Cargo.toml\n```toml\nmine\n```\ngreet.sh\n```sh\ngreet() { echo no; }\n```"
    assert asyncio.run(language.judge([Answer(question, text)]))[0].outcome == 0
    said = asyncio.run(language.follow_up(Answer(question, text)))
    assert said is not None
    assert said.startswith(f"{FAILS}[package]\n")
    assert "mine" not in said
    assert "Correct `greet.sh`:" in said


def test_without_a_container_temporary_files_are_nobody_elses(tmp_path: Path):
    command = ["/bin/sh", "-c", 'echo "$HOME $GOCACHE $PATH"; touch "$HOME/left"; ls "$TMPDIR"']
    environment = {"PATH": "/usr/bin:/bin", "HOME": TEMPORARY, "GOCACHE": f"{TEMPORARY}/go"}
    outputs = []
    for _ in range(2):
        ran = Unconfined().run(command, folder=tmp_path, environment=environment, timeout_s=30)
        assert ran.code == 0, ran.output
        outputs.append(ran.output.split())
    (home, cache, path, left), again = outputs
    assert left == "left"
    assert path == environment["PATH"]
    assert cache == f"{home}/go"
    assert home not in ("/tmp", again[0])
    assert not Path(home).exists()


def test_without_a_container_a_toolchain_below_tmp_is_found(tmp_path: Path):
    tool = tmp_path / "bin" / "hello"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho found $GOROOT\n")
    tool.chmod(0o755)
    environment = {"PATH": f"{tool.parent}:/usr/bin:/bin", "GOROOT": str(tmp_path)}
    ran = Unconfined().run(["hello"], folder=tmp_path, environment=environment, timeout_s=30)
    assert ran.output.split() == ["found", str(tmp_path)]


def test_a_folder_is_removed_however_it_was_left():
    with scratch_folder("astor-test-") as deep:
        here = os.open(deep, os.O_RDONLY)
        for _ in range(2000):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
    assert not deep.exists()
    with scratch_folder("astor-test-") as replaced:
        replaced.rmdir()
        replaced.symlink_to("/usr")
    assert Path("/usr/bin").exists()
    replaced.unlink(missing_ok=True)
    with scratch_folder("astor-test-") as gone:
        gone.rmdir()


def test_an_exercise_that_cannot_be_run_here_says_nothing():
    broken = {**EXERCISE, "tests": [{"path": "run.sh", "content": "no-such-compiler\n"}]}
    (verdict,) = judged(Compiled("rust", shell(), Unconfined()), RIGHT, row=broken)
    assert isinstance(verdict, Invalid)
    assert "the reference fails here: exit code 127" in verdict.reason
    silent = {**EXERCISE, "tests": [{"path": "run.sh", "content": "exit 0\n"}]}
    (verdict,) = judged(Compiled("rust", shell(), Unconfined()), RIGHT, row=silent)
    assert isinstance(verdict, Invalid)
    assert "report no result" in verdict.reason


def test_a_reference_that_lacks_something_does_not_keep_answers_from_being_judged():
    # Its tests are reached with the stub, so they are counted in their source.
    row = {
        **EXERCISE,
        "reference": {".meta/example.sh": "exit 3\n"},
        "tests": [{"path": "run.sh", "content": f"echo STARTED\n{RUNNER}"}],
    }
    right, wrong = judged(
        Compiled("rust", shell(), Unconfined()), RIGHT, "```\nexit 0\n```", row=row
    )
    assert isinstance(right, Score)
    assert right.outcome == 1
    assert wrong.outcome == 0


def test_files_of_an_answer():
    files = {"src/lib.rs": "", "Cargo.toml": ""}
    text = "**src/lib.rs**:\n```rust\nA\n```\nand `Cargo.toml`\n\n```toml\nB\n```\n```\nC\n```"
    assert answered_files(files, text) == {"src/lib.rs": "A\n", "Cargo.toml": "B\n"}
    assert answered_files(files, "So:\n```rust\nA\n```") == {"src/lib.rs": "A\n"}
    assert answered_files(files, "a:\n```\nA\n```\nb:\n```\nB\n```") == {}
    assert answered_files(files, "lib.rs\n```\nA") == {"src/lib.rs": "A\n"}


def test_names_of_files_are_read_wherever_they_stand():
    files = {"foo.h": "", "foo.cpp": ""}
    both = {"foo.h": "A\n", "foo.cpp": "B\n"}
    assert answered_files(files, "```cpp foo.h\nA\n```\n```cpp foo.cpp\nB\n```") == both
    assert answered_files(files, '```cpp title="foo.h"\nA\n```\n```cpp:src/foo.cpp\nB\n```') == both
    commented = {"foo.h": "/* foo.h */\nA\n", "foo.cpp": "// File: foo.cpp\nB\n"}
    blocks = "```cpp\n/* foo.h */\nA\n```\n```cpp\n// File: foo.cpp\nB\n```"
    assert answered_files(files, blocks) == commented
    assert answered_files(files, "### 1. foo.h,\n```\nA\n```\n~~~ foo.cpp\nB\n~~~") == both
    # An include isn't a label, and a block within a block is its content.
    include = '#include "foo.h"\n'
    assert answered_files(files, f"foo.cpp:\n```\n{include}```") == {"foo.cpp": include}
    assert answered_files(files, "foo.cpp\n````\n```c foo.h\nA\n```\n````\n```c foo.h\nB\n```") == {
        "foo.cpp": "```c foo.h\nA\n```\n",
        "foo.h": "B\n",
    }


LINES = [
    "```",
    "````",
    "~~~",
    "    ```",
    "```b `c`",
    "~~~ a ```",
    "```c 1.x",
    "~~~ c 2.x",
    "",
    "3.x",
]


@given(st.lists(st.sampled_from(LINES), max_size=12).map("\n".join))
def test_blocks_are_read_with_their_own_info_strings(text):
    files = {"1.x": "", "2.x": "", "3.x": ""}
    found = answered_files(files, text)
    blocks = [block for block in fences(text) if block.code.strip()]
    assert set(found.values()) <= {block.code for block in blocks}
    for name in ("1.x", "2.x") if len(blocks) > 1 else ():
        # These two stand in info strings only, of blocks in C.
        told = [block.code for block in blocks if block.language == "c" and block.before != "3.x"]
        assert name not in found or found[name] in told


def test_the_first_block_that_is_a_file_is_it():
    files = {"foo.h": "", "foo.cpp": ""}
    solution = "foo.cpp\n```cpp\nB\n```"
    for text in (
        f"{solution}\nUse foo.cpp so:\n```cpp\nint main() {{}}\n```",
        f"You have foo.cpp so far:\n```cpp\nvoid foo();\n```\n{solution}",
        f"{solution}\nOr:\n**foo.cpp**\n```\nC\n```",
        "I write foo.cpp as:\n```\nB\n```\nThen include foo.cpp with:\n```\nC\n```",
    ):
        assert answered_files(files, text) == {"foo.cpp": "B\n"}
    # The only file needs no name, but a block that is labelled as another file isn't it.
    one = {"src/lib.rs": ""}
    plain = "```rust\nA\n```\nRun it:\n```\ncargo test\n```"
    assert answered_files(one, plain) == {"src/lib.rs": "A\n"}
    assert answered_files(one, f"Cargo.toml\n```toml\nT\n```\n\n{plain}") == {"src/lib.rs": "A\n"}
    assert answered_files(one, "") == answered_files(one, "```\n\n```") == {}


def test_commands_drafts_and_files_of_the_same_name_are_not_taken():
    one, code = {"src/lib.rs": ""}, "```rust\nA\n```"
    for text in (
        f"First:\n```bash\ncargo add x\n```\nthen\n{code}",
        f"Put it in `src/lib.rs` after:\n```sh\ncargo new\n```\nCode for src/lib.rs:\n{code}",
        f"<think>\nsrc/lib.rs\n```rust\nDRAFT\n```\n</think>\nsrc/lib.rs\n{code}",
    ):
        assert answered_files(one, text) == {"src/lib.rs": "A\n"}
    script = {"foo.js": ""}
    assert answered_files(script, "Node.js:\n```js\nA\n```\nRun:\n```bash\nnode foo\n```") == {
        "foo.js": "A\n"
    }
    main = {"src/main/java/A.java": ""}
    both = "src/test/java/A.java\n```java\nT\n```\nsrc/main/java/A.java\n```java\nM\n```"
    assert answered_files(main, both) == {"src/main/java/A.java": "M\n"}


def test_what_only_judging_needs_of_gos_output_is_not_shown(tmp_path: Path):
    program = tmp_path / "bin" / "go"
    program.parent.mkdir()
    program.touch()
    toolchain = find_toolchain("go", tmp_path)
    assert isinstance(toolchain, Toolchain)
    output = (
        "=== RUN   TestA\n=== PAUSE TestA\n=== CONT  TestA\n--- PASS: TestA (0.00s)\n"
        "=== RUN   TestB\n=== RUN   TestB/one\n\n=== NAME  TestB\n    b_test.go:9: got 1, want 2\n"
        "--- FAIL: TestB (0.00s)\n    --- PASS: TestB/one (0.00s)\n"
        "    --- FAIL: TestB/two (0.00s)\n"
        "FAIL\nFAIL\tgreet\t0.002s\n"
    )
    assert toolchain.passed(output) == 1
    assert toolchain.shown(output) == (
        "\n    b_test.go:9: got 1, want 2\n"
        "--- FAIL: TestB (0.00s)\n    --- FAIL: TestB/two (0.00s)\n"
        "FAIL\nFAIL\tgreet\t0.002s\n"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slug": "../up"}, "names a folder"),
        ({"slug": ".."}, "names a folder"),
        ({"slug": ""}, "names a folder"),
        ({"tests": [{"path": 1, "content": ""}]}, "must hold {path, content}"),
        ({"tests": [{"path": "x", "content": None}]}, "must hold {path, content}"),
        ({"files": {"/etc/x": ""}}, "leads out of the exercise's folder"),
        ({"files": {}}, "field 'files' is empty"),
        ({"tests": [{"path": "../x", "content": ""}]}, "leads out"),
        ({"tests": ["x"]}, "must hold {path, content}"),
        ({"support_files": ["x"]}, "must map file names to texts"),
    ],
)
def test_rows_are_checked(language, changes, message):
    with pytest.raises(DataError, match=message):
        language.question(Row({**EXERCISE, **changes}, "rows:1", "1"))


def test_languages_that_do_not_run_are_reported_and_count_nowhere(language):
    rows = [
        Row({**EXERCISE, "language": name, "slug": f"{name}-{n}"}, f"{name}:{n}", f"{name}{n}")
        for name in ("rust", "go", "java")
        for n in range(2)
    ]
    made = PolyglotSuite(rows, {"rust": language}, {"go": "go not found"})
    assert len(made.questions) == 2
    assert made.report([]).not_run == {
        "python": "the data has no exercises in it",
        "cpp": "the data has no exercises in it",
        "go": "go not found (2 exercises)",
        "java": "no toolchain (2 exercises)",
        "javascript": "the data has no exercises in it",
        "rust": "none of its exercises were drawn",
    }
    with pytest.raises(DataError, match="'cobol'; it must be of python, cpp"):
        PolyglotSuite([Row({"language": "cobol"}, "rows:9", "9")], {}, {})


def test_toolchains_that_are_not_there_are_named(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, wanted in {
        "cpp": "cmake, make, c++ not found",
        "go": "go not found: give --toolchain go=FOLDER, a GOROOT",
        "java": "java, javac not found",
        "javascript": "node not found",
        "rust": "cargo, rustc not found",
    }.items():
        found = find_toolchain(name, None)
        assert isinstance(found, str)
        assert found.startswith(wanted)
    assert find_bubblewrap() == "bubblewrap (bwrap) isn't installed"
    with pytest.raises(ConfigError, match="no such folder"):
        find_toolchain("cpp", tmp_path / "none")
    assert parse_toolchains(["cpp=/x"]) == {"cpp": Path("/x")}
    with pytest.raises(ConfigError, match="LANGUAGE=FOLDER, with one of cpp, go"):
        parse_toolchains(["python=/x"])


RUST: dict[str, Any] = {
    "language": "rust",
    "slug": "twice",
    "prompt": "Double it.",
    "files": {
        "src/lib.rs": "pub fn twice(n: i32) -> i32 {\n    todo!()\n}\n",
        "Cargo.toml": '[package]\nedition = "2021"\nname = "twice"\nversion = "1.0.0"\n',
    },
    "reference": {".meta/example.rs": "pub fn twice(n: i32) -> i32 {\n    2 * n\n}\n"},
    "tests": [
        {
            "path": "tests/twice.rs",
            "content": "use twice::*;\n\n#[test]\nfn one() {\n    assert_eq!(twice(1), 2);\n}\n\n"
            "#[test]\n#[ignore]\nfn two() {\n    assert_eq!(twice(2), 4);\n}\n",
        }
    ],
}


@pytest.mark.slow
def test_rust_runs_where_cargo_is():
    toolchain = find_toolchain("rust", None)
    if isinstance(toolchain, str):
        pytest.skip(toolchain)
    bubblewrap = find_bubblewrap()
    container = Unconfined() if isinstance(bubblewrap, str) else bubblewrap
    right, wrong, half, exits, own = judged(
        Compiled("rust", toolchain, container),
        "src/lib.rs\n```rust\npub fn twice(n: i32) -> i32 { n + n }\n```",
        "src/lib.rs\n```rust\npub fn twice(n: i32) -> i32 { n }\n```",
        "```rust\npub fn twice(n: i32) -> i32 { 2 }\n```",
        "```rust\npub fn twice(n: i32) -> i32 { std::process::exit(0) }\n```",
        # Tests and documents of its own pass; those of the exercise were ended before they failed.
        "```rust\n/// ```\n/// assert!(true);\n/// ```\n"
        "pub fn twice(n: i32) -> i32 { std::process::exit(0) }\n"
        "#[test]\nfn a() {}\n#[test]\nfn b() {}\n```",
        row=RUST,
    )
    assert (right.outcome, wrong.outcome, half.outcome, exits.outcome) == (1, 0, 0, 0)
    assert own.outcome == 0
    assert exits.reason == "0 tests were reported as passed of 2"
