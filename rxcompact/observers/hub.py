"""An observable whose observers cannot harm it or each other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from rxcompact.signals import ObserverFailed

T = TypeVar("T")

PATIENCE = 3
"""Failures in a row after which an observer is detached."""


class Hub(Observable[T], Generic[T]):
    """Tells its observers, each on its own: one that raises is reported, and after a while detached.

    Observers may come and go at any time. It never completes: what it tells of may start again.

    Args:
        report: Told of an observer that raised.
        latest: Told to an observer when it subscribes, if given.
    """

    def __init__(self, report: Callable[[ObserverFailed], object], *, latest: T | None = None) -> None:
        super().__init__()
        self._report = report
        self._latest = latest
        self._observers: tuple[ObserverBase[T], ...] = ()  # replaced, never changed: told without a lock or a copy
        self._failures: dict[ObserverBase[T], int] = {}
        self._items: deque[T] = deque()
        self._telling = False

    @property
    def observed(self) -> bool:
        """Whether anyone is listening."""
        return bool(self._observers)

    def _subscribe_core(self, observer: ObserverBase[T], scheduler: SchedulerBase | None = None) -> DisposableBase:
        del scheduler  # observers are told where things happen
        self._observers = (*self._observers, observer)
        if self._latest is not None:
            self._tell(observer, self._latest)
        return Disposable(lambda: self._detach(observer))

    def _detach(self, observer: ObserverBase[T]) -> None:
        self._observers = tuple(each for each in self._observers if each is not observer)
        self._failures.pop(observer, None)

    def announce(self, item: T) -> None:
        """Tell everyone."""
        self._items.append(item)
        if self._telling:  # an observer's doing: first everyone is told of what is being told
            return
        self._telling = True
        try:
            while self._items:
                item = self._items.popleft()
                if self._latest is not None:
                    self._latest = item
                for observer in self._observers:
                    self._tell(observer, item)
        finally:
            self._telling = False

    def _tell(self, observer: ObserverBase[T], item: T) -> None:
        try:
            observer.on_next(item)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - an observer may raise anything
            failures = self._failures.get(observer, 0) + 1
            self._failures[observer] = failures
            detached = failures >= PATIENCE
            if detached:
                self._detach(observer)
            self._report(ObserverFailed(_name(observer), error, failures, detached))
        else:
            # to be told of its failures without a failure is no recovery
            if self._failures and not isinstance(item, ObserverFailed):
                self._failures.pop(observer, None)


def _name(observer: ObserverBase[T]) -> str:
    told = getattr(observer, "_on_next", observer)
    owner = getattr(told, "__self__", None)
    return getattr(told, "__qualname__", None) or type(told if owner is None else owner).__name__
