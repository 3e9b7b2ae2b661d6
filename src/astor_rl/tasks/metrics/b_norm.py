"""B-Norm: the sentence BLEU that agrees best with people on commit messages.

Source: Tao et al., "On the Evaluation of Commit Message Generation Models: An Experimental
Study" (ICSME 2021), which found it closest to human judgement of the BLEU variants in use. It is
smoothed BLEU-4 (Lin and Och, 2004: one is added to numerator and denominator for n > 1) on
lower-cased text tokenised as NIST's mteval-v11a does. No library has it, so it is written here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from astor_rl.tasks.metrics.words import spaced

MAX_N = 4
"""Longest n-gram counted."""

_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
# mteval-v11a: punctuation is spaced out; period and comma stay inside numbers, as does a dash
# that follows no digit.
_SPACING = (
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def tokenize(text: str) -> tuple[str, ...]:
    """The tokens that B-Norm counts.

    Lower case, split into words and single other characters, then spaced as mteval-v11a does.
    """
    apart = spaced(text.lower())
    for entity, char in _ENTITIES:
        apart = apart.replace(entity, char)
    apart = f" {apart} "
    for pattern, replacement in _SPACING:
        apart = pattern.sub(replacement, apart)
    return tuple(apart.split())


@dataclass(frozen=True, slots=True)
class _Counted:
    length: int
    ngrams: tuple[Counter[tuple[str, ...]], ...]


@lru_cache(maxsize=16_384)
def _counted(text: str) -> _Counted:
    tokens = tokenize(text)
    ngrams = tuple(
        Counter(zip(*(tokens[shift:] for shift in range(n)), strict=False))
        for n in range(1, MAX_N + 1)
    )
    return _Counted(len(tokens), ngrams)


def b_norm(hypothesis: str, reference: str) -> float:
    """B-Norm of one pair, in [0, 1]; 1 for texts with the same tokens, 0 without a common token.

    exp(mean_n log p_n + min(0, 1 - (r + 1) / (h + 1))), where p_1 is the clipped unigram
    precision, p_n = (matches + 1) / (n-grams + 1) for n = 2..4, and r, h are the token counts.
    What is known of a text is cached, so a group's reference is counted once.
    """
    hyp, ref = _counted(hypothesis), _counted(reference)
    log_precision = 0.0
    for n, (found, known) in enumerate(zip(hyp.ngrams, ref.ngrams, strict=True), start=1):
        matches = sum(min(count, known[gram]) for gram, count in found.items())
        smooth = 0 if n == 1 else 1
        if matches + smooth == 0:
            return 0.0
        total = max(hyp.length - n + 1, 0)
        log_precision += math.log((matches + smooth) / (total + smooth)) / MAX_N
    brevity = min(0.0, 1 - (ref.length + 1) / (hyp.length + 1))
    return min(1.0, math.exp(log_precision + brevity))
