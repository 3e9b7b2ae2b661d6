"""verl's interfaces change with every release: this engine runs with one version or not at all."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

from astor_rl.errors import DependencyError

VERL = "0.9.1"
"""The version that every module of this room was written against and tested with."""

_HOW = "in an environment of its own: make setup-verl, or pip install 'astor-rl[verl]'"


def require_verl(version_of: Callable[[str], str] = metadata.version) -> None:
    """Check that verl and what its trainer needs are installed.

    Args:
        version_of: asked for a distribution's version; raises `PackageNotFoundError`.

    Raises:
        DependencyError: verl is missing or of another version, or TransferQueue is missing, which
            verl's default trainer imports and its wheel doesn't ask for.
    """
    try:
        found = version_of("verl")
    except metadata.PackageNotFoundError:
        raise DependencyError(f"engine = \"verl\" needs package 'verl' {VERL}, {_HOW}") from None
    if found != VERL:
        raise DependencyError(
            f"verl is {found}; this engine runs with {VERL} and no other: pip install verl=={VERL}"
        )
    try:
        version_of("TransferQueue")
    except metadata.PackageNotFoundError:
        raise DependencyError(
            f"verl {VERL}'s trainer needs package 'TransferQueue', which its wheel doesn't bring, "
            f"{_HOW}"
        ) from None


_ATTENTION = "actor_rollout_ref.model.override_config.attn_implementation"
_FLASH = "flash_attention_2"


def require_attention(config: Any, load: Callable[[str], Any] = import_module) -> None:
    """Check that the attention which verl will ask transformers for can be had.

    verl takes FlashAttention 2 unless it is told otherwise, and its wheel doesn't bring it; without
    this, workers of a cluster would find out while they load the model.

    Args:
        config: verl's, an OmegaConf `DictConfig`.
        load: imports a module by name.

    Raises:
        DependencyError: it is `flash_attention_2` and `flash_attn` doesn't import.
    """
    from omegaconf import OmegaConf

    chosen = OmegaConf.select(config, _ATTENTION, default=_FLASH)
    if chosen != _FLASH or OmegaConf.select(config, "trainer.device") == "npu":
        return
    try:
        load("flash_attn")
    except (ImportError, OSError, RuntimeError) as error:  # a build for another torch, too
        said = " ".join(str(error).split())[:150]
        raise DependencyError(
            f"verl's attention is {_FLASH!r} and package 'flash_attn' doesn't import ({said}): "
            f'make setup-verl-gpu, or set "+{_ATTENTION}" = "sdpa" in [verl.options] (docs/verl.md)'
        ) from None
