"""tests/README.md: its rows have tests that cite them in their names."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
NAMES = [name for file in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())]
ROWS = set(re.findall(r"^\| ([A-Z]\d+) \|", (TESTS / "README.md").read_text(), re.MULTILINE))


def rows_of(name: str) -> set[str]:
    """Return the rows that a test's name cites: "test_s01_s14_…" has S1 and S14."""
    cited = re.match(r"test_((?:[bdehiklnsw]\d+_)+)", name)
    return {f"{row[0].upper()}{int(row[1:])}" for row in cited[1].split("_")[:-1]} if cited else set()


CITED = set[str]().union(*map(rows_of, NAMES))


def test_every_row_has_a_test() -> None:
    assert not ROWS - CITED


def test_every_fault_that_a_test_cites_has_a_row() -> None:
    assert not {row for row in CITED if row[0] in "SEK"} - ROWS
