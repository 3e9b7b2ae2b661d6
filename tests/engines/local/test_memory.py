"""Freed memory stays with the process, in an interpreter of its own: it is for all time."""

import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import resource, torch
from astor_rl.engines.local.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.full((64 << 18,), 1.0)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
lost = faults()
known = keep_freed_memory()
faults()  # the heap grows until it has room
print(known, lost, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc knows how")
def test_memory_is_mapped_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    known, lost, kept = done.stdout.split()
    assert known == "True"
    assert int(lost) > 1000
    assert int(kept) < int(lost) / 50
