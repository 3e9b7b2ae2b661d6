"""The compare file: which arms, which seeds, and how much each may sample.

base = "run.toml"            # what all arms share
output_dir = "runs/compare"
seeds = [0, 1, 2]
max_tokens = 400_000         # completion tokens that every arm samples

[[arms]]
name = "joint"
set = { "schedule.method" = "uniform" }
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from astor_rl.complaints import one_line
from astor_rl.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]

START = "start"
"""The name of what all arms begin at; no arm may have it."""

Role = Literal["joint", "curriculum", "scheduler", "merging", "specialist", "ablation"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ArmConfig(_Section):
    """One `[[arms]]` block."""

    name: Name
    kind: Literal["run", "specialists", "merge"] = "run"
    """`run`: one run on all tasks; `specialists`: one run a task; `merge`: of specialists."""
    set: dict[str, Any] = {}
    """Keys of the run file, dotted, that differ from the base's."""
    seeds: Seeds | None = None
    role: Role | None = None
    """What the reference is compared with it as; by default from its kind and method."""
    budget: Literal["full", "share"] = "full"
    """`specialists`: each samples `max_tokens`, or all of them together do."""
    of: Name | None = None
    """`merge`: the specialists that are merged."""
    method: Literal["linear", "ties", "dare_linear", "dare_ties"] = "linear"
    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    whole: bool = False
    """`merge`: all weights by the formulas, not the adapters."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> ArmConfig:
        belongs = {"budget": "specialists", "of": "merge", "method": "merge", "density": "merge"}
        belongs |= {"scale": "merge", "whole": "merge"}
        for key, kind in belongs.items():
            if key in self.model_fields_set and self.kind != kind:
                raise ValueError(f"arm {self.name!r}: {key} is for kind = {kind!r} only")
        if self.kind == "merge" and self.of is None:
            raise ValueError(f"arm {self.name!r}: say which specialists to merge: of = 'NAME'")
        if self.kind == "merge" and self.set:
            raise ValueError(f"arm {self.name!r} trains nothing: set belongs to {self.of!r}")
        if self.name == START:
            raise ValueError(f"arm {self.name!r}: that is what all arms start from; name it else")
        return self


class CompareConfig(_Section):
    """Everything one comparison needs. See docs/comparing.md for what each key means."""

    base: Annotated[str, Field(min_length=1)]
    arms: Annotated[list[ArmConfig], Field(min_length=1)]
    seeds: Seeds
    max_tokens: Annotated[int, Field(ge=1)]
    output_dir: Annotated[str, Field(min_length=1)] = "runs/compare"
    jobs: Annotated[int, Field(ge=1)] = 1
    reference: Name = "astor"
    set: dict[str, Any] = {}
    same_examples: bool = True
    """All seeds have the base's `data.seed` (its `seed` where it has none); else each its own."""

    @model_validator(mode="after")
    def _consistent(self) -> CompareConfig:
        arms = {arm.name: arm for arm in self.arms}
        names = [arm.name for arm in self.arms]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"arms: the name {name!r} is used twice; give each its own")
        for arm in self.arms:
            self._check_seeds(arm, arms)
        if self.reference not in arms:
            raise ValueError(
                f"reference is {self.reference!r} and no arm has that name "
                f"(there are: {', '.join(names)})"
            )
        if arms[self.reference].kind == "specialists":
            raise ValueError(f"reference {self.reference!r} is several models; name one of one")
        return self

    def _check_seeds(self, arm: ArmConfig, arms: Mapping[str, ArmConfig]) -> None:
        seeds = self.seeds_of(arm)
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"arm {arm.name!r}: seeds {seeds} has one twice")
        if arm.kind != "merge":
            return
        source = arms.get(str(arm.of))
        if source is None or source.kind != "specialists":
            known = [other.name for other in self.arms if other.kind == "specialists"]
            raise ValueError(
                f"arm {arm.name!r}: of = {arm.of!r} is no arm of specialists "
                f"(there are: {', '.join(known) or 'none'})"
            )
        if missing := sorted(set(seeds) - set(self.seeds_of(source))):
            raise ValueError(
                f"arm {arm.name!r}: {source.name!r} has no seed {missing[0]}; give it one, or "
                "list fewer seeds"
            )

    def seeds_of(self, arm: ArmConfig) -> list[int]:
        """An arm's seeds: its own, else those of what it merges, else the comparison's."""
        if arm.seeds is not None:
            return arm.seeds
        for other in self.arms:
            if arm.kind == "merge" and other.name == arm.of:
                return other.seeds or self.seeds
        return self.seeds


def load_comparison(path: Path, overrides: Mapping[str, Any] | None = None) -> CompareConfig:
    """Read and check a compare file.

    Args:
        path: TOML.
        overrides: top-level keys that replace the file's.

    Raises:
        ConfigError: one line that names the key, its value and what would be right.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"compare file {str(path)!r} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"compare file {str(path)!r} can't be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"compare file {path.name}: not valid TOML: {error}") from None
    raw |= overrides or {}
    try:
        return CompareConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {one_line(error, raw, CompareConfig)}") from None
