"""verl without a GPU, for tests: a platform named `cpu`.

Loaded by `VERL_USE_EXTERNAL_MODULES`. Each shim names what upstream lacks and can go when verl has
it. Cause of the whole module: verl 0.9.1 has platforms for CUDA, ROCm, NPU, XPU, none for a CPU
(verl issue #3266); `PlatformRegistry` is its way in.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


def _device_module() -> types.ModuleType:
    """What `torch.cuda` is to the CUDA platform. `torch.cpu` lacks memory figures and RNG state."""
    module = types.ModuleType("verl_cpu_device")
    zeros = (
        "memory_allocated memory_reserved max_memory_allocated max_memory_reserved current_device"
    )
    nothing = (
        "empty_cache synchronize set_device reset_peak_memory_stats ipc_collect manual_seed "
        "manual_seed_all set_per_process_memory_fraction"
    )
    for name in zeros.split():
        setattr(module, name, lambda *_, **__: 0)
    for name in nothing.split():
        setattr(module, name, lambda *_, **__: None)
    module.mem_get_info = lambda *_: (1 << 34, 1 << 35)  # type: ignore[attr-defined]
    module.is_available = lambda: True  # type: ignore[attr-defined]
    module.device_count = lambda: 1  # type: ignore[attr-defined]
    module.get_device_name = lambda *_: "cpu"  # type: ignore[attr-defined]
    module.get_rng_state = lambda *_: torch.get_rng_state()  # type: ignore[attr-defined]
    module.set_rng_state = lambda state, *_: torch.set_rng_state(state)  # type: ignore[attr-defined]
    return module


@PlatformRegistry.register(platform="cpu")
class CPUPlatform(PlatformBase):
    device_name = "cpu"
    vendor_name = "astor-tests"
    device_module = _device_module()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return True

    def current_device(self) -> torch.device:
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return (None, None)

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        return "GPU"  # the tests tell Ray that there are as many as there are ranks

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> Any:
        return None
