"""How a pipeline is doing, live in a terminal (extra ``live``)."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

from rxcompact.observers.statistics import ENDED, Snapshot
from rxcompact.orchestrator import Orchestrator
from rxcompact.render.snapshot import LETTER_COLUMNS, letter_rows, snapshot_lines, snapshot_title

if TYPE_CHECKING:
    from rich.console import RenderableType

PERIOD = 0.25  # seconds between two updates of the table
LINE = 1.0  # seconds between two lines where it is no terminal


async def live(orchestrator: Orchestrator, file: TextIO | None = None) -> None:
    """Show the state until the run ends: as a table on a terminal, elsewhere and without rich as a line a second."""
    out = file or sys.stdout
    if not out.isatty() or os.environ.get("TERM", "dumb") == "dumb" or find_spec("rich") is None:
        while orchestrator.state not in ENDED:
            print(orchestrator.account, file=out, flush=True)
            await asyncio.sleep(LINE)
        return
    from rich.console import Console  # noqa: PLC0415 - an extra
    from rich.live import Live  # noqa: PLC0415

    # what is logged meanwhile goes above the table
    with Live(console=Console(file=out), auto_refresh=False) as view:
        while orchestrator.state not in ENDED:
            view.update(table(orchestrator.statistics.snapshot()), refresh=True)
            await asyncio.sleep(PERIOD)
        view.update(table(orchestrator.statistics.snapshot()), refresh=True)


def table(now: Snapshot) -> RenderableType:
    """Return a snapshot as a table of rich."""
    from rich import box  # noqa: PLC0415 - an extra
    from rich.console import Group  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "title_justify": "left", "title_style": "bold"}
    numbers = Table(title=escape(snapshot_title(now)), show_header=False, **style)
    for name, text in snapshot_lines(now):
        numbers.add_row(name, escape(text))
    letters = Table(*LETTER_COLUMNS, title="dead letters", **style)
    for row in letter_rows(now):
        letters.add_row(*map(escape, row))
    return Group(numbers, letters) if now.letters else numbers
