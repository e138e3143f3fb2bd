"""The log, which is loguru's: it takes long to import, so it is with the first line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

before_first: list[Callable[[], None]] = []
"""What is called before the first line."""


def log(level: str, line: str, *values: Any, **named: Any) -> None:
    """Log a line, filled in with values, in the name of the caller."""
    from loguru import logger  # noqa: PLC0415 - see above

    while before_first:
        before_first.pop()()
    logger.opt(depth=1).log(level, line, *values, **named)
