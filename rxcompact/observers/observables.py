"""What is to be seen of a running pipeline."""

from __future__ import annotations

from types import MethodType
from typing import Any

from reactivex import Observable
from reactivex.abc import DisposableBase
from reactivex.disposable import CompositeDisposable, Disposable

from rxcompact.events import DeadLetter, Delivered, Outcome, Window
from rxcompact.observers.attach import attach
from rxcompact.observers.hub import Hub
from rxcompact.signals import BatchPublished, DeadLettered, Signal, State, StateChanged, WindowClosed


class Observed:
    """Observables of what happens.

    Observers may come and go at any time. One that raises harms nobody else: it is reported by the signal
    `ObserverFailed` and, after some failures in a row, detached.
    """

    def __init__(self) -> None:
        self._attached: list[tuple[object, DisposableBase]] = []
        self._signals: Hub[Signal] = Hub(self._on_signal)
        self._windows: Hub[Window] = Hub(self._on_signal)
        self._outcomes: Hub[Outcome] = Hub(self._on_signal)
        self._dead_letters: Hub[DeadLetter] = Hub(self._on_signal)
        self._states: Hub[State] = Hub(self._on_signal, latest="idle")

    @property
    def windows(self) -> Observable[Window]:
        """Windows as they close, before they are enriched."""
        return self._windows

    @property
    def outcomes(self) -> Observable[Outcome]:
        """The one end of each distinct event."""
        return self._outcomes

    @property
    def dead_letters(self) -> Observable[DeadLetter]:
        """The outcomes other than published, and what was rejected at the door."""
        return self._dead_letters

    @property
    def signals(self) -> Observable[Signal]:
        """Records of what happened."""
        return self._signals

    @property
    def states(self) -> Observable[State]:
        """The state, the present one first."""
        return self._states

    def attach(self, observer: Any) -> DisposableBase:
        """Have an observer told of what happens; dispose of what is returned to detach it.

        One that is attached already is told once all the same, so that a notebook's cell may be run again; one that was
        detached for its failures is told again.

        Args:
            observer: A function of a signal; an RxPY Observer of signals; or an object with some of the methods
                ``on_signal``, ``on_window``, ``on_outcome``, ``on_dead_letter``, ``on_state``.

        Raises:
            TypeError: for one that is none of these.
        """
        for attached, subscription in self._attached:
            if attached is observer or (isinstance(observer, MethodType) and attached == observer):
                subscription.dispose()
                break
        subscription = CompositeDisposable(attach(self, observer))
        entry = (observer, subscription)
        self._attached.append(entry)
        subscription.add(Disposable(lambda: self._attached.remove(entry)))
        return subscription

    def _on_signal(self, what: Signal) -> None:
        self._signals.announce(what)

    def _on_state(self, old: State, new: State) -> None:
        self._states.announce(new)
        self._signals.announce(StateChanged(old, new))

    def _on_window(self, window: Window) -> None:
        if self._windows.observed:
            self._windows.announce(window)
        if self._signals.observed:
            self._signals.announce(
                WindowClosed(window.opened, window.closed, window.trigger, window.received, len(window))
            )

    def _on_delivered(self, delivered: Delivered) -> None:
        if self._outcomes.observed:
            for outcome in delivered.outcomes():
                self._outcomes.announce(outcome)
        self._signals.announce(BatchPublished(len(delivered.batch), delivered.attempts))

    def _on_dead_letter(self, letter: DeadLetter) -> None:
        self._dead_letters.announce(letter)
        self._outcomes.announce(letter)
        self._signals.announce(DeadLettered(letter))
