"""Keeps a source subscribed: again after a failure, with growing waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reactivex.disposable import SingleAssignmentDisposable
from tenacity import RetryCallState, Retrying

from rxcompact.contracts import OneShotSource, Source
from rxcompact.operators.retry import RetryPolicy, Wait, full_jitter
from rxcompact.run import Run
from rxcompact.signals import SourceFailed


class Supervisor:
    """Feeds a source's events into a run until the source completes, or this is paused.

    It subscribes and unsubscribes at once, so that a hot source loses nothing between one supervisor and the next, but
    for what another thread pushes in that instant.

    Args:
        source: Asked for its stream anew each time.
        run: What to feed.
        wait: Between a failure and the next subscription.
        healthy_after: Seconds without failure after which failures are forgotten.
        max_failures: Failures in a row after which it is given up; at the first, where it cannot begin anew.
        on_failure: Called with each failure.
        on_ended: Called when the source has completed, with None, or was given up, with its last error.
    """

    def __init__(
        self,
        source: Source,
        run: Run,
        *,
        wait: Wait,
        healthy_after: float,
        max_failures: int,
        on_failure: Callable[[SourceFailed], object],
        on_ended: Callable[[Exception | None], object],
    ) -> None:
        self._source = source
        self._run = run
        self._wait = RetryPolicy(wait=wait).wait
        self._healthy_after = healthy_after
        self._on_failure = on_failure
        self._max_failures = 1 if isinstance(source, OneShotSource) and not source.restartable else max_failures
        self._on_ended = on_ended
        self._loop = asyncio.get_running_loop()
        self._failures = _no_failures()
        self._timer: asyncio.TimerHandle | None = None
        self._retired = False
        self._subscribe()

    def retire(self) -> None:
        """Subscribe no more, whatever becomes of the source: it is being closed."""
        self._retired = True
        if self._timer is not None:
            self._timer.cancel()

    def pause(self) -> None:
        """Unsubscribe; the source may be subscribed to again, by another."""
        self.retire()
        self._unsubscribe()

    def _unsubscribe(self) -> None:
        try:
            self._subscription.dispose()
        except Exception as error:  # noqa: BLE001 - a source may fail in any way
            self._loop.call_exception_handler({"message": "unsubscribing from the source failed", "exception": error})

    def _subscribe(self) -> None:
        self._since = self._loop.time()
        subscription = self._subscription = SingleAssignmentDisposable()

        def end(error: Exception | None = None) -> None:
            if subscription is self._subscription and not subscription.is_disposed:
                self._unsubscribe()
                if error is None:
                    self._on_ended(None)
                else:
                    self._failed(error)

        try:
            subscription.disposable = self._source.stream(self._run).subscribe(
                self._run.push, end, end, scheduler=self._run.scheduler
            )
        except Exception as error:  # noqa: BLE001 - as above
            end(error)

    def _failed(self, error: Exception) -> None:
        if self._loop.time() - self._since >= self._healthy_after:
            self._failures = _no_failures()
        failures = self._failures
        failures.set_exception((type(error), error, error.__traceback__))
        number = failures.attempt_number
        given_up = number >= self._max_failures
        wait = None if given_up else self._next_wait(failures)
        if wait is not None and not self._retired:
            self._timer = self._loop.call_later(wait, self._subscribe)
        failures.prepare_for_next_attempt()
        self._run.record_error("source", error)
        self._on_failure(SourceFailed(error, number, wait))
        if given_up:
            self._on_ended(error)

    def _next_wait(self, failures: RetryCallState) -> float:
        try:
            return max(0.0, float(self._wait(failures)))
        except Exception as error:  # noqa: BLE001 - the caller's function may raise anything, and supervision goes on
            self._loop.call_exception_handler({"message": "the wait of the source raised", "exception": error})
            return full_jitter(failures)


def _no_failures() -> RetryCallState:
    return RetryCallState(Retrying(), None, (), {})
