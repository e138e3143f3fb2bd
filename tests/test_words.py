"""The words that hide what code does stay out of names, texts and notebooks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = "tell tells told teller say says said unsaid hear hears heard blame bury visitor door shall".split()
PHRASES = r"met? (?:its|their) end|come again|what is to be|of one.s own|that (?:is|are) none|set aside|gone by"
WORDS = re.compile(
    # parts of an identifier count: `_tell`, `was_told`, `tellAll`
    rf"(?<![a-z])(?:{'|'.join(NAMES)})(?![a-z])|{PHRASES}",
    re.IGNORECASE,
)
SUFFIXES = {".py", ".md", ".ipynb", ".js", ".css", ".toml", ".conf", ".yml", ".go"}
FILES = [
    path
    for folder in ("rxcompact", "notebooks", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in SUFFIXES and path != Path(__file__) and not {".ipynb_checkpoints"} & set(path.parts)
] + [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml", ".ci/run")]


def found(text: str) -> list[str]:
    return [f"{number}: {line.strip()[:100]}" for number, line in enumerate(text.splitlines(), 1) if WORDS.search(line)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_none_of_the_words(path: Path) -> None:
    assert not found(path.read_text())


@pytest.mark.parametrize("line", ["def _tell(self):", "was_told = 1", "SAID", "it says so", "set aside", "Door()"])
def test_a_word_is_found(line: str) -> None:
    assert found(line)


@pytest.mark.parametrize("line", ["outdoor", "essays", "shallow", "retell()", "storytelling", "unheard"])
def test_a_part_of_another_word_is_none(line: str) -> None:
    assert not found(line)
