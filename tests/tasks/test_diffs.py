from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.tasks._diffs import shorten_diff

DIFF = """diff --git a/x b/x
--- a/x
+++ b/x
@@ -1 +1 @@
-one
+two
@@ -9 +9 @@
-this hunk is far too long for a small budget
+and so it is left out
diff --git a/y b/y
--- a/y
+++ b/y
@@ -1 +1 @@
-three
+four"""


def test_a_diff_that_fits_is_left_alone():
    assert shorten_diff(DIFF + "\n", len(DIFF)) == (DIFF, "")


def test_hunks_are_kept_whole_with_their_files_header():
    text, note = shorten_diff(DIFF, 120)
    assert text == DIFF[: DIFF.index("@@ -9")] + DIFF[DIFF.index("diff --git a/y") :]
    assert note == "1 of 3 hunks left out"


def test_a_header_is_shown_once_for_its_hunks():
    text, note = shorten_diff(DIFF, len(DIFF) - 1)
    assert text == DIFF[: DIFF.index("\ndiff --git a/y")]
    assert note == "1 of 3 hunks left out"


def test_a_first_hunk_that_is_too_long_is_cut_after_a_line():
    text, note = shorten_diff(DIFF, 30)
    assert text == "diff --git a/x b/x\n--- a/x"
    assert note.startswith("cut")


def test_a_rename_has_no_hunk_and_is_kept():
    renamed = "diff --git a/p b/q\nrename from p\nrename to q\n" + DIFF
    text, note = shorten_diff(renamed, 100)
    assert text.startswith("diff --git a/p b/q\nrename from p\nrename to q")
    assert note.endswith("of 4 hunks left out")


@pytest.mark.parametrize("text", ["+ a\n- b\nc", "x" * 50])
def test_text_without_hunks_is_one_hunk(text):
    shortened, note = shorten_diff(text, 5)
    assert text.startswith(shortened)
    assert 0 < len(shortened) <= 5
    assert note.startswith("cut")


LINES = st.sampled_from(["diff --git a/x b/x", "--- a/x", "@@ -1 +1 @@", "+one", "-two", ""])


@given(st.lists(LINES, min_size=1, max_size=30).map("\n".join), st.integers(1, 200))
def test_the_budget_holds_and_lines_are_the_diffs_own(diff, budget):
    text, note = shorten_diff(diff, budget)
    assert len(text) <= budget
    if not note:
        assert text == diff.strip("\n")
    elif not note.startswith("cut"):
        assert set(text.splitlines()) <= set(diff.splitlines())
