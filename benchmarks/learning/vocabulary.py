"""A tokenizer for the laboratory: whole phrases of the product's prompts are single tokens.

Every text is cut into pieces by one regular expression, and pieces are tokens: what all prompts of
a task have in common (found, not listed), numbers up to 99, words and marks with the space before
them, single characters for the rest. A text comes back from its tokens as it was.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterable, Sequence
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD: Final = "<|pad|>"
END: Final = "<|end|>"
ANSWER: Final = "<|answer|>"
UNKNOWN: Final = "<|unknown|>"
_SPECIAL: Final = (PAD, END, ANSWER, UNKNOWN)
_TEMPLATE: Final = (
    "{% for m in messages %}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}" + END + "{% else %}" + ANSWER + "{% endif %}{% endfor %}"
)
_PIECES: Final = (
    r"\n[-+ ]?    (?:[a-z]+ = |return )?",
    r" for [a-z] in [a-z]+(?: if )?",
    r" ?def f\([a-z]+\):?",
    r" ?[A-Za-z_]+",
    r"[0-9][0-9]?",
    r" ?[^\sA-Za-z0-9_]+ ?",
    r"\n",
    r"[\s\S]",
)
_LEAST_PHRASE: Final = 8
_MOST_POSITIONS: Final = 256


def shared_phrases(prompts: Sequence[str]) -> list[str]:
    """The longest start and end that all prompts of a kind share, where long enough to matter."""
    start = _shared_start(prompts)
    end = _shared_start([prompt[len(start) :][::-1] for prompt in prompts])[::-1]
    return [phrase for phrase in (start, end) if len(phrase) >= _LEAST_PHRASE]


def _shared_start(texts: Sequence[str]) -> str:
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in alike)


def make_tokenizer(phrases: Iterable[str], texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with the phrases and every piece of the texts as its vocabulary."""
    longest_first = sorted(set(phrases), key=lambda phrase: (-len(phrase), phrase))
    pattern = "|".join([*(re.escape(phrase) for phrase in longest_first), *_PIECES])
    reader = re.compile(pattern)
    found = {piece for text in texts for piece in reader.findall(text)}
    numbers = {str(number) for number in range(100)} | {f"{number:02}" for number in range(10)}
    fallback = set(string.printable)
    pieces = [*longest_first, *sorted((found | numbers | fallback) - set(longest_first))]
    vocabulary = {piece: place for place, piece in enumerate([*_SPECIAL, *pieces])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[ANSWER],
        model_max_length=_MOST_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer
