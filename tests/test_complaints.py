"""One line for what pydantic finds, whatever the form of the section; the cases of each file are
those of `test_bad_input`, `compare/test_spec` and `compare/test_exchange`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from astor_rl.complaints import known_keys, one_line
from astor_rl.config import RunConfig


@dataclass(frozen=True)
class Core:
    tau: float = 1.0
    horizon: int | None = None


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    source: Annotated[str, Field(min_length=1)] | list[str] = "x"


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    count: Annotated[int, Field(ge=1)] = 1
    items: list[Item] = []
    core: Core = Core()
    scores: dict[Annotated[str, Field(pattern="^[a-z]+$")], float] = {}

    @model_validator(mode="after")
    def _odd(self) -> Model:
        if self.count == 13:
            raise ValueError("count is 13;\n  take another")
        return self


def said(raw: Any, **options: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate(raw)
    return one_line(caught.value, raw, Model, **options)


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({"count": "8"}, "count = '8': input should be a valid integer"),
        ({"count": 0}, "count = 0: input should be greater than or equal to 1"),
        ({"count": {"a": 1}}, "count = a table: input should be a valid integer"),
        ({"count": [1]}, "count = an array: input should be a valid integer"),
        ({"count": []}, "count = []: input should be a valid integer"),
        ({"count": 13}, "count is 13; take another"),
        ({"items": {}}, "items = {}: input should be a valid array"),
        ({"items": [3]}, "items[0] = 3: input should be a table"),
        ({"items": [{}]}, "items[0].name is missing"),
        (
            {"items": [{"name": "io", "source": 3}]},
            "items[io].source = 3: input should be a valid string or a valid array",
        ),
        ({"items": [{"name": "io", "source": ["a", 3]}]}, "items[io].source = an array: input"),
        ({"scores": {"str": "x"}}, "scores.str = 'x': input should be a valid number"),
        ({"scores": {"a\nb": 1.0}}, "scores.a\\nb = 'a\\nb': string should match pattern"),
        ({"cont": 1}, "unknown key 'cont'; did you mean 'count'?"),
        ({"zebra": 1}, "unknown key 'zebra'; the keys there: count, items, core, scores"),
        ({"items": [{"name": "io", "sourc": "x"}]}, "'items[io].sourc'; did you mean 'source'?"),
        ({"zebra": 1, "count": 0}, "(and 1 more)"),
        (3, "input should be a valid dictionary"),
    ],
)
def test_the_key_its_value_and_what_would_be_right(raw: Any, line: str) -> None:
    assert line.lower() in said(raw).lower()


def test_keys_of_other_programs_are_known_at_the_top() -> None:
    moved = {"bf16": "dtype"}
    assert said({"bf16": 1}, moved=moved) == "unknown key 'bf16'; here it is dtype"
    assert "here it is" not in said({"items": [{"name": "io", "bf16": 1}]}, moved=moved)


def test_a_list_of_keys_is_introduced_as_it_is_asked_for() -> None:
    assert said({"zebra": 1}, known_as="there are").endswith(
        "; there are: count, items, core, scores"
    )


def test_what_is_long_is_cut() -> None:
    assert len(said({"count": "x" * 9_000})) < 200
    assert len(said({"y" * 9_000: 1})) < 300
    assert "a number that long" in said({"count": -(10**5_000)})


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_anything_is_one_line(value: Any) -> None:
    for raw in ({"items": value}, {"count": value}, {"scores": value}, value):
        try:
            Model.model_validate(raw)
            continue
        except ValidationError as error:
            line = one_line(error, raw, Model)
        assert line.isprintable()


def test_keys_are_found_in_sections_of_either_kind_and_in_lists() -> None:
    assert known_keys(Model, ()) == ["count", "items", "core", "scores"]
    assert known_keys(Model, ("items", 0)) == ["name", "source"]
    assert known_keys(Model, ("core",)) == ["tau", "horizon"]
    assert known_keys(RunConfig, ("tasks", 3)) == list(
        RunConfig.model_fields["tasks"].annotation.__args__[0].model_fields
    )
    assert "tau" in known_keys(RunConfig, ("schedule",))
