"""The BLEU variants that papers on commit messages report, for comparison with them.

Same study as `b_norm`: B-Moses is corpus BLEU (multi-bleu.perl), B-CC is nltk's sentence BLEU
with smoothing method 5. Both are the libraries' own code on whitespace tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from astor_rl.tasks.metrics._imports import load


def b_moses(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU-4 without smoothing, in [0, 1] (sacrebleu, `tokenize="none"`).

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    _check(hypotheses, references)
    sacrebleu = load("sacrebleu", "sacrebleu")
    result = sacrebleu.corpus_bleu(
        list(hypotheses),
        [list(references)],
        tokenize="none",
        smooth_method="none",
        force=True,  # silences the warning about text that is already tokenised
    )
    return min(1.0, float(result.score) / 100)


def sentence_bleu(
    hypotheses: Sequence[str], references: Sequence[str], *, smoothing: int = 5
) -> float:
    """Mean of nltk's smoothed sentence BLEU-4, >= 0; `smoothing=5` is B-CC.

    Kept as published, flaw included: methods 4 and 5 exceed 1 on some very short texts. So it is
    a number for tables, not a reward.

    Args:
        hypotheses, references: aligned texts, at least one.
        smoothing: number of nltk's smoothing method, 0 to 7 (Chen and Cherry, 2014).

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    _check(hypotheses, references)
    module = load("nltk.translate.bleu_score", "nltk")
    method = getattr(module.SmoothingFunction(), f"method{smoothing}")
    scores = [
        module.sentence_bleu([reference.split()], hypothesis.split(), smoothing_function=method)
        if hypothesis.split()
        else 0.0
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    return sum(float(score) for score in scores) / len(scores)


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(
            f"{len(hypotheses)} hypotheses and {len(references)} references; "
            "there must be as many of each, at least one"
        )
