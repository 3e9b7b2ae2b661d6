"""What `astor eval --suite` was asked, and how the model is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from astor_rl.engines.local.suites import SuiteOptions, model_settings
from astor_rl.errors import ConfigError


def test_temperature_follows_the_samples():
    assert SuiteOptions(["mbpp"]).heat == 0
    assert SuiteOptions(["mbpp"], samples=4).heat == 0.2
    assert SuiteOptions(["mbpp"], temperature=0.7).heat == 0.7


def test_settings_come_from_the_run_file_and_the_command_line(tmp_path: Path):
    file = tmp_path / "run.toml"
    file.write_text(
        'model = "m"\ntorch_threads = 2\nchat_template_kwargs = { enable_thinking = false }\n'
        '[rollout]\nmax_rows = 8\n[[tasks]]\nname = "a"\ntask = "io_prediction"\n'
        'source = "jsonl:x"\n'
    )
    model, settings = model_settings("some/model", file, ["rollout.max_rows=4"])
    assert model == "some/model"
    assert settings.torch_threads == 2
    assert settings.rollout.max_rows == 4
    assert settings.chat_template_kwargs == {"enable_thinking": False}
    _, plain = model_settings("some/model", None, None)
    assert (plain.dtype, plain.rollout.max_rows) == ("bfloat16", 128)
    with pytest.raises(
        ConfigError, match=r"^--set: rollout\.max_rows = 0: input should be greater than"
    ):
        model_settings("some/model", None, ["rollout.max_rows=0"])
