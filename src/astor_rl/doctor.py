"""What can this machine do? One check a line, each with what to do about it.

Nothing here is guessed from version numbers where it can be tried: the sandbox's protections are
probed, a matrix is multiplied, the model's sources are asked.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from astor_rl.errors import AstorError
from astor_rl.report import text
from astor_rl.report.atomic import free_bytes, size
from astor_rl.report.extras import DISTRIBUTION, extras, name_of

if TYPE_CHECKING:
    from astor_rl.sandbox.opening import SandboxSettings

Status = Literal["ok", "limited", "missing"]
"""`missing`: the quickstart can't run without it; `limited`: it can, with less."""

QUICKSTART_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
QUICKSTART_EXTRAS = ("local", "tasks", "quickstart")
_MEMORY = 6_000_000_000
"""Bytes the quickstart needs: 135M fp32 weights, gradients and moments, a copy that samples,
activations, and a few sandbox workers."""
_DISK = 4_000_000_000
"""Bytes of a quickstart run: two checkpoints, the warm-up's base, the final model."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        group: `machine`, `sandbox`, `servers`, `packages`, `model`.
        name: what was looked at.
        status: see `Status`.
        detail: what was found.
        remedy: what to do when it isn't `ok`.
    """

    group: str
    name: str
    status: Status
    detail: str
    remedy: str = ""


def diagnose() -> Iterator[Check]:
    """Every check, as it is made. Takes a few seconds, most of them importing torch."""
    yield from machine()
    yield from sandbox()
    yield from packages()
    yield from compute()
    yield from model(QUICKSTART_MODEL)


def ready(checks: Sequence[Check]) -> bool:
    """Whether the quickstart can run here."""
    return all(check.status != "missing" for check in checks)


def machine() -> Iterator[Check]:
    """Python, cores, memory and disk."""
    supported = sys.version_info >= (3, 11)
    yield Check(
        "machine",
        "python",
        "ok" if supported else "missing",
        f"{platform.python_version()} on {platform.platform(terse=True)}",
        "" if supported else "use Python 3.11 or newer",
    )
    cores = usable_cores()
    enough = cores >= 2
    advice = "" if enough else "sampling and rewards will take turns on one core"
    yield Check("machine", "cores", "ok" if enough else "limited", f"{cores} usable", advice)
    yield _amount("memory", memory_bytes(), _MEMORY, "close other programs or take a machine with")
    free = free_bytes(Path.cwd())
    yield _amount("disk", free, _DISK, "set output_dir to a place with")


def _amount(name: str, found: int | None, wanted: int, remedy: str) -> Check:
    if found is None:
        return Check(
            "machine", name, "limited", text.UNKNOWN, f"the quickstart needs {size(wanted)}"
        )
    if found < wanted:
        advice = f"{remedy} {size(wanted)} free for the quickstart"
        return Check("machine", name, "limited", f"{size(found)} free", advice)
    return Check("machine", name, "ok", f"{size(found)} free")


def usable_cores() -> int:
    """Cores this process may use: affinity and the container's quota considered."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0)
    cores = cores or float(os.cpu_count() or 1)
    quota, _, period = _read(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, int(quota) / int(period))
    return max(1, int(cores))


def memory_bytes() -> int | None:
    """Bytes that can be had now, within the container's limit; None when nothing tells."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    used = _read(Path("/sys/fs/cgroup/memory.current")).strip()
    amounts = [int(found[1]) * 1024] if found else []
    if limit.isdigit() and used.isdigit():
        amounts.append(max(0, int(limit) - int(used)))
    return min(amounts, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def sandbox() -> Iterator[Check]:
    """Each protection of the sandbox: whether it holds here, and what it guarantees."""
    from astor_rl.sandbox.probe import facilities
    from astor_rl.sandbox.protections import required_missing

    try:
        found = facilities()
    except AstorError as error:
        yield Check("sandbox", "sandbox", "missing", str(error), "run on Linux 5.13 or newer")
        return
    held = [facility.name for facility in found if facility.available]
    needed = required_missing(held, {f.name: f.why for f in found if not f.available})
    for facility in found:
        if facility.available:
            yield Check("sandbox", facility.name, "ok", facility.guarantees)
        else:
            yield Check(
                "sandbox",
                facility.name,
                "missing" if facility.name in needed else "limited",
                f"{facility.why}; not guaranteed: {facility.guarantees}",
                f"provide it, or do without: --set 'sandbox.allow_missing=[\"{facility.name}\"]'",
            )


def sandbox_servers(settings: SandboxSettings) -> Iterator[Check]:
    """Each server of a run's `sandbox.url`, if any: can it be used, and how busy is it?"""
    if not settings.urls:
        return
    from astor_rl.sandbox.opening import survey_servers

    try:
        found = survey_servers(settings)
    except AstorError as error:
        yield Check("servers", "sandbox.url", "missing", str(error), "see docs/sandbox.md")
        return
    for url, said in found.items():
        if isinstance(said, str):
            remedy = "start it there: astor sandbox serve; or take it out of sandbox.url"
            yield Check("servers", url, "missing", said, remedy)
            continue
        detail = (
            f"{said.workers} workers, protections {said.tier}, {said.running} jobs running, "
            f"{said.queued} waiting; astor-rl {said.astor} on Python {said.python}"
        )
        yield Check("servers", url, "ok", detail)


def packages() -> Iterator[Check]:
    """Optional packages, extra by extra, against the versions they are asked for in."""
    for extra, requirements in extras().items():
        if extra == "dev":
            continue
        needed = extra in QUICKSTART_EXTRAS
        problems, found = [], []
        for requirement in requirements:
            version = _installed(name_of(requirement))
            if version is None or not _satisfies(version, requirement):
                problems.append(f"{requirement} ({version or 'not installed'})")
            else:
                found.append(f"{name_of(requirement)} {version}")
        bad: Status = "missing" if needed else "limited"
        yield Check(
            "packages",
            extra,
            bad if problems else "ok",
            ", ".join(["needs " + problem for problem in problems] or found),
            f"pip install '{DISTRIBUTION}[{extra}]'" if problems else "",
        )


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _satisfies(version: str, requirement: str) -> bool:
    # `packaging` comes with every extra that pins an upper bound; the core does without it.
    if importlib.util.find_spec("packaging") is None:
        return True
    from packaging.requirements import Requirement

    return Requirement(requirement).specifier.contains(version, prereleases=True)


def compute() -> Iterator[Check]:
    """torch, its device, and how fast it multiplies in bf16 and fp32."""
    try:
        import torch
    except ImportError as error:
        yield Check("machine", "torch", "missing", str(error), "pip install 'astor-rl[local]'")
        return
    device = _device(torch)
    rates = {name: _rate(torch, device, getattr(torch, name)) for name in ("bfloat16", "float32")}
    detail = f"{torch.__version__} on {_device_name(torch, device)}, " + ", ".join(
        f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in rates.items()
    )
    slow = rates["bfloat16"] < rates["float32"]
    remedy = 'bf16 is no faster than fp32 here: dtype = "float32" is as quick' if slow else ""
    yield Check("machine", "torch", "limited" if slow else "ok", detail, remedy)


def _device(torch: Any) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _device_name(torch: Any, device: str) -> str:
    if device == "cuda":
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"{device} ({torch.get_num_threads()} threads)" if device == "cpu" else device


def _rate(torch: Any, device: str, dtype: Any, *, seconds: float = 0.2, edge: int = 512) -> float:
    """Operations per second of the fastest of many square matrix products: 2 n^3 each.

    The fastest, because other programs can only make one slower.
    """
    matrix = torch.ones(edge, edge, device=device, dtype=dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * edge**3 / best


def model(name: str) -> Iterator[Check]:
    """Where the quickstart's model would come from."""
    if importlib.util.find_spec("huggingface_hub") is None:
        remedy = "pip install 'astor-rl[local]'"
        yield Check("model", name, "missing", "huggingface_hub is not installed", remedy)
        return
    places: tuple[tuple[str, Callable[[str], bool]], ...] = (
        ("in the Hugging Face cache", _in_hub_cache),
        ("converted from its wheel earlier", _converted),
        ("on the Hugging Face hub", _on_hub),
        ("in a wheel on the package index (downloaded once)", _in_wheel),
    )
    for place, holds in places:
        if holds(name):
            yield Check("model", name, "ok", f"found {place}")
            return
    yield Check(
        "model",
        name,
        "missing",
        "not cached, and neither the Hugging Face hub nor the package index answers",
        "connect once, fill HF_HOME by hand, or set model to a local folder",
    )


def _in_hub_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def _converted(name: str) -> bool:
    from astor_rl.engines.local import smollm_wheel

    return name == smollm_wheel.NAME and smollm_wheel.cached_folder().is_dir()


def _on_hub(name: str) -> bool:
    return _answers([sys.executable, "-c", _ASK_HUB, name])


_ASK_HUB = (
    "import sys; from huggingface_hub import HfApi; HfApi().model_info(sys.argv[1], timeout=5)"
)


def _in_wheel(name: str) -> bool:
    from astor_rl.engines.local import smollm_wheel

    if name != smollm_wheel.NAME or shutil.which(sys.executable) is None:
        return False
    wheel = smollm_wheel.REQUIREMENT
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet"]
    return _answers([*command, "--disable-pip-version-check", "--ignore-installed", wheel])


def _answers(command: Sequence[str], *, seconds: float = 20.0) -> bool:
    # In a process of its own: a name server that doesn't answer obeys no HTTP timeout.
    import subprocess

    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def as_dict(checks: Sequence[Check]) -> Mapping[str, Any]:
    """All findings, JSON-ready."""
    return {"ready": ready(checks), "checks": [asdict(check) for check in checks]}


def show(check: Check, stream: IO[str]) -> None:
    """Print one finding, its remedy below it."""
    stream.write(f"{check.status:<8} {check.group:<9} {check.name}: {check.detail}\n")
    if check.remedy:
        stream.write(f"{'':<8} -> {check.remedy}\n")
    stream.flush()
