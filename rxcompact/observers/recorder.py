"""Records what happened, in bounded memory, to look at, to save, or to analyse."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rxcompact.clock import LoopScheduler
from rxcompact.errors import ArgumentError
from rxcompact.events import Compacted, Outcome, Published, Window
from rxcompact.observers.timeline import Timeline
from rxcompact.render import EventMark, Marks, OutcomeMark, RetryMark, Span, StateMark, WindowMark, marble, marble_svg
from rxcompact.render.words import error_name
from rxcompact.signals import ObserverFailed, RetryScheduled, Signal, SourceFailed, State

if TYPE_CHECKING:
    from pandas import DataFrame


class Recording(Marks):
    """What a `Recorder` saw until now: a marble diagram, as a picture where there can be one, else as text.

    It holds keys, not events, and what errors are, not what they say.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return marble(self)

    def svg(self) -> str:
        """Return it as a picture."""
        return marble_svg(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        # an image, since a notebook that is not trusted strips SVG but shows images
        image = b64encode(self.svg().encode()).decode()
        html = f'<img alt="marble diagram" src="data:image/svg+xml;base64,{image}" style="max-width:100%">'
        return {"text/plain": repr(self), "text/html": html}

    def save(self, path: str | Path) -> Path:
        """Write it to a file, as a picture or as text, by the name's ending: .svg or .txt.

        Raises:
            ArgumentError: for another ending.
            OSError: when it cannot be written.
        """
        path = Path(path)
        forms: dict[str, Callable[[], str]] = {".svg": self.svg, ".txt": lambda: f"{self!r}\n"}
        if path.suffix not in forms:
            raise ArgumentError("path", str(path), f"a name that ends in {' or '.join(forms)}")
        path.write_text(forms[path.suffix](), encoding="utf-8")
        return path

    def to_pandas(self) -> DataFrame:
        """Return a table of its marks in their order: "kind", "at", and each kind's own columns.

        Instants are of pandas' UTC datetimes; keys are as they were.

        Raises:
            ImportError: without pandas.
        """
        import pandas as pd  # noqa: PLC0415 - by no means everyone's

        rows: list[dict[str, Any]] = []
        for event in self.events:
            window, *rest = event
            rows.append(dict(zip(event._fields[1:], rest, strict=True)) | {"kind": "event", "at": window.at})
        kinds: dict[str, Sequence[Any]] = {
            "window": self.windows,
            "retry": self.retries,
            "outcome": self.outcomes,
            "state": self.states,
        }
        rows += [mark._asdict() | {"kind": kind} for kind, marks in kinds.items() for mark in marks]
        columns = dict.fromkeys(["kind", "at", *(column for row in rows for column in row)])
        table = pd.DataFrame(rows, columns=list(columns)).sort_values("at", kind="stable", ignore_index=True)
        for column in {"at", "first_seen", "last_seen", "opened", "closed"} & set(columns):
            table[column] = pd.to_datetime(table[column].astype(float), unit="s", utc=True)
        return table


class Recorder:
    """An observer that records: ``orchestrator.attach(recorder)``; then ``recorder`` at the end of a cell shows it.

    Args:
        limit: How many it keeps of each: distinct events, windows, retries, outcomes, states. The oldest go first.

    Cost:
        A few microseconds for each distinct event, nothing for duplicates. Memory O(limit).

    Raises:
        ArgumentError: for a limit below 1.
    """

    def __init__(self, *, limit: int = 10_000) -> None:
        if limit < 1:
            raise ArgumentError("limit", limit, "at least 1")
        self._limit = limit
        self._windows: deque[WindowMark] = deque(maxlen=limit)
        self._events: deque[EventMark] = deque(maxlen=limit)
        self._retries: deque[RetryMark] = deque(maxlen=limit)
        self._outcomes: deque[OutcomeMark] = deque(maxlen=limit)
        self._states: deque[StateMark] = deque(maxlen=limit)
        self._totals: Counter[str] = Counter()
        self._rates: defaultdict[str, Timeline] = defaultdict(Timeline)
        self._clock: Span | None = None
        self._opened: Span | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wall = time.time

    @property
    def recording(self) -> Recording:
        """What was recorded until now; it does not change any more."""
        return Recording(
            clock=self._clock or (0.0, 0.0),
            opened=self._opened or (0.0, 0.0),
            windows=tuple(self._windows),
            events=tuple(self._events),
            retries=tuple(self._retries),
            outcomes=tuple(self._outcomes),
            states=tuple(self._states),
            totals=dict(self._totals),
            rates={name: timeline.amounts() for name, timeline in self._rates.items()},
        )

    def __repr__(self) -> str:
        return repr(self.recording)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self.recording._repr_mimebundle_()  # pyright: ignore[reportPrivateUsage]

    def _now(self) -> float:
        try:
            loop = asyncio.get_running_loop()
            if loop is not self._loop:
                self._loop, self._wall = loop, LoopScheduler(loop).wall
        except RuntimeError:
            pass  # told outside a loop: by the clock of the last one
        now = self._wall()
        self._clock = _wider(self._clock, now, now)
        return now

    def _count(self, name: str, start: float, end: float, amount: int = 1) -> None:
        self._totals[name] += amount
        self._rates[name].add(start, end, amount)

    # ── what it is told ───────────────────────────────────────────────────────────────────────────────────────────

    def on_window(self, window: Window) -> None:
        opened, closed, distinct = window.opened, window.closed, len(window)
        mark = WindowMark(self._now(), opened, closed, window.trigger, window.received, distinct)
        self._opened = _wider(self._opened, opened, closed)
        self._windows.append(mark)
        self._totals["windows"] += 1
        self._count("received", opened, closed, window.received)
        self._count("distinct", opened, closed, distinct)
        for key, _, count, first_seen, last_seen in islice(window, max(0, distinct - self._limit), None):
            self._events.append(EventMark(mark, key, count, first_seen, last_seen))

    def on_outcome(self, outcome: Outcome) -> None:
        now, event = self._now(), outcome.event
        self._count(outcome.outcome, now, now)
        # refused at the door, an event has no key yet
        key = event.key if isinstance(event, Compacted) else None
        stage, reason = ("publish", "") if isinstance(outcome, Published) else (outcome.stage, outcome.reason)
        self._outcomes.append(OutcomeMark(now, outcome.outcome, key, stage, reason, outcome.attempts, outcome.age))

    def on_signal(self, signal: Signal) -> None:
        match signal:
            case RetryScheduled(stage, attempt, wait, error):
                now = self._now()
                self._count("retries", now, now)
                self._retries.append(RetryMark(now, stage, attempt, wait, error_name(error)))
            case SourceFailed(error):
                self._states.append(StateMark(self._now(), "source failed", error_name(error)))
            case ObserverFailed(observer, error):
                self._states.append(StateMark(self._now(), "observer failed", f"{observer}: {error_name(error)}"))
            case _:
                pass

    def on_state(self, state: State) -> None:
        # not the one that is told at once: time may not have begun yet
        if state != "idle":
            self._states.append(StateMark(self._now(), state))


def _wider(span: Span | None, start: float, end: float) -> Span:
    return (start, end) if span is None else (min(span[0], start), max(span[1], end))
