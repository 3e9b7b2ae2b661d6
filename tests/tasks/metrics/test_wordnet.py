from __future__ import annotations

import threading

import pytest

from astor_rl.errors import DataError
from astor_rl.tasks.metrics import wordnet
from astor_rl.tasks.metrics.wordnet import find_wordnet


def names(groups):
    return {lemma.name() for group in groups for lemma in group.lemmas()}


def test_synonyms_are_read_without_lexnames_and_nothing_is_written(small_wordnet):
    before = sorted(small_wordnet.iterdir())
    found = find_wordnet(small_wordnet)
    assert found is not None
    assert found.version == "3.0"
    assert names(found.synsets("glitch")) == {"bug", "glitch", "issue"}
    assert names(found.synsets("bugs")) == {"bug", "glitch", "issue"}  # nltk's morphology
    assert found.synsets("unheard") == []
    assert sorted(small_wordnet.iterdir()) == before


def test_a_folder_is_opened_once(small_wordnet):
    assert find_wordnet(small_wordnet) is find_wordnet(str(small_wordnet))


def test_threads_may_share_it(small_wordnet):
    found = find_wordnet(small_wordnet)
    seen = []

    def ask():
        for number in range(50):
            seen.append(names(found.synsets("bug")))
            found.synsets(f"word{number}")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [{"bug", "glitch", "issue"}] * 200


def test_the_lexicographer_files_are_wordnets_own():
    lines = wordnet._lexnames().splitlines()
    assert len(lines) == 45
    # Facts of lexnames(5WN).
    assert {lines[n] for n in (0, 3, 29, 44)} == {
        "00\tadj.all\t3",
        "03\tnoun.Tops\t1",
        "29\tverb.body\t2",
        "44\tadj.ppl\t3",
    }


def test_a_given_folder_must_hold_wordnet(tmp_path):
    with pytest.raises(DataError, match=r"has no data\.adj"):
        find_wordnet(tmp_path)
