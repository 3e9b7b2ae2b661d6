from __future__ import annotations

import json
from pathlib import Path

import pytest

from astor_rl.data.sources import load_source
from astor_rl.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset folder in the hub's layout; the library's cache in the test's own folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, count in (("train", 3), ("test", 2)):
        path = tmp_path / "folder" / "data" / f"{split}-00000-of-00001.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"question": f"{split} {n}", "answer": n}) for n in range(count)]
        path.write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_local_folder_in_hub_layout(hub: Path) -> None:
    rows = load_source(
        "hf:./folder", base_dir=hub, task_kind="code_generation", columns={"prompt": "question"}
    )
    assert [row.fields["prompt"] for row in rows] == ["train 0", "train 1", "train 2"]
    assert rows[1].origin == "hf:./folder:1"
    tested = load_source("hf:./folder@test", base_dir=hub, task_kind="code_generation")
    assert [row.fields["answer"] for row in tested] == [0, 1]


def test_an_absent_split_or_folder_is_one_line(hub: Path) -> None:
    for spec in ("hf:./folder@dev", "hf:./nothing"):
        with pytest.raises(DataError) as caught:
            load_source(spec, base_dir=hub, task_kind="code_generation")
        assert "\n" not in str(caught.value)
        assert spec in str(caught.value)


def test_a_file_that_does_not_parse_says_why(hub: Path) -> None:
    (hub / "broken").mkdir()
    (hub / "broken/train.jsonl").write_text('{"prompt": "a"}\nnot json\n')
    with pytest.raises(DataError, match=r"hf:./broken can't be loaded .*JSON") as caught:
        load_source("hf:./broken", base_dir=hub, task_kind="code_generation")
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    # Port 9 of this machine refuses connections: what a firewalled machine sees, but at once.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match="can't be reached") as caught:
        load_source("hf:owner/name", base_dir=tmp_path, task_kind="code_generation")
    assert "\n" not in str(caught.value)
    assert "hf:./folder" in str(caught.value)


def test_a_spec_that_is_not_understood(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="isn't understood"):
        load_source("hf:@train", base_dir=tmp_path, task_kind="code_generation")
