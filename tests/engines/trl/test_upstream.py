"""Without TRL."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("missing", ["trl", "datasets"])
def test_what_is_missing_is_named_with_its_extra(missing):
    program = f"import sys; sys.modules[{missing!r}] = None; import astor_rl.engines.trl"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        f"astor_rl.errors.DependencyError: {missing} is not installed: pip install 'astor-rl[trl]'"
    )
