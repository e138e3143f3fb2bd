"""Keeps a source subscribed: again after a failure, with growing waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from reactivex.disposable import SingleAssignmentDisposable
from tenacity import RetryCallState, Retrying

from rxcompact.operators.retry import Wait, full_jitter
from rxcompact.pipeline import Source
from rxcompact.run import Flow
from rxcompact.signals import SourceFailed


class Supervisor:
    """Feeds a source's events into a flow until the source completes, or this is paused.

    It subscribes and unsubscribes at once, so that a hot source loses nothing between one supervisor and the next, but
    for what another thread pushes in that instant.

    Args:
        source: Asked for its stream anew each time.
        flow: What to feed.
        wait: Between a failure and the next subscription.
        healthy_after: Seconds without failure after which failures are forgotten.
        announce: Told of failures.
        completed: Called when the source has completed.
    """

    def __init__(
        self,
        source: Source,
        flow: Flow,
        *,
        wait: Wait,
        healthy_after: float,
        announce: Callable[[SourceFailed], object],
        completed: Callable[[], object],
    ) -> None:
        self._source = source
        self._flow = flow
        self._wait = wait
        self._healthy_after = healthy_after
        self._announce = announce
        self._completed = completed
        self._loop = asyncio.get_running_loop()
        self._attempts = _attempts()
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
                self._ended(error)

        try:
            subscription.disposable = self._source.stream(self._flow).subscribe(
                self._flow.push, end, end, scheduler=self._flow.scheduler
            )
        except Exception as error:  # noqa: BLE001 - as above
            end(error)

    def _ended(self, error: Exception | None) -> None:
        if error is None:
            self._completed()
            return
        if self._loop.time() - self._since >= self._healthy_after:
            self._attempts = _attempts()
        attempts = self._attempts
        attempts.set_exception((type(error), error, error.__traceback__))
        wait = self._next_wait(attempts)
        if not self._retired:
            self._timer = self._loop.call_later(wait, self._subscribe)
        self._flow.record_error("source", error)
        self._announce(SourceFailed(error, attempts.attempt_number, wait))
        attempts.prepare_for_next_attempt()

    def _next_wait(self, attempts: RetryCallState) -> float:
        try:
            return max(0.0, self._wait(attempts))
        except Exception as error:  # noqa: BLE001 - the caller's function may raise anything, and supervision goes on
            self._loop.call_exception_handler({"message": "the wait of the source raised", "exception": error})
            return full_jitter(attempts)


def _attempts() -> RetryCallState:
    return RetryCallState(Retrying(), None, (), {})
