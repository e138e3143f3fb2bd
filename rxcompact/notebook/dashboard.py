"""A live dashboard of an orchestrator (extra ``notebook``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import anywidget
import traitlets

from rxcompact.observers.statistics import Snapshot
from rxcompact.orchestrator import ENDED, Orchestrator
from rxcompact.render.format import short
from rxcompact.render.snapshot import letters_html, snapshot_image, snapshot_title

PERIOD = 0.25
"""Seconds between updates, at least."""
EFFORT = 10
"""How many times as long as an update takes it waits at least until the next: with very much in flight."""
HERE = Path(__file__).parent


def dashboard(orchestrator: Orchestrator) -> Dashboard:
    """Return the live dashboard of an orchestrator, to be put at the end of a cell.

    It moves at most four times a second, and only while it is on screen. Its buttons start, stop and restart. Running
    the cell again gives the same dashboard; nothing is subscribed to twice.

    A saved notebook shows a widget only where its state was saved too: ``dashboard(orchestrator).snapshot()`` shows
    itself there, too.

    Args:
        orchestrator: One that runs on the notebook's own loop, or will.
    """
    found = _known.get(id(orchestrator))
    if found is None:
        found = _known[id(orchestrator)] = Dashboard(orchestrator)
    return found


class Dashboard(anywidget.AnyWidget):
    """A widget that shows the statistics of an orchestrator and has buttons for it; `dashboard` returns it."""

    _esm = (HERE / "dashboard.js").read_text()
    _css = (HERE / "dashboard.css").read_text()
    view = traitlets.Dict().tag(sync=True)
    """What is shown: title, picture, table of dead letters, buttons that may be pressed, and what went wrong."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._notice = ""
        self._doing: asyncio.Task[None] | None = None
        self._shown: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:  # not in a notebook: it shows how things are, and stays so
            self._loop = None
        super().__init__(view=self._now())
        self._states = orchestrator.states.subscribe(lambda _: self._wake())
        self.on_msg(self._on_message)

    def snapshot(self) -> Snapshot:
        """Return how things are now: it shows itself, in a saved notebook too."""
        return self._orchestrator.statistics.snapshot()

    def close(self) -> None:
        """Show nothing more. The pipeline goes on."""
        self._states.dispose()
        self._shown.clear()
        if self._timer is not None:
            self._timer.cancel()
        _known.pop(id(self._orchestrator), None)
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Show the widget; where there are no widgets, how things are now."""
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        now: dict[str, str] = self.snapshot()._repr_mimebundle_()  # pyright: ignore[reportPrivateUsage]
        return data | now, metadata

    # ── what it shows ─────────────────────────────────────────────────────────────────────────────────────────────

    def _now(self) -> dict[str, Any]:
        now = self._orchestrator.statistics.snapshot()
        return {
            "title": snapshot_title(now),
            "picture": snapshot_image(now),
            "letters": letters_html(now),
            "actions": self._actions(),
            "notice": self._notice,
        }

    def _actions(self) -> list[str]:
        state = self._orchestrator.state
        if self._doing is not None:
            return []
        if state in ENDED:
            return ["start"]
        return ["stop", "restart"] if state == "running" else ["stop"]

    def _wake(self) -> None:
        """See to it that it is updated soon, if it is seen."""
        if self._timer is None and self._shown and self._loop is not None:
            self._timer = self._loop.call_at(max(self._next, self._loop.time()), self._update, self._loop)

    def _update(self, loop: asyncio.AbstractEventLoop) -> None:
        began = loop.time()
        self._timer = None
        self.view = self._now()
        self._next = began + max(PERIOD, EFFORT * (loop.time() - began))
        if self._orchestrator.state not in ENDED:
            self._wake()

    # ── what it is told ───────────────────────────────────────────────────────────────────────────────────────────

    def _on_message(self, _: Any, content: dict[str, Any], __: Any) -> None:
        """Take a message of the page; it may come on a thread of its own, where the kernel has subshells."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._take, content)

    def _take(self, content: dict[str, Any]) -> None:
        match content:
            case {"view": str(view), "shown": bool(shown)}:
                (self._shown.add if shown else self._shown.discard)(view)
            case {"action": "start" | "stop" | "restart" as action} if action in self._actions():
                self._doing = asyncio.get_running_loop().create_task(self._do(action), name=f"dashboard {action}")
            case _:
                return
        self._wake()

    async def _do(self, action: str) -> None:
        step: Callable[[], Coroutine[Any, Any, object]] = getattr(self._orchestrator, action)
        self._notice = f"{action}…"
        try:
            await step()
        except Exception as error:  # noqa: BLE001 - whatever it is, who pressed the button is told
            self._notice = f"{action} failed: {type(error).__name__}: {short(str(error), 200)}"
        else:
            self._notice = ""
        finally:
            self._doing = None
            self._wake()


# as long as there is one; ipywidgets keeps every widget until it is closed
_known: WeakValueDictionary[int, Dashboard] = WeakValueDictionary()
