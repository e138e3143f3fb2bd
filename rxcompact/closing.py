"""Closes what a pipeline is made of, where it can be closed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


async def close(part: Any) -> None:
    """Close a source, an enricher or a sink, if it can be closed; of a method the object it belongs to."""
    await _call(getattr(part, "__self__", part), "aclose")


async def release(source: Any) -> None:
    """Have a source with receipts return what was not settled, if it can."""
    await _call(source, "release")


async def _call(part: Any, method: str) -> None:
    call: Callable[[], Awaitable[object]] | None = getattr(part, method, None)
    if call is not None:
        await call()
