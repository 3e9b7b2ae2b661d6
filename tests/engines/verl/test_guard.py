from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest

from astor_rl.engines.verl.guard import VERL, require_attention, require_verl
from astor_rl.errors import DependencyError


def installed(**versions: str):
    def version_of(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return version_of


def test_the_right_version_is_let_through():
    require_verl(installed(verl=VERL, TransferQueue="0.1.11"))


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({}, "needs package 'verl' 0.9.1"),
        ({"verl": "0.8.0", "TransferQueue": "0.1.11"}, "verl is 0.8.0; .* pip install verl==0.9.1"),
        ({"verl": VERL}, "needs package 'TransferQueue'"),
    ],
)
def test_anything_else_is_one_line(versions: dict[str, str], says: str):
    with pytest.raises(DependencyError, match=says) as caught:
        require_verl(installed(**versions))
    assert "\n" not in str(caught.value)


def absent(name: str) -> Any:
    raise ImportError(f"{name}_2_cuda.so: undefined\nsymbol")


def test_flash_attention_must_import_unless_another_attention_is_set():
    conf = pytest.importorskip("omegaconf", reason="needs verl: make test-verl").OmegaConf

    def config(device: str = "cuda", **chosen: str) -> Any:
        model = {"override_config": chosen}
        return conf.create({"trainer": {"device": device}, "actor_rollout_ref": {"model": model}})

    loaded: list[str] = []
    require_attention(config(), loaded.append)
    assert loaded == ["flash_attn"]
    require_attention(config(attn_implementation="sdpa"), absent)
    require_attention(config(device="npu"), absent)
    for given in (config(), config(attn_implementation="flash_attention_2")):
        with pytest.raises(
            DependencyError, match=r"undefined symbol\): make setup-verl-gpu"
        ) as caught:
            require_attention(given, absent)
        assert "\n" not in str(caught.value)
