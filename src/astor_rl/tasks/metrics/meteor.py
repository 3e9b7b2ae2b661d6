"""METEOR (Lavie and Agarwal, 2007) by nltk, with words' stems and synonyms remembered."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from astor_rl.errors import DependencyError
from astor_rl.tasks.metrics._imports import load
from astor_rl.tasks.metrics.wordnet import NoSynonyms, Synonyms, find_wordnet

logger = logging.getLogger(__name__)

SynonymMode = Literal["auto", "required", "off"]
"""`auto`: use WordNet where it is found; `required`: an error without it; `off`: never."""


class Meteor:
    """Scores pairs of texts on lower-cased whitespace tokens, alpha 0.9, beta 3, gamma 0.5.

    Scores with and without the synonym stage must not be compared (on NNGen's predictions 25.83
    against 25.61), so `stages` says which ran, and one log line does.

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
        self._score = module.single_meteor_score
        self._stemmer = _CachedStemmer(load("nltk.stem.porter", "nltk").PorterStemmer())
        found = None if synonyms == "off" else find_wordnet(wordnet_path)
        if found is None and synonyms == "required":
            raise DependencyError(
                "METEOR's synonym stage needs WordNet and none was found; install wordnet-base and "
                "wordnet-sense-index, or nltk's wordnet corpus, or set wordnet_path"
            )
        self._synonyms: Synonyms = found or NoSynonyms()
        self.stages: tuple[str, ...] = ("exact", "stem") + (("synonym",) if found else ())
        self.wordnet = f"WordNet {found.version} in {found.folder}" if found else ""
        _announce(self.stages, self.wordnet)

    def __call__(self, hypothesis: str, reference: str) -> float:
        """METEOR in [0, 1): a text against itself has 1 - 0.5 / words^3. Not symmetric."""
        score = self._score(
            reference.lower().split(),
            hypothesis.lower().split(),
            stemmer=self._stemmer,
            wordnet=self._synonyms,
        )
        return min(1.0, float(score))


class _CachedStemmer:
    """Porter's stemmer spends most of METEOR's time, on the same words again and again."""

    def __init__(self, inner: Any) -> None:
        self.stem = lru_cache(maxsize=65_536)(inner.stem)


@lru_cache(maxsize=8)
def _announce(stages: tuple[str, ...], wordnet: str) -> None:
    """Once per process and kind: not for every task that is built."""
    logger.info("METEOR runs %s%s", " + ".join(stages), f" ({wordnet})" if wordnet else "")
