"""tests/README.md: each row has its tests, each test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
README = (TESTS / "README.md").read_text()
NAMES = [name for file in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())]
FAULTS = re.findall(r"^\| ([SEK]\d+) \|", README, re.MULTILINE)
CITED = re.findall(r"^\| [A-Z]\d+ \|.*\| `([^`]+)` \|$", README, re.MULTILINE)


def rows_of(name: str) -> set[str]:
    """Return the rows that a test's name cites: "test_s01_s14_…" has S1 and S14."""
    cited = re.match(r"test_((?:[sek]\d+_)+)", name)
    return {f"{row[0].upper()}{int(row[1:])}" for row in cited[1].split("_")[:-1]} if cited else set()


def test_every_row_of_the_fault_table_has_a_test_and_every_row_cited_exists() -> None:
    cited = set[str]().union(*map(rows_of, NAMES))
    assert cited == set(FAULTS)


@pytest.mark.parametrize("reference", CITED)
def test_a_test_named_by_a_row_exists(reference: str) -> None:
    file, _, name = reference.partition("::")
    assert not name or re.search(rf"def {name}\b", (TESTS / file).read_text())
    assert (TESTS / file).is_file()
