"""Reading the documentation: sections, tables, fenced blocks."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from astor_rl.sandbox.pool import ProcessPool

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
)

sys.path.insert(0, str(ROOT))  # benchmarks are no part of the package


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", PAGES, ids=[path.stem for path in PAGES])


class Manual:
    """The pages below `docs`, taken apart."""

    root = ROOT

    def text(self, page: str) -> str:
        return (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")

    def section(self, page: str, heading: str) -> str:
        """A page's text from a heading to the next one of the same or a higher level."""
        text = self.text(page)
        # A comment in a code block looks like a heading.
        bare = re.sub(r"^```.*?^```$", lambda m: " " * len(m[0]), text, flags=re.DOTALL | re.M)
        found = re.search(rf"^(#+) {re.escape(heading)}$", bare, re.MULTILINE)
        assert found, f"{page}.md has no heading {heading!r}"
        end = re.search(rf"^#{{1,{len(found[1])}}} ", bare[found.end() :], re.MULTILINE)
        return text[found.end() : found.end() + end.start()] if end else text[found.end() :]

    @staticmethod
    def rows(text: str) -> Iterator[dict[str, str]]:
        """The rows of all tables in a text, by column title."""
        titles: list[str] = []
        for line in text.splitlines():
            if not line.startswith("|"):
                titles = []
                continue
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            if not titles:
                titles = cells
            elif not set("".join(cells)) <= {"-"}:
                yield dict(zip(titles, cells, strict=True))

    def table(self, page: str, heading: str) -> list[dict[str, str]]:
        return list(self.rows(self.section(page, heading)))

    @staticmethod
    def blocks(text: str, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)

    @staticmethod
    def code(cell: str) -> str:
        """The one thing in backticks."""
        (found,) = re.findall(r"`([^`]+)`", cell)
        return str(found)

    @cached_property
    def loop(self) -> dict[str, Any]:
        """What the loop of the page `getting-started` leaves behind."""
        return runpy.run_path(str(Path(__file__).with_name("simulated_loop.py")))["run"]()


@pytest.fixture(scope="session")
def manual() -> Manual:
    return Manual()


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPool]:
    with ProcessPool(1) as pool:
        yield pool
