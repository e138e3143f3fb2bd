"""The examples in docstrings of the package."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import rxcompact

PACKAGE = Path(rxcompact.__file__).parent
TIERS = {"notebook": pytest.mark.notebook, "brokers": pytest.mark.broker, "cluster": pytest.mark.cluster}


def modules() -> list[object]:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in file.read_text():
            parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
            marks = [TIERS[parts[1]]] if parts[1] in TIERS else []
            found.append(pytest.param(".".join(parts).removesuffix(".__init__"), marks=marks))
    return found


@pytest.mark.parametrize("module", modules())
def test_the_examples_of_a_module_print_what_they_show(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
