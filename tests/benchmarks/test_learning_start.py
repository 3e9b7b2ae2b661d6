from __future__ import annotations

import itertools
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.learning import build, laboratory, start
from benchmarks.learning.laboratory import LABORATORIES, make_tasks
from benchmarks.learning.start import Demonstrations, make_vocabulary, texts_of, train_start
from benchmarks.learning.vocabulary import make_tokenizer, shared_phrases

from astor_rl.engines.local.model import load_model, render_prompt, stop_token_ids, turn_end_id

TINY = replace(
    LABORATORIES["b"],
    name="tiny",
    start_steps=2,
    slip_steps=2,
    units=(("test", 4), ("validation", 2), ("train", 4)),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_vocabulary(TINY)


def test_what_all_prompts_share_is_found() -> None:
    prompts = ["Please add 1 to x, thank you.", "Please add 2 to y, thank you."]
    assert shared_phrases(prompts) == ["Please add ", ", thank you."]
    assert shared_phrases(["ab", "ac"]) == []


def test_texts_come_back_and_phrases_are_one_token() -> None:
    tokenizer = make_tokenizer(["def f", "Please add "], ["Please add 17 to x[-3]: def f\n    y"])
    text = "Please add 99 to x[-3]: def f\n    y"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.convert_ids_to_tokens(ids)[:2] == ["Please add ", "99"]


def test_the_laboratorys_texts_are_short_and_fully_known(tokenizer: Any) -> None:
    tasks = make_tasks()
    for _, rows in itertools.islice(TINY.draws("test", TINY.levels, rare=1.0), 100):
        for _, prompt, answer in texts_of(tasks, rows):
            for text in (prompt, answer):
                ids = tokenizer(text, add_special_tokens=False).input_ids
                assert tokenizer.unk_token_id not in ids
                assert tokenizer.decode(ids) == text
            assert len(render_prompt(tokenizer, [{"role": "user", "content": prompt}])) <= 128
            assert len(tokenizer(answer).input_ids) < 72


def test_demonstrations_avoid_what_is_held_out(tokenizer: Any) -> None:
    first = next(iter(Demonstrations(TINY, tokenizer, set(), {})))
    assert next(iter(Demonstrations(TINY, tokenizer, set(), {}))) == first
    stream = TINY.draws("start {}", TINY.start_levels, rare=TINY.start_rare)
    held_out = {program.meaning for program, _ in itertools.islice(stream, 3)}
    fewer = next(iter(Demonstrations(TINY, tokenizer, held_out, {})))
    assert len(fewer) == len(first)
    assert not set(first[:12]) & set(fewer)
    end = turn_end_id(tokenizer)
    assert all(answer[-1] == end for _, answer in first)


def test_a_slip_answers_the_same_prompt_wrongly() -> None:
    tasks, maker = make_tasks(), TINY.maker()
    rng = random.Random(0)
    wrong: dict[str, int] = dict.fromkeys(tasks, 0)
    for program, rows in itertools.islice(TINY.draws("slips", TINY.levels, rare=1.0), 60):
        slipped = maker.slipped(rng, program, rows)
        pairs = zip(texts_of(tasks, rows), texts_of(tasks, slipped), strict=True)
        for task, ((_, prompt, answer), (_, same, other)) in zip(rows, pairs, strict=True):
            assert prompt == same
            wrong[task] += answer != other
    # An edit may leave the value that is asked for as it was.
    assert all(count > 30 for count in wrong.values())


def test_a_model_is_built_once_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laboratory, "FOLDER", tmp_path)
    monkeypatch.setattr(start, "_UNITS_PER_STEP", 2)
    monkeypatch.setattr(start, "_SAMPLE", 100)
    build.build(TINY)
    folder = tmp_path / "tiny"
    loaded = load_model(str(folder / "model"), dtype=torch.float32)
    assert stop_token_ids(loaded.tokenizer, loaded.model) == (turn_end_id(loaded.tokenizer),)
    assert 0.5e6 < loaded.model.num_parameters() < 2e6
    weights = folder / "model" / "model.safetensors"
    os.utime(weights, (1, 1))
    build.build(TINY)
    assert weights.stat().st_mtime == 1
    (folder / "io-train.jsonl").unlink()
    build.build(TINY)
    assert (folder / "io-train.jsonl").exists()
    assert weights.stat().st_mtime == 1
    build.build(replace(TINY, start_steps=1))
    assert weights.stat().st_mtime > 1


@pytest.mark.slow
def test_training_lowers_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_UNITS_PER_STEP", 4)
    monkeypatch.setattr(start, "_SAMPLE", 200)
    said: list[str] = []
    laboratory = replace(TINY, start_steps=50, slip_steps=50)
    train_start(laboratory, set(), tmp_path / "model", said.append)
    losses = [float(line.rpartition(" ")[2]) for line in said]
    assert len(losses) == 2
    assert losses[1] < losses[0] < 4
