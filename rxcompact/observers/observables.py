"""The observables of a run, and how observers are attached to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import MethodType
from typing import Any, Generic, TypeVar

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import CompositeDisposable, Disposable

from rxcompact.errors import contained
from rxcompact.events import DeadLetter, Delivered, Outcome, Window
from rxcompact.observers.statistics import Statistics
from rxcompact.signals import BatchPublished, DeadLettered, ObserverFailed, Signal, State, StateChanged, WindowClosed

T = TypeVar("T")

MAX_FAILURES = 3  # failures in a row after which an observer is detached
METHODS = {
    "on_signal": "signals",
    "on_window": "windows",
    "on_batch": "batches",
    "on_outcome": "outcomes",
    "on_dead_letter": "dead_letters",
    "on_state": "states",
}
"""The methods that an observer may have, and the observable that each subscribes to."""


class Hub(Observable[T], Generic[T]):
    """An observable that isolates its observers: one that raises is reported and, after repeated failures, detached.

    Observers may come and go at any time. It never completes: a run may start again.

    Args:
        report: Called when an observer raised.
        latest: An observer that subscribes gets the latest item at once; this is the first.
    """

    def __init__(self, report: Callable[[ObserverFailed], object], *, latest: T | None = None) -> None:
        super().__init__()
        self._report = report
        self._latest = latest
        self._observers: tuple[ObserverBase[T], ...] = ()  # replaced, never changed: read without a lock or a copy
        self._failures: dict[ObserverBase[T], int] = {}
        self._items: deque[T] = deque()
        self._notifying = False

    @property
    def observed(self) -> bool:
        """Whether it has observers."""
        return bool(self._observers)

    def _subscribe_core(self, observer: ObserverBase[T], scheduler: SchedulerBase | None = None) -> DisposableBase:
        del scheduler  # observers are called where things happen
        self._observers = (*self._observers, observer)
        if self._latest is not None:
            self._call(observer, self._latest)
        return Disposable(lambda: self._detach(observer))

    def _detach(self, observer: ObserverBase[T]) -> None:
        self._observers = tuple(each for each in self._observers if each is not observer)
        self._failures.pop(observer, None)

    def notify(self, item: T) -> None:
        """Pass an item to all observers."""
        self._items.append(item)
        if self._notifying:  # an observer caused it: all observers get the present item first
            return
        self._notifying = True
        try:
            while self._items:
                item = self._items.popleft()
                if self._latest is not None:
                    self._latest = item
                for observer in self._observers:
                    self._call(observer, item)
        finally:
            self._notifying = False

    def _call(self, observer: ObserverBase[T], item: T) -> None:
        try:
            observer.on_next(item)
        except BaseException as raised:  # noqa: BLE001 - an observer may raise anything
            error = contained(raised)
            failures = self._failures[observer] = self._failures.get(observer, 0) + 1
            detached = failures >= MAX_FAILURES
            if detached:
                self._detach(observer)
            function = getattr(observer, "_on_next", observer)
            owner = getattr(function, "__self__", function)
            name = getattr(function, "__qualname__", None) or type(owner).__name__
            self._report(ObserverFailed(name, error, failures, detached))
        else:
            # to take the report of its own failures is no recovery
            if self._failures and not isinstance(item, ObserverFailed):
                self._failures.pop(observer, None)


class Observables:
    """Observables of what happens in a run, and its statistics.

    Observers may come and go at any time. One that raises harms no other: it is reported by the signal
    `ObserverFailed` and, after repeated failures, detached.

    Attributes:
        statistics: Counts what happens; ``statistics.snapshot()`` gives the numbers, and shows itself.
        windows: Windows as they close, before they are enriched.
        batches: Batches as they are published.
        outcomes: The outcome of each distinct event, and what was rejected at intake.
        dead_letters: The outcomes other than published, and what was rejected at intake.
        signals: Records of what happened.
        states: The state, the present one first.
    """

    def __init__(self, statistics: Statistics) -> None:
        self.statistics = statistics
        self._attached: list[tuple[object, DisposableBase]] = []
        self.signals: Hub[Signal] = Hub(self._on_signal)
        self.windows: Hub[Window] = Hub(self._on_signal)
        self.batches: Hub[Delivered] = Hub(self._on_signal)
        self.outcomes: Hub[Outcome] = Hub(self._on_signal)
        self.dead_letters: Hub[DeadLetter] = Hub(self._on_signal)
        self.states: Hub[State] = Hub(self._on_signal, latest="idle")

    def attach(self, observer: Any) -> DisposableBase:
        """Attach an observer; dispose of what is returned to detach it.

        One that is attached already stays attached once, so that a notebook's cell may be run again; one that was
        detached for its failures is attached again.

        Args:
            observer: A function of a signal; an RxPY Observer of signals; or an object with some of the methods
                ``on_signal``, ``on_window``, ``on_batch``, ``on_outcome``, ``on_dead_letter``, ``on_state``. Its method
                ``on_attach``, if it has one, is called first, with this.

        Raises:
            TypeError: for anything else.
        """
        methods = {name: method for name in METHODS if callable(method := getattr(observer, name, None))}
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
        subscriptions = [getattr(self, METHODS[name]).subscribe(method) for name, method in methods.items()]
        entry = (observer, CompositeDisposable(subscriptions))
        self._attached.append(entry)
        entry[1].add(Disposable(lambda: self._attached.remove(entry)))
        return entry[1]

    def _on_signal(self, signal: Signal) -> None:
        self.statistics.on_signal(signal)
        self.signals.notify(signal)

    def _on_state(self, old: State, new: State) -> None:
        self.statistics.on_state(old, new)
        self.states.notify(new)
        self.signals.notify(StateChanged(old, new))

    def _on_window(self, window: Window) -> None:
        self.statistics.on_window(window)
        self.windows.notify(window)
        opened, closed, trigger, received = window.opened, window.closed, window.trigger, window.received
        self.signals.notify(WindowClosed(opened, closed, trigger, received, len(window)))

    def _on_delivered(self, delivered: Delivered) -> None:
        self.statistics.on_batch(delivered)
        self.batches.notify(delivered)
        if self.outcomes.observed:
            for outcome in delivered.outcomes():
                self.outcomes.notify(outcome)
        self.signals.notify(BatchPublished(len(delivered.batch), delivered.attempts))

    def _on_dead_letter(self, letter: DeadLetter) -> None:
        self.statistics.on_dead_letter(letter)
        self.dead_letters.notify(letter)
        self.outcomes.notify(letter)
        self.signals.notify(DeadLettered(letter))
