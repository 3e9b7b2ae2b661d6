from __future__ import annotations

import subprocess
import sys

import pytest

from astor_rl.errors import ConfigError, DependencyError
from astor_rl.tasks.base import Task
from astor_rl.tasks.registry import KINDS, make_task


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_a_task_of_that_name(kind):
    task = make_task(kind, {}, None)
    assert isinstance(task, Task)
    assert task.kind == kind
    assert task.verdict in ("unforgeable", "detected-only")


def test_options_reach_the_task():
    options = {"tier": "exercise", "allow_shared_process": True}
    assert make_task("code_generation", options, None).verdict == "detected-only"
    with pytest.raises(ConfigError, match=r"'levels'.*'code_generation'"):
        make_task("code_generation", {"levels": 2}, None)


OWN = """
from astor_rl.tasks.from_reward import from_reward
from astor_rl.tasks.io_prediction import IOPredictionTask

def reward(prompts, completions):
    return [0.0] * len(completions)

class Mine(IOPredictionTask):
    kind = "mine"

class Box:
    task = from_reward(reward)

number = 3
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_astor_tasks.py").write_text(OWN)
    (tmp_path / "needy_astor_tasks.py").write_text("import no_such_package_of_astor\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_astor_tasks"
    sys.modules.pop("own_astor_tasks", None)


def test_a_users_own_task(own_module):
    task = make_task(f"{own_module}:Mine", {"direction": "output"}, None)
    assert task.kind == "mine"
    assert make_task(f"{own_module}:Box.task", {}, None).kind == "reward"


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("io", {}, "'io'.*io_prediction"),
        ("no_such_module_of_mine:x", {}, "no module"),
        ("./sums.py:task", {}, "'./sums.py:task'; before the colon goes the name of a module"),
        ("own_astor_tasks:Nothing", {}, "'Nothing'"),
        ("own_astor_tasks:number", {}, "isn't a Task"),
        ("own_astor_tasks:Box.task", {"x": 1}, "takes no options"),
    ],
)
def test_what_cannot_be_made(own_module, kind, options, words):
    with pytest.raises(ConfigError, match=words):
        make_task(kind, options, None)


def test_a_missing_package_names_the_extra_where_that_helps(own_module, monkeypatch):
    with pytest.raises(DependencyError, match=r"'no_such_package_of_astor': it isn't installed$"):
        make_task("needy_astor_tasks:x", {}, None)
    monkeypatch.setitem(KINDS, "needy", "needy_astor_tasks:x")
    with pytest.raises(DependencyError, match=r"no_such_package_of_astor.*astor-rl\[tasks\]"):
        make_task("needy", {}, None)


def test_the_registry_loads_no_task_before_it_is_asked():
    code = (
        "import sys, astor_rl.tasks.registry\n"
        "assert not [m for m in sys.modules if m.endswith(('_prediction', '_generation'))]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
