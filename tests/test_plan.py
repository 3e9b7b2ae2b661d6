from __future__ import annotations

import pytest

from astor_rl.plan import GroupOutcome, varies


@pytest.mark.parametrize(
    ("outcomes", "mixed"),
    [
        ((), False),
        ((0.5,), False),
        ((1.0, 1.0), False),
        ((0.0, 1.0), True),
        ((0.2, 0.2, 0.3), True),
    ],
)
def test_a_group_is_mixed_where_two_outcomes_differ(outcomes, mixed):
    assert varies(outcomes) is mixed
    # What nobody judged is no outcome.
    assert GroupOutcome(slot=0, outcomes=outcomes, invalid=3).mixed is mixed
