from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astor_rl.tasks.metrics.words import spaced


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Fix typo in Caches.cpp", "Fix typo in Caches . cpp"),
        ("don't  (yet)", "don ' t ( yet )"),
        ("", ""),
    ],
)
def test_punctuation_stands_apart(text, words):
    assert spaced(text) == words


@given(st.text(max_size=40))
def test_once_is_enough(text):
    assert spaced(spaced(text)) == spaced(text)
