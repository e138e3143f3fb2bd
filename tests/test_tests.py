"""tests/README.md: its rows have tests that cite them in their names."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
NAMES = [name for file in TESTS.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())]
README = (TESTS / "README.md").read_text()
ROWS = set(re.findall(r"^\| ([SEK]\d+) \|", README, re.MULTILINE))


def rows_of(name: str) -> set[str]:
    """Return the rows that a test's name cites: "test_s01_s14_…" has S1 and S14."""
    cited = re.match(r"test_((?:[bdehiklnsw]\d+_)+)", name)
    return {f"{row[0].upper()}{int(row[1:])}" for row in cited[1].split("_")[:-1]} if cited else set()


CITED = set[str]().union(*map(rows_of, NAMES))


def test_every_row_has_a_test() -> None:
    assert not ROWS - CITED


def test_every_fault_that_a_test_cites_has_a_row() -> None:
    assert not {row for row in CITED if row[0] in "SEK"} - ROWS


def test_every_row_of_the_field_is_in_the_table_and_the_tests_that_it_names_exist() -> None:
    rows = re.findall(
        r"^\| ([A-Z])(\d+) \|.*\| (.+) \|$", README.partition("## Inputs from the field")[2], re.MULTILINE
    )
    sizes = {"I": 19, "L": 29, "H": 11, "B": 10, "N": 9, "D": 9, "W": 14}
    assert [row[:2] for row in rows] == [(kind, str(n + 1)) for kind, size in sizes.items() for n in range(size)]
    for kind, number, tests in rows:
        names = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", tests)
        assert names or tests == "not yet", (kind, number)
        for file, name in names:
            assert f"def {name}(" in (TESTS / file).read_text() or not name, (file, name)
