"""ROUGE F1 (Lin, 2004) by Google's rouge-score, without stemming."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from astor_rl.tasks.metrics._imports import load

KINDS = ("rouge1", "rouge2", "rougeL")
"""The variants that can be asked for, by rouge-score's names."""


class Rouge:
    """Scores pairs of texts; what it knows of a text is cached.

    Args:
        kinds: some of `KINDS`.

    Raises:
        DependencyError: rouge-score is not installed.
    """

    def __init__(self, kinds: tuple[str, ...] = ("rougeL",)) -> None:
        scorer = load("rouge_score.rouge_scorer", "rouge-score")
        tokenizers = load("rouge_score.tokenizers", "rouge-score")
        self.kinds = kinds
        tokenizer = _CachedTokenizer(tokenizers.DefaultTokenizer(use_stemmer=False))
        self._scorer = scorer.RougeScorer(list(kinds), tokenizer=tokenizer)

    def f1(self, hypothesis: str, reference: str) -> dict[str, float]:
        """F1 by kind, each in [0, 1]. Symmetric. A text without ASCII letters or digits has 0."""
        scores = self._scorer.score(reference, hypothesis)
        return {kind: float(scores[kind].fmeasure) for kind in self.kinds}


class _CachedTokenizer:
    """rouge-score tokenises both texts on every call; a group has one reference."""

    def __init__(self, inner: Any) -> None:
        self.tokenize = lru_cache(maxsize=16_384)(inner.tokenize)
