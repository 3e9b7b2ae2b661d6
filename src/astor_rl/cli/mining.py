"""`astor mine`: source code in, the four tasks' data and a run file that trains on them out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from astor_rl.cli.invocation import command
from astor_rl.config import SandboxConfig
from astor_rl.data.mining import Mined, MiningOptions, mine_package
from astor_rl.errors import ConfigError
from astor_rl.report.atomic import write_text
from astor_rl.report.console import Console
from astor_rl.sandbox.opening import open_pool

RUN_FILE = "run.toml"
"""The run file that trains on what was mined."""
_FEW = 30
"""Functions and commits below which a split of a tenth is often empty."""

_HEAD = """\
# Written by `astor mine {spec}`. Train on it with `astor train {path}`.
# docs/options.md explains every key; a model of 7B or so wants warmup.steps = 0.

model = "HuggingFaceTB/SmolLM2-135M-Instruct"
output_dir = {output_dir}

max_steps = 100
prompts_per_step = 12
max_prompt_length = 512
max_completion_length = 128
overlong = "drop"
learning_rate = 1e-4
micro_batch_tokens = 2048

[warmup]
steps = 100
batch_size = 12
learning_rate = 1e-3
lora = true

[eval]
examples = 32

"""


def mine_to(spec: str, out: Path, *, seed: int, sandbox: SandboxConfig, console: Console) -> Mined:
    """Mine into a new folder: `<task>.jsonl` for each task and `run.toml`.

    Raises:
        ConfigError: `out` holds mined data already.
        DataError: a source can't be found or gives nothing.
        SandboxError: a protection is missing and not allowed to be, or no server answers.
    """
    if (out / RUN_FILE).exists():
        raise ConfigError(f"{str(out)!r} holds mined data already; name another folder with --out")
    with open_pool(sandbox) as pool:
        mined = mine_package(
            spec,
            sandbox=pool,
            out=out,
            options=MiningOptions(seed=seed),
            progress=console.progress,
        )
    # A folder's name may hold quotes; JSON's escapes are TOML's.
    output_dir = json.dumps(f"runs/{out.resolve().name}", ensure_ascii=False)
    head = _HEAD.format(spec=spec, path=out / RUN_FILE, output_dir=output_dir)
    write_text(out / RUN_FILE, head + blocks(mined))
    return mined


def blocks(mined: Mined) -> str:
    """The `[[tasks]]` blocks of every task that got examples; sources relative to the file."""
    return "\n".join(
        f'[[tasks]]\nname = "{kind}"\ntask = "{kind}"\nsource = "jsonl:{kind}.jsonl"\n'
        for kind, rows in mined.rows.items()
        if rows
    )


def findings(mined: Mined, out: Path) -> Iterator[str]:
    """What was mined, as lines for people."""
    for kind, by_package in mined.counts().items():
        listed = ", ".join(f"{count} from {name}" for name, count in by_package.items())
        yield f"{kind}: {listed or 'nothing'}"
    units = {kind: len({row.unit for row in rows}) for kind, rows in mined.rows.items() if rows}
    if few := [f"{kind} from {count}" for kind, count in units.items() if count < _FEW]:
        yield (
            f"that is little ({', '.join(few)} functions or commits): each goes to one split "
            "as a whole, so such a task may get no training or no test example; mine more"
        )
    when = "from the cache" if mined.from_cache else f"in {mined.seconds:.0f} s"
    again = command("train", str(out / RUN_FILE))
    yield f"mined {when} into {out}; train on it with: {again}"
