"""The observables of a run, and how observers are attached to them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from time import perf_counter, time
from types import MethodType
from typing import Any, Generic, TypeVar

from msgspec.structs import force_setattr
from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import CompositeDisposable, Disposable

from rxcompact.clock import count, is_running
from rxcompact.contracts import CallObserver
from rxcompact.errors import contained, isolated
from rxcompact.events import DeadLetter, Delivered, Outcome, Window
from rxcompact.observers.metrics import exposition
from rxcompact.observers.statistics import ENDED, Statistics
from rxcompact.operators.retry import OncePerMinute
from rxcompact.operators.verdict import verdict
from rxcompact.signals import (
    BatchPublished,
    CallEnded,
    CallOutcome,
    DeadLettered,
    ObserverFailed,
    Signal,
    State,
    StateChanged,
    Tick,
    WindowClosed,
)

T = TypeVar("T")

SECOND = 1.0
MAX_FAILURES = 3  # failures in a row after which an observer is detached
SLOW, STALL = 0.001, 0.05  # seconds of a call of an observer that are logged: three in a row, and one
_log_slow = OncePerMinute("WARNING", "observer {} held up the event loop for {text} ms: make it a coroutine function")
METHODS = {
    "on_signal": "signals",
    "on_window": "windows",
    "on_batch": "batches",
    "on_outcome": "outcomes",
    "on_dead_letter": "dead_letters",
    "on_state": "states",
    "on_call": "calls",
    "on_tick": "ticks",
}
"""The methods that an observer may have, and the observable that each subscribes to."""


class Listener:
    """An observer, isolated: what it raises is reported and, after failures in a row, it is detached."""

    def __init__(self, observer: Any, report: Callable[[ObserverFailed], object]) -> None:
        self._call, self._report = getattr(observer, "on_next", observer), report
        function = getattr(observer, "_on_next", observer)
        self._name = getattr(function, "__qualname__", "") or type(getattr(function, "__self__", function)).__name__
        self._is_ours = str(getattr(function, "__module__", "")).startswith("rxcompact.")
        self._failures = self._slow = 0  # in a row
        self.detach: Callable[[], object] = lambda: None

    def on_next(self, item: Any) -> None:
        began = perf_counter()
        try:
            self._call(item)
        except BaseException as error:  # noqa: BLE001 - an observer may raise anything
            self.on_error(error)
        else:
            # to take the report of its own failures is no recovery
            if self._failures and not isinstance(item, ObserverFailed):
                self._failures = 0
        if (took := perf_counter() - began) > SLOW:
            self._slow += 1  # one may be the machine's, which was busy with something else
            if (took > STALL or self._slow >= MAX_FAILURES) and not self._is_ours:
                _log_slow(self._name, text=f"{took * 1000:.3g}")
        elif self._slow:
            self._slow = 0

    def on_error(self, raised: BaseException) -> None:
        """Report what it raised."""
        error = contained(raised)
        self._failures += 1
        if detached := self._failures >= MAX_FAILURES:
            self.detach()
        self._report(ObserverFailed(self._name, error, self._failures, detached))


class AwaitedListener(Listener):
    """Has a coroutine function awaited with one item after another, on a task of its own."""

    def __init__(self, function: Any, report: Callable[[ObserverFailed], object], limit: int) -> None:
        super().__init__(function, report)
        self._limit, self._dropped = limit, 0
        self._items: deque[Any] = deque()
        self._task: asyncio.Task[None] | None = None

    def on_next(self, item: Any) -> None:
        if len(self._items) < self._limit:
            self._items.append(item)
            self._task = self._task or asyncio.get_running_loop().create_task(self._run(), name="rxcompact observer")
            return
        self._dropped += 1
        if str(self._dropped).strip("0") == "1":  # 1, 10, 100, …
            error = asyncio.QueueFull(f"{self._dropped} items were dropped: {self._limit} wait already")
            self._report(ObserverFailed(self._name, error, self._dropped, detached=False))

    async def _run(self) -> None:
        try:
            while self._items and self._failures < MAX_FAILURES:
                try:
                    await self._call(self._items.popleft())
                    self._failures = 0
                except BaseException as error:
                    if (task := asyncio.current_task()) is not None and task.cancelling():  # with the loop
                        raise
                    self.on_error(error)
        finally:
            self._task = None

    async def finish(self) -> None:
        """Wait until it was awaited with all items."""
        if self._task is not None:
            await asyncio.wait({self._task})


class Hub(Observable[T], Generic[T]):
    """An observable that isolates its observers: one that raises is reported and, after repeated failures, detached.

    Observers may come and go at any time. It never completes: a run may start again.

    Args:
        report: Called when an observer raised.
        latest: An observer that subscribes gets the latest item at once; this is the first.
        on_subscribed: Called when one has subscribed.
    """

    def __init__(
        self,
        report: Callable[[ObserverFailed], object],
        *,
        latest: T | None = None,
        on_subscribed: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__()
        self._report, self._on_subscribed = report, on_subscribed
        self.latest = latest
        self.observers: tuple[Listener, ...] = ()  # replaced, never changed: read without a lock or a copy
        self._items: deque[T] = deque()
        self._notifying = False

    def _subscribe_core(self, observer: ObserverBase[T], scheduler: SchedulerBase | None = None) -> DisposableBase:
        del scheduler  # observers are called where things happen
        return self.listen(Listener(observer, self._report))

    def listen(self, listener: Listener) -> DisposableBase:
        """Have a listener called with all items, until it is disposed of."""

        def detach() -> None:
            self.observers = tuple(each for each in self.observers if each is not listener)

        listener.detach = detach
        self.observers = (*self.observers, listener)
        if self.latest is not None:
            listener.on_next(self.latest)
        self._on_subscribed()
        return Disposable(detach)

    def notify(self, item: T) -> None:
        """Pass an item to all observers."""
        self._items.append(item)
        if self._notifying:  # an observer caused it: all observers get the present item first
            return
        self._notifying = True
        try:
            while self._items:
                item = self._items.popleft()
                if self.latest is not None:
                    self.latest = item
                for listener in self.observers:
                    listener.on_next(item)
        finally:
            self._notifying = False


class Observables:
    """Observables of what happens in a run, see the manual, telemetry, and its statistics, which show themselves."""

    tracer: Any = None
    """Makes spans, where one is attached: `TracingObserver`."""
    now: Callable[[], float] = staticmethod(time)
    """Gives what the wall clock of the run shows, POSIX seconds."""

    def __init__(self, statistics: Statistics, name: str) -> None:
        self.statistics, self.name = statistics, name
        self.call_observer = CallObserver(ended=self._on_call_ended)
        self._attached: list[tuple[object, DisposableBase]] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._scraped: DisposableBase | None = None
        self.signals: Hub[Signal] = Hub(self.notify_signal)
        self.windows: Hub[Window] = Hub(self.notify_signal)
        self.batches: Hub[Delivered] = Hub(self.notify_signal)
        self.outcomes: Hub[Outcome] = Hub(self.notify_signal)
        self.dead_letters: Hub[DeadLetter] = Hub(self.notify_signal)
        self.states: Hub[State] = Hub(self.notify_signal, latest="idle")
        self.calls: Hub[CallEnded] = Hub(self.notify_signal)
        self.ticks: Hub[Tick] = Hub(self.notify_signal, on_subscribed=self._tick_soon)

    def attach(self, observer: Any, *, queue: int = 10_000) -> DisposableBase:
        """Attach an observer; dispose of what is returned to detach it.

        One that is attached already stays attached once; one that was detached for its failures is attached again.

        Args:
            observer: See `rxcompact.observers`. Its method ``on_attach``, if it has one, is called first, with this;
                ``on_end``, which takes nothing, at the end of a run, within its deadline.
            queue: Items that wait for a coroutine function at most; those beyond are dropped, and reported.

        Raises:
            TypeError: for anything else.
        """
        methods: dict[str, Any] = {
            name: method for name in METHODS if callable(method := getattr(observer, name, None))
        }
        on_attach = getattr(observer, "on_attach", None)
        if isinstance(observer, ObserverBase) or (callable(observer) and not (methods or on_attach)):
            methods, on_attach = {"on_signal": observer}, None
        elif not (methods or on_attach):
            names = ", ".join(METHODS)
            raise TypeError(f"an observer is a function, an Observer, or has one of {names}: got {observer!r}")
        for attached, subscription in self._attached:
            if attached is observer or (isinstance(observer, MethodType) and attached == observer):
                subscription.dispose()
                break
        if on_attach is not None:
            on_attach(self)
        subscriptions: list[DisposableBase] = []
        if self.tracer is observer:  # as `on_attach` had it
            subscriptions.append(Disposable(partial(self.trace_with, None)))
        for name, call in methods.items():
            hub: Hub[Any] = getattr(self, METHODS[name])
            if iscoroutinefunction(call) or iscoroutinefunction(getattr(call, "__call__", None)):  # noqa: B004
                subscriptions.append(hub.listen(AwaitedListener(call, self.notify_signal, count("queue", queue))))
            else:
                subscriptions.append(hub.subscribe(call))
        entry = (observer, CompositeDisposable(subscriptions))
        self._attached.append(entry)
        entry[1].add(Disposable(lambda: self._attached.remove(entry)))
        return entry[1]

    async def _end_observers(self) -> None:
        """Have every observer finish: what waits for a coroutine function, then ``on_end``."""
        listeners = [each for hub in METHODS.values() for each in getattr(self, hub).observers]
        await asyncio.gather(*(each.finish() for each in listeners if isinstance(each, AwaitedListener)))
        for observer, _ in list(self._attached):
            if callable(on_end := getattr(observer, "on_end", None)):
                with self._isolated(on_end):
                    if isawaitable(ended := on_end()):
                        await ended

    def _isolated(self, function: object) -> AbstractContextManager[None]:
        return isolated(Listener(function, self.notify_signal).on_error)

    def _notify(self, hub: Hub[Any], signal: Signal) -> None:
        if hub.observers:
            force_setattr(signal, "at", self.now())
            force_setattr(signal, "pipeline", self.name)
            hub.notify(signal)

    def notify_signal(self, signal: Signal) -> None:
        self.statistics.on_signal(signal)
        self._notify(self.signals, signal)

    def _on_state(self, old: State, new: State) -> None:
        self.statistics.on_state(old, new)
        self.states.notify(new)
        self._notify(self.signals, StateChanged(old, new))
        self._tick_soon()

    def notify_window(self, window: Window) -> None:
        self._trace("trace_window", window)
        self.statistics.on_window(window)
        self.windows.notify(window)
        opened, closed, trigger, received = window.opened, window.closed, window.trigger, window.received
        self._notify(self.signals, WindowClosed(opened, closed, trigger, received, len(window)))

    def notify_delivered(self, delivered: Delivered) -> None:
        self.statistics.on_batch(delivered)
        self.batches.notify(delivered)
        if self.outcomes.observers:
            for outcome in delivered.outcomes():
                self.outcomes.notify(outcome)
        self._notify(self.signals, BatchPublished(len(delivered.batch), delivered.attempts))

    def notify_dead_letter(self, letter: DeadLetter) -> None:
        self.statistics.on_dead_letter(letter)
        self.dead_letters.notify(letter)
        self.outcomes.notify(letter)
        self._notify(self.signals, DeadLettered(letter))

    # ── calls of stages, and their spans ──────────────────────────────────────────────────────────────────────────

    def trace_with(self, tracer: Any) -> None:
        """Have spans made by a tracer; by none of None."""
        self.tracer = tracer
        self.call_observer.started = None if tracer is None else partial(self._trace, "start_call")

    def extract_span(self, headers: Mapping[str, str]) -> Any:
        """Return the span context of a message's headers; see `Demand.span`."""
        return self._trace("extract", headers)

    def _trace(self, method: str, *arguments: Any) -> Any:
        """Call the tracer, if there is one; what it raises is reported."""
        if self.tracer is None:
            return None
        call = getattr(self.tracer, method)
        with self._isolated(call):
            return call(*arguments)
        return None

    def _on_call_ended(self, stage: str, target: str, *call: Any) -> None:
        attempt, size, took, error, span = call
        outcome: CallOutcome = "ok" if error is None else _outcome(error)
        trace_id = "" if span is None else self._trace("end_call", span, target, error) or ""
        self.statistics.on_call(stage, target, outcome, took, trace_id)
        if self.calls.observers:
            self._notify(self.calls, CallEnded(stage, target, outcome, attempt, size, took, error, trace_id))

    # ── each second, while somebody listens ───────────────────────────────────────────────────────────────────────

    def _tick_soon(self) -> None:
        loop, runs = self.statistics.loop, self.states.latest not in ENDED
        if loop is not None and self._ticker is None and self.ticks.observers and runs and is_running(loop):
            self._ticker = loop.call_later(SECOND, self._tick, loop.time() + SECOND)

    def _tick(self, due: float) -> None:
        self._ticker = None
        if self.states.latest not in ENDED:
            tick = Tick(max(0.0, asyncio.get_running_loop().time() - due))
            self.statistics.on_signal(tick)
            self._notify(self.ticks, tick)
            self._tick_soon()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics as text, and its content type; see `Demand.metrics`."""
        if self._scraped is None:  # from now on the lag of the loop is measured
            self._scraped = self.ticks.subscribe(lambda _: None)
        return exposition(self.statistics.snapshot(), accept)


def _outcome(error: BaseException) -> CallOutcome:
    if isinstance(error, TimeoutError | asyncio.CancelledError):
        return "timeout" if isinstance(error, TimeoutError) else "cancelled"
    outcomes: dict[str, CallOutcome] = {"rate limited": "rate_limited", "permanent": "permanent"}
    return outcomes.get(verdict(error), "transient")
