"""A live dashboard of an orchestrator, and watching one from a cell (extra ``notebook``)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import anywidget
import traitlets
from IPython.core import getipython
from IPython.display import display

from rxcompact.clock import Seconds
from rxcompact.clock import seconds as in_seconds
from rxcompact.format import error_text, short
from rxcompact.observers.statistics import ENDED
from rxcompact.orchestrator import Orchestrator
from rxcompact.render.snapshot import snapshot_numbers
from rxcompact.render.svg import STYLE

PERIOD, LINE = 0.25, 1.0  # seconds between updates in a notebook, and where each is printed below the last
EFFORT = 10  # an update waits at least so many times as long as the last one took: with very much in flight


def dashboard(orchestrator: Orchestrator) -> Dashboard:
    """Return the live dashboard of an orchestrator, for the end of a cell.

    It updates at most four times a second, and only while it is on screen. A cell that is run again shows the same one.
    A saved notebook may lack the widget; what the orchestrator itself shows at the end of a cell is there always.

    Args:
        orchestrator: One that runs on the notebook's own loop, or will.
    """
    return _dashboards.get(id(orchestrator)) or Dashboard(orchestrator)


class Dashboard(anywidget.AnyWidget):
    """A widget that shows the statistics of an orchestrator and has buttons for it; `dashboard` returns it."""

    _esm = Path(__file__).with_suffix(".js").read_text()
    _css = Path(__file__).with_suffix(".css").read_text()
    view = traitlets.Dict().tag(sync=True)
    """What is shown: the numbers that the page draws, enabled buttons, a notice, and whether more will follow."""
    look = traitlets.Unicode(STYLE).tag(sync=True)

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._notice = ""
        self._task: asyncio.Task[None] | None = None  # of the button that was pressed
        self._shown: set[str] = set()  # views that are on screen
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0
        self._loop = asyncio.get_running_loop()
        super().__init__(view=self._now())
        self._states = orchestrator.states.subscribe(lambda _: self._schedule_update())
        self.on_msg(self._on_message)
        _dashboards[id(orchestrator)] = self

    def close(self) -> None:
        """Show nothing more. The pipeline goes on."""
        self._states.dispose()
        self._shown.clear()
        if self._timer is not None:
            self._timer.cancel()
        _dashboards.pop(id(self._orchestrator), None)
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Show the widget; where there are no widgets, a snapshot."""
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return data | self._orchestrator._repr_mimebundle_(), metadata  # pyright: ignore[reportPrivateUsage]

    def _now(self) -> dict[str, Any]:
        now = self._orchestrator.statistics.snapshot()
        return snapshot_numbers(now) | {
            "top": [[short(key, 40), count] for key, count in self._orchestrator.statistics.top.most()],
            "actions": self._actions(),
            "notice": self._notice,
            "live": now.state not in ENDED,
        }

    def _actions(self) -> list[str]:
        state = self._orchestrator.state
        if self._task is not None:
            return []
        if state in ENDED:
            return ["start"]
        return ["stop", "restart"] if state == "running" else ["stop"]

    def _schedule_update(self) -> None:
        if self._timer is None and self._shown:
            self._timer = self._loop.call_at(max(self._next, self._loop.time()), self._update)

    def _update(self) -> None:
        began = self._loop.time()
        self._timer = None
        self.view = self._now()
        self._next = began + max(PERIOD, EFFORT * (self._loop.time() - began))
        if self._orchestrator.state not in ENDED:
            self._schedule_update()

    def _on_message(self, _: Any, content: dict[str, Any], __: Any) -> None:
        """Handle a message of the page; it may arrive on another thread, where the kernel has subshells."""
        self._loop.call_soon_threadsafe(self._handle, content)

    def _handle(self, content: dict[str, Any]) -> None:
        match content:
            case {"view": str(view), "shown": bool(shown)}:
                (self._shown.add if shown else self._shown.discard)(view)
            case {"action": "start" | "stop" | "restart" as action} if action in self._actions():
                self._task = asyncio.get_running_loop().create_task(self._run(action), name=f"dashboard {action}")
            case _:
                return
        self._schedule_update()

    async def _run(self, action: str) -> None:
        self._notice = f"{action}…"
        try:
            await getattr(self._orchestrator, action)()
            self._notice = ""
        except Exception as error:  # noqa: BLE001 - whatever it is, it is shown beside the button
            self._notice = f"{action} failed: {error_text(error)}"
        finally:
            self._task = None
            self._schedule_update()


# as long as there is one; ipywidgets keeps every widget until it is closed
_dashboards: WeakValueDictionary[int, Dashboard] = WeakValueDictionary()


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
    show: Any = print
    period = LINE
    if hasattr(getipython.get_ipython(), "kernel"):  # a terminal's would print it anew each time
        handle: Any = display(statistics.snapshot(), display_id=True)  # type: ignore[no-untyped-call]
        show, period = handle.update, PERIOD
    else:
        show(statistics.snapshot())
    while orchestrator.state not in ENDED and (end is None or loop.time() < end):
        await asyncio.sleep(period if end is None else min(period, end - loop.time()))
        began = loop.time()
        show(statistics.snapshot())
        period = max(period, EFFORT * (loop.time() - began))
