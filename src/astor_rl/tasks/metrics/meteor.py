"""METEOR (Lavie and Agarwal, 2007) of nltk's stages, with words' stems and synonyms remembered.

The stages are chained here. nltk's own chain hands the synonym stage what the stem stage left of
words, "improv", which WordNet doesn't know or takes for another word ("fix" of "fixed": to get).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from astor_rl.errors import DependencyError
from astor_rl.tasks.metrics._imports import load
from astor_rl.tasks.metrics.wordnet import find_wordnet

logger = logging.getLogger(__name__)

SynonymMode = Literal["auto", "required", "off"]
"""`auto`: use WordNet where it is found; `required`: an error without it; `off`: never."""


_ALPHA, _BETA, _GAMMA = 0.9, 3, 0.5
_Left = list[tuple[int, str]]
_Stage = Callable[[list[str], list[str]], tuple[list[tuple[int, int]], _Left, _Left]]
"""nltk's: words of both texts in; places that match, then places and words that don't, out."""


class Meteor:
    """Scores pairs of texts on lower-cased whitespace tokens, alpha 0.9, beta 3, gamma 0.5.

    Scores with and without the synonym stage must not be compared (on NNGen's predictions 26.18
    against 25.61; nltk 3.6.2, with which 26.56 was published, counted some words twice), so
    `stages` says which ran, and one log line does.

    Args:
        synonyms: see `SynonymMode`.
        wordnet_path: folder of WordNet's files; None searches (`find_wordnet`).

    Attributes:
        stages: of `exact`, `stem`, `synonym`, those that run.
        wordnet: version and folder of the database, empty without one.

    Raises:
        DependencyError: nltk, or a required WordNet, is missing.
        DataError: `wordnet_path` holds no WordNet.
    """

    def __init__(
        self, synonyms: SynonymMode = "auto", wordnet_path: str | Path | None = None
    ) -> None:
        module = load("nltk.translate.meteor_score", "nltk")
        stemmer = _CachedStemmer(load("nltk.stem.porter", "nltk").PorterStemmer())
        found = None if synonyms == "off" else find_wordnet(wordnet_path)
        if found is None and synonyms == "required":
            raise DependencyError(
                "METEOR's synonym stage needs WordNet and none was found; install wordnet-base and "
                "wordnet-sense-index, or nltk's wordnet corpus, or set wordnet_path"
            )
        stages: dict[str, _Stage] = {
            "exact": module.exact_match,
            "stem": partial(module.stem_match, stemmer=stemmer),
        }
        if found:
            stages["synonym"] = partial(module.wordnetsyn_match, wordnet=found)
        self._stages = tuple(stages.values())
        self.stages: tuple[str, ...] = tuple(stages)
        self.wordnet = f"WordNet {found.version} in {found.folder}" if found else ""
        _announce(self.stages, self.wordnet)

    def __call__(self, hypothesis: str, reference: str) -> float:
        """METEOR in [0, 1): a text against itself has 1 - 0.5 / words^3. Not symmetric."""
        ours, theirs = hypothesis.lower().split(), reference.lower().split()
        matches = self._aligned(ours, theirs)
        if not matches:
            return 0.0
        precision, recall = len(matches) / len(ours), len(matches) / len(theirs)
        mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
        return mean * (1 - _GAMMA * (_chunks(matches) / len(matches)) ** _BETA)

    def _aligned(self, ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
        """Places of words that match; each stage has the words that those before it left."""
        matches: list[tuple[int, int]] = []
        left, right = list(range(len(ours))), list(range(len(theirs)))
        for stage in self._stages:
            found, no_left, no_right = stage([ours[i] for i in left], [theirs[j] for j in right])
            matches += [(left[i], right[j]) for i, j in found]
            left, right = [left[i] for i, _ in no_left], [right[j] for j, _ in no_right]
        return sorted(matches)


def _chunks(matches: Sequence[tuple[int, int]]) -> int:
    """Runs of matches that are neighbours in both texts; `matches` in order, at least one."""
    return 1 + sum(after != (before[0] + 1, before[1] + 1) for before, after in pairwise(matches))


class _CachedStemmer:
    """Porter's stemmer spends most of METEOR's time, on the same words again and again."""

    def __init__(self, inner: Any) -> None:
        self.stem = lru_cache(maxsize=65_536)(inner.stem)


@lru_cache(maxsize=8)
def _announce(stages: tuple[str, ...], wordnet: str) -> None:
    """Once per process and kind: not for every task that is built."""
    logger.info("METEOR runs %s%s", " + ".join(stages), f" ({wordnet})" if wordnet else "")
