"""Figures of prompts: by key through changes of the data."""

from __future__ import annotations

import pytest

from astor_rl.errors import StateError
from astor_rl.schedule.baselines.columns import PromptColumns


def test_prompts_are_found_by_key():
    old = PromptColumns(["x", "y", "z"], {"n": 0.0})
    old.put(0, n=1.0)
    old.put(2, n=3.0)
    new = PromptColumns(["z", "w", "q"], {"n": 0.0})
    new.load_state_dict(old.state_dict())
    assert new["n"].tolist() == [3.0, 0.0, 0.0]
    assert new.touched.tolist() == [True, False, False]


def test_other_columns_are_refused():
    old = PromptColumns(["x"], {"n": 0.0})
    with pytest.raises(StateError, match="missing \\['m'\\], unknown \\['n'\\]"):
        PromptColumns(["x"], {"m": 0.0}).load_state_dict(old.state_dict())
