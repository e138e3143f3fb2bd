"""Watch an orchestrator from a cell, without a widget."""

from __future__ import annotations

import asyncio
from typing import Any

from IPython.core import getipython
from IPython.display import display

from rxcompact.clock import Seconds
from rxcompact.clock import seconds as in_seconds
from rxcompact.observers.statistics import ENDED
from rxcompact.orchestrator import Orchestrator

PERIOD, LINE = 0.25, 1.0  # seconds between updates in a notebook, and where each is printed below the last
EFFORT = 10  # an update waits at least so many times as long as the last one took: with very much in flight


async def watch(orchestrator: Orchestrator, *, seconds: Seconds | None = None) -> None:
    """Show how a pipeline is doing, in this cell's output, until the time is over or the run has ended.

    The last state stays in the saved notebook. Outside a notebook it is printed, once a second.

    Args:
        orchestrator: What to watch.
        seconds: For how long; None until the run has ended.

    Raises:
        ArgumentError: for a time that is not above zero.
    """
    loop, statistics = asyncio.get_running_loop(), orchestrator.statistics
    end = None if seconds is None else loop.time() + in_seconds("seconds", seconds)
    handle = _notebook_display(statistics.snapshot())
    show, period = (print, LINE) if handle is None else (handle.update, PERIOD)
    if handle is None:
        print(statistics.snapshot())  # noqa: T201 - it is what was asked for
    while orchestrator.state not in ENDED and (end is None or loop.time() < end):
        await asyncio.sleep(period if end is None else min(period, end - loop.time()))
        began = loop.time()
        show(statistics.snapshot())
        period = max(period, EFFORT * (loop.time() - began))


def _notebook_display(first: Any) -> Any:
    """Show the first snapshot in a notebook's cell and return the handle of its display; None elsewhere."""
    shell: Any = getipython.get_ipython()
    show: Any = display
    # a terminal's would print it anew each time
    return show(first, display_id=True) if hasattr(shell, "kernel") else None
