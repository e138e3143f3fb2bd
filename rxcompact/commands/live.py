"""How a pipeline is doing, live in a terminal (extra ``live``)."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

from rxcompact.observers.statistics import Snapshot
from rxcompact.orchestrator import ENDED, Orchestrator
from rxcompact.render.snapshot import LETTER_COLUMNS, letter_rows, snapshot_lines, snapshot_title

if TYPE_CHECKING:
    from rich.console import RenderableType

PERIOD = 0.25
"""Seconds between updates."""
LINE = 1.0
"""Seconds between lines where it is no terminal."""


@contextmanager
def view(orchestrator: Orchestrator, file: TextIO | None = None) -> Generator[Callable[[str], None]]:
    """Yield a function that shows the present state under a title: a live table on a terminal, else a line a second.

    Without rich there are lines on a terminal too.
    """
    out = file or sys.stdout
    if not out.isatty() or find_spec("rich") is None:
        yield _lines(orchestrator, out)
        return
    from rich.console import Console  # noqa: PLC0415 - an extra
    from rich.live import Live  # noqa: PLC0415

    # what is logged meanwhile goes above the table
    with Live(console=Console(file=out), auto_refresh=False) as live:
        yield lambda title: live.update(table(orchestrator.statistics.snapshot(), title), refresh=True)


async def live(orchestrator: Orchestrator, file: TextIO | None = None) -> None:
    """Show the state four times a second, until the run has ended."""
    with view(orchestrator, file) as show:
        while orchestrator.state not in ENDED:
            show("")
            await asyncio.sleep(PERIOD)
        show("")


def table(now: Snapshot, title: str = "") -> RenderableType:
    """Return a snapshot as a table of rich."""
    from rich import box  # noqa: PLC0415 - an extra
    from rich.console import Group  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "title_justify": "left", "title_style": "bold"}
    numbers = Table(title=escape(f"{title}  {snapshot_title(now)}".strip()), show_header=False, **style)
    for name, text in snapshot_lines(now):
        numbers.add_row(name, escape(text))
    if not now.letters:
        return numbers
    letters = Table(*LETTER_COLUMNS, title="dead letters", **style)
    for row in letter_rows(now):
        letters.add_row(*map(escape, row))
    return Group(numbers, letters)


def _lines(orchestrator: Orchestrator, out: TextIO) -> Callable[[str], None]:
    shown = float("-inf")

    def line(title: str) -> None:
        nonlocal shown
        if time.monotonic() - shown >= LINE:
            shown = time.monotonic()
            print(f"{title}  {orchestrator.account}".strip(), file=out, flush=True)

    return line
