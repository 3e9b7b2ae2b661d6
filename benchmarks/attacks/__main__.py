"""Runs the attacks on this machine's sandbox and prints a table of them in markdown.

    python -m benchmarks.attacks [--goal GOAL ...] [--allow-missing NAME ...]

With a protection missing only the attacks run that end the same `anywhere`. The exit code is 1 if
one did not end as it must, or left something behind.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from astor_rl.sandbox.pool import ProcessPool
from astor_rl.sandbox.probe import facilities
from benchmarks.attacks import catalogue, trial


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Attacks on the sandbox, as a table.")
    parser.add_argument("--goal", nargs="+", choices=catalogue.GOALS, default=catalogue.GOALS)
    parser.add_argument("--allow-missing", nargs="+", default=[], metavar="NAME")
    options = parser.parse_args(arguments)
    chosen = [
        attack
        for attack in catalogue.attacks()
        if attack.goal in options.goal and (attack.anywhere or not options.allow_missing)
    ]
    print("| goal | attack | job | verdict |\n|---|---|---|---|")
    wrong: dict[str, list[str]] = {}
    with ProcessPool(1, allow_missing=options.allow_missing) as pool:
        before = trial.baseline(pool)
        for attack in chosen:
            outcome, problems = trial.tried(attack, pool, before)
            word = catalogue.verdict(attack, outcome)
            if problems:
                word += " (WRONG)"
                wrong[attack.name] = problems
            print(f"| {attack.goal} | {attack.name} | {attack.job} | {word} |", flush=True)
    counts = Counter(attack.goal for attack in chosen)
    missing = [facility.name for facility in facilities() if not facility.available]
    print(f"\n{len(chosen)} attacks ({', '.join(f'{n} {goal}' for goal, n in counts.items())});")
    print(f"missing: {', '.join(missing) or 'nothing'}; {len(wrong)} did not end as they must")
    for name, problems in wrong.items():
        print(f"- {name}: {'; '.join(problems)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
