"""A WordNet of one synset, in the real files' format."""

from __future__ import annotations

import pytest

COPYRIGHT = "  1 This software and database: WordNet 3.0 Copyright 2006 by Princeton University.\n"


WORDS = ("bug", "glitch", "issue")


@pytest.fixture
def small_wordnet(tmp_path):
    """A folder where `bug`, `glitch`, `issue` and `software_fault` are a noun; no `lexnames`."""
    folder = tmp_path / "wordnet"
    folder.mkdir()
    offset = f"{len(COPYRIGHT):08d}"
    for part in ("adj", "adv", "noun", "verb"):
        (folder / f"data.{part}").write_text(COPYRIGHT)
        (folder / f"index.{part}").write_text(COPYRIGHT)
        (folder / f"{part}.exc").write_text("")
    with (folder / "data.noun").open("a") as file:
        file.write(f"{offset} 04 n 04 bug 0 glitch 0 software_fault 0 issue 0 000 | a fault  \n")
    with (folder / "index.noun").open("a") as file:
        file.writelines(f"{word} n 1 0 1 0 {offset}  \n" for word in WORDS)
    return folder
