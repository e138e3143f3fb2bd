"""Watching an orchestrator from a cell, with no widget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from rxcompact.clock import Seconds
from rxcompact.clock import seconds as in_seconds
from rxcompact.observers.statistics import Snapshot
from rxcompact.orchestrator import ENDED, Orchestrator

PERIOD = 0.25
"""Seconds between updates in a notebook."""
LINE = 1.0
"""Seconds between updates where each is printed below the last."""
EFFORT = 10
"""How many times as long as an update takes it waits at least until the next: with very much in flight."""


async def watch(orchestrator: Orchestrator, *, seconds: Seconds | None = None) -> None:
    """Show how a pipeline is doing, in this cell's output, until the time is over or the run has ended.

    The last state stays in the saved notebook. Outside a notebook it is printed, once a second.

    Args:
        orchestrator: What to watch.
        seconds: For how long; None until the run has ended.

    Raises:
        ArgumentError: for a time that is not above zero.
    """
    loop = asyncio.get_running_loop()
    end = None if seconds is None else loop.time() + in_seconds("seconds", seconds)
    statistics = orchestrator.statistics
    show, period = _display(statistics.snapshot())
    while orchestrator.state not in ENDED and (end is None or loop.time() < end):
        left = period if end is None else min(period, end - loop.time())
        await asyncio.sleep(left)
        began = loop.time()
        show(statistics.snapshot())
        period = max(period, EFFORT * (loop.time() - began))


def _display(first: Snapshot) -> tuple[Callable[[Snapshot], object], float]:
    """Show the first; return what shows the next in its place, and how often that may be."""
    handle = _notebook_display(first)
    if handle is not None:
        return handle.update, PERIOD
    print(first)  # noqa: T201 - it is what was asked for
    return print, LINE


def _notebook_display(first: Snapshot) -> Any:
    """Show it in a notebook's cell and return the handle of that; None elsewhere."""
    try:
        from IPython.core.getipython import get_ipython  # noqa: PLC0415 - an extra
        from IPython.display import display  # noqa: PLC0415
    except ImportError:
        return None
    shell: Any = get_ipython()
    if not hasattr(shell, "kernel"):  # a terminal's would print it anew each time
        return None
    show: Any = display
    return show(first, display_id=True)
