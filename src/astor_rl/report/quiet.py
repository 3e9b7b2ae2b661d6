"""Other people's chatter is kept off the display; ours is not.

Model libraries warn about deprecations and print bars that a user of `astor` can do nothing
about. `astor ... --debug` leaves them on.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LIBRARIES = (
    "transformers",
    "huggingface_hub",
    "datasets",
    "accelerate",
    "peft",
    "absl",
    "rouge_score",
    "nltk",
    "torch",
    "httpx",
    "filelock",
)
_ENVIRONMENT = {
    # Read when the library is first imported, which is later than this.
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    # Forked sandbox and tokenizer threads do not mix; the library warns at each fork otherwise.
    "TOKENIZERS_PARALLELISM": "false",
}
_OURS = Path(__file__).parents[1]


@contextmanager
def quiet_third_parties(note: Callable[[str], None]) -> Iterator[None]:
    """Within the block, other packages' warnings and log lines below error are not shown.

    A warning raised from `astor_rl` goes to `note` as one line. What the user set in the
    environment is respected. Everything is put back at the end.
    """
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    os.environ.update(added)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _to_note(note)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name in added:
            os.environ.pop(name, None)


def _to_note(note: Callable[[str], None]) -> Callable[..., None]:
    def show(message: Warning | str, category: type[Warning], filename: str, *_: object) -> None:
        if _OURS in Path(filename).resolve().parents:
            note(" ".join(str(message).split()))

    return show
