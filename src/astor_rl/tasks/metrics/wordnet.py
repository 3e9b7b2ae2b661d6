"""WordNet as METEOR needs it: the one-word synonyms of a word.

nltk reads the database. It is looked for in nltk's data folders (`nltk.download("wordnet")`) and
where Debian's `wordnet-base` and `wordnet-sense-index` put it. Debian leaves out the small file
`lexnames`, which nltk insists on; its contents are fixed by WordNet's own manual (lexnames(5WN))
and are given from memory, so nothing is written to any folder.
"""

from __future__ import annotations

import io
import threading
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from astor_rl.errors import DataError
from astor_rl.tasks.metrics._imports import load

SYSTEM_FOLDERS = (Path("/usr/share/wordnet"), Path("/usr/local/share/wordnet"))
"""Where packages of operating systems put WordNet's files."""

_PARTS = ("adj", "adv", "noun", "verb")
_NEEDED = tuple(f"{kind}.{part}" for kind in ("data", "index") for part in _PARTS)
# lexnames(5WN): the number of a line is the lexicographer file's number.
_LEXNAMES = {
    "adj": "all pert",
    "adv": "all",
    "noun": (
        "Tops act animal artifact attribute body cognition communication event feeling food group "
        "location motive object person phenomenon plant possession process quantity relation "
        "shape state substance time"
    ),
    "verb": (
        "body change cognition communication competition consumption contact creation emotion "
        "motion perception possession social stative weather"
    ),
}
_PART_NUMBERS = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


@dataclass(frozen=True, slots=True)
class _Lemma:
    text: str

    def name(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class _Group:
    members: tuple[_Lemma, ...]

    def lemmas(self) -> tuple[_Lemma, ...]:
        return self.members


class WordNet:
    """The synonyms of words, read from disk on first use of a word and then remembered.

    Thread-safe (nltk's reader, which seeks in shared files, is not).

    Attributes:
        version: of the database, as its own files state it, e.g. `3.0`.
        folder: where it was read from.
    """

    def __init__(self, reader: Any, folder: str) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self.folder = folder
        self.version = str(reader.get_version())
        self.synsets = lru_cache(maxsize=65_536)(self._synsets)

    def _synsets(self, word: str) -> list[Any]:
        with self._lock:
            names = {
                name
                for synset in self._reader.synsets(word)
                for name in synset.lemma_names()
                if "_" not in name
            }
        # One group of all of them: METEOR only ever takes the union.
        return [_Group(tuple(_Lemma(name) for name in sorted(names)))] if names else []


def find_wordnet(path: str | Path | None = None) -> WordNet | None:
    """The WordNet in `path`, or else the first found in nltk's and the system's folders.

    Opening takes a second or two and happens once per process and folder.

    Args:
        path: a folder with WordNet's `data.*` and `index.*` files; None to search.

    Raises:
        DataError: `path` is given and holds no WordNet.
        DependencyError: nltk is not installed.
    """
    if path is not None:
        folder = Path(path).expanduser()
        missing = [name for name in _NEEDED if not (folder / name).is_file()]
        if missing:
            raise DataError(f"wordnet_path {str(path)!r} has no {missing[0]}; it must hold WordNet")
        return _open_folder(folder.resolve())
    data = load("nltk.data", "nltk")
    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            found = data.find(name)
        except LookupError:
            continue
        if hasattr(found, "zipfile"):
            return _open_zipped(name)
        return _open_folder(Path(str(found)))
    for folder in SYSTEM_FOLDERS:
        if all((folder / name).is_file() for name in _NEEDED):
            return _open_folder(folder)
    return None


@lru_cache(maxsize=4)
def _open_folder(folder: Path) -> WordNet:
    paths = load("nltk.data", "nltk").path
    if str(folder) not in paths:
        # nltk opens files only below its data path; this is its way to allow another folder.
        paths.append(str(folder))
    return WordNet(_quietly(_reader_class(), str(folder)), str(folder))


@lru_cache(maxsize=1)
def _open_zipped(name: str) -> WordNet:
    found = load("nltk.data", "nltk").find(name)
    reader = load("nltk.corpus.reader.wordnet", "nltk").WordNetCorpusReader
    return WordNet(_quietly(reader, found), str(found))


def _quietly(reader: Any, root: Any) -> Any:
    with warnings.catch_warnings():
        # nltk warns that other languages are unavailable; METEOR here is English.
        warnings.simplefilter("ignore")
        return reader(root, None)


@lru_cache(maxsize=1)
def _reader_class() -> Any:
    """nltk's reader, on a folder that may lack `lexnames`."""
    base: Any = load("nltk.corpus.reader.wordnet", "nltk").WordNetCorpusReader

    class FolderReader(base):  # type: ignore[misc]
        def open(self, file: str) -> Any:
            if file == "lexnames" and not (Path(str(self.root)) / file).is_file():
                return io.StringIO(_lexnames())
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            # A map between versions, for other languages; it costs seconds and needs nltk's copy.
            return None

    return FolderReader


def _lexnames() -> str:
    names = [f"{part}.{name}" for part, kinds in _LEXNAMES.items() for name in kinds.split()]
    names.append("adj.ppl")
    lines = (
        f"{number:02d}\t{name}\t{_PART_NUMBERS[name.partition('.')[0]]}\n"
        for number, name in enumerate(names)
    )
    return "".join(lines)
