"""How a pipeline is doing, live in a terminal (extra ``live``)."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, TextIO

from rxcompact.observers.statistics import ENDED, Snapshot
from rxcompact.orchestrator import Orchestrator
from rxcompact.render.svg import OUTCOME_COLOURS

if TYPE_CHECKING:
    from rich.text import Text

PERIOD = 0.25  # seconds between two updates on a terminal
LINE = 1.0  # seconds between two lines where it is no terminal


async def live(orchestrator: Orchestrator, file: TextIO | None = None) -> None:
    """Show the state until the run ends: in place on a terminal, elsewhere and without rich as a line a second."""
    out = file or sys.stdout
    if not out.isatty() or os.environ.get("TERM", "dumb") == "dumb" or find_spec("rich") is None:
        while orchestrator.state not in ENDED:
            print(orchestrator.account, file=out, flush=True)
            await asyncio.sleep(LINE)
        return
    from rich.console import Console  # noqa: PLC0415 - an extra
    from rich.live import Live  # noqa: PLC0415

    # what is logged and printed meanwhile goes above it
    with Live(console=Console(file=out), auto_refresh=False) as view:
        while orchestrator.state not in ENDED:
            view.update(coloured(orchestrator.statistics.snapshot()), refresh=True)
            await asyncio.sleep(PERIOD)
        view.update(coloured(orchestrator.statistics.snapshot()), refresh=True)


def coloured(now: Snapshot) -> Text:
    """Return a snapshot as text of rich, outcomes in their colours."""
    from rich.text import Text  # noqa: PLC0415 - an extra

    text = Text(str(now), no_wrap=True, overflow="ellipsis")
    text.highlight_regex(r"\A.*", "bold")
    for outcome, (_, colour) in OUTCOME_COLOURS.items():
        text.highlight_regex(rf"\b{outcome}\b", colour)
    return text
