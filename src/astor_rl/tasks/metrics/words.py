"""Words as data of commit messages have them: apart from punctuation."""

from __future__ import annotations

import re
from functools import lru_cache

_WORD_OR_CHAR = re.compile(r"\w+|[^\s\w]")


@lru_cache(maxsize=16_384)
def spaced(text: str) -> str:
    """The text with one space around every word and every other character.

    References of NNGen and MCMD are stored like that ("Caches . cpp") and metrics that split at
    white space find none of a model's "Caches.cpp" there. What is spaced already stays as it is.
    """
    return " ".join(_WORD_OR_CHAR.findall(text))
