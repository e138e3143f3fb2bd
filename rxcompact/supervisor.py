"""Keeps a run subscribed to its source."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from reactivex.disposable import SingleAssignmentDisposable

from rxcompact.contracts import OneShotSource, Source
from rxcompact.errors import TransientError, isolated
from rxcompact.format import message_of
from rxcompact.operators.retry import backoff
from rxcompact.run import Run
from rxcompact.signals import SourceFailed

HEALTHY = 60.0
"""Seconds without failure after which a source's failures are forgotten."""


@dataclass(kw_only=True, eq=False, repr=False)
class Supervisor:
    """Keeps a run subscribed to its source: again after a failure, with growing waits, until the source completes.

    It subscribes and unsubscribes at once, so that a hot source loses nothing between two subscriptions, but for what
    another thread pushes in that instant. A source that cannot begin anew is given up at its first failure.
    """

    source: Source
    max_failures: int
    on_failure: Callable[[SourceFailed], object]
    on_ended: Callable[[Exception | None], object]

    def __post_init__(self) -> None:
        if isinstance(self.source, OneShotSource) and not self.source.restartable:
            self.max_failures = 1
        self._run: Run
        self._timer: asyncio.TimerHandle | None = None
        self._subscription = SingleAssignmentDisposable()

    def retire(self) -> None:
        """Subscribe no more, whatever becomes of the source: it is being closed."""
        self._retired = True
        if self._timer is not None:
            self._timer.cancel()

    def pause(self) -> None:
        """Unsubscribe; the source may be subscribed to again."""
        self.retire()
        self._unsubscribe()

    def _unsubscribe(self) -> None:
        with isolated(partial(self._run.report, "unsubscribing from the source failed")):
            self._subscription.dispose()

    def subscribe(self, run: Run) -> None:
        """Subscribe for a run, as to a source that has not failed yet."""
        self._run, self._failures, self._retired = run, 0, False
        self._subscribe()

    def _subscribe(self) -> None:
        self._since = self._run.loop.time()
        subscription = self._subscription = SingleAssignmentDisposable()

        def end(error: BaseException | None = None) -> None:
            if subscription is self._subscription and not subscription.is_disposed:
                self._unsubscribe()
                if error is None:
                    self.on_ended(None)
                else:
                    self._failed(error)

        with isolated(end):
            subscription.disposable = self.source.stream(self._run).subscribe(
                self._run.push, end, end, scheduler=self._run.scheduler
            )

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, Exception):  # `wait` raises it, where a CancelledError would mean another thing
            cause, error = error, TransientError(f"the source raised {type(error).__name__}({message_of(error)})")
            error.__cause__ = cause
        healthy = self._run.loop.time() - self._since >= HEALTHY
        self._failures = 1 if healthy else self._failures + 1
        given_up = self._failures >= self.max_failures
        wait = None if given_up else backoff(self._failures)
        if wait is not None and not self._retired:
            self._timer = self._run.loop.call_later(wait, self._subscribe)
        self._run.errors["source"] = error
        self.on_failure(SourceFailed(error, self._failures, wait))
        if given_up:
            self.on_ended(error)
