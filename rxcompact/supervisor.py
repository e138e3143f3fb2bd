"""Keeps a source subscribed: again after a failure, with growing waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from reactivex.abc import DisposableBase
from tenacity import RetryCallState, Retrying

from rxcompact.deadline import Deadline
from rxcompact.flow import Flow
from rxcompact.operators.retry import Wait, full_jitter
from rxcompact.pipeline import Source
from rxcompact.signals import SourceFailed

CLOSING = 0.8
"""Share of its time that a source has for closing; the rest is for unsubscribing."""


class Supervisor:
    """Feeds a source's events into a flow until the source completes, or this is stopped.

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
        self._subscribed = asyncio.Event()
        self._task = asyncio.create_task(self._keep_alive(), name="rxcompact supervisor")
        self._task.add_done_callback(lambda _: self._subscribed.set())

    async def subscribed(self) -> None:
        """Wait until the source is subscribed to for the first time, so that what it emits from then on is taken."""
        await self._subscribed.wait()

    async def stop(self, deadline: Deadline, share: float) -> None:
        """Close the source, and unsubscribe, in this share of the time."""
        await deadline.within(close(self._source), share * CLOSING)
        await self.pause(deadline, share)

    async def pause(self, deadline: Deadline, share: float) -> None:
        """Unsubscribe, and no more: the source may be subscribed to again."""
        self._task.cancel()
        await deadline.wait(self._task, share)

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        attempts = _attempts()
        while True:
            since = loop.time()
            error = await self._until_it_ends()
            if error is None:
                self._completed()
                return
            if loop.time() - since >= self._healthy_after:
                attempts = _attempts()
            attempts.set_exception((type(error), error, error.__traceback__))
            wait = self._next_wait(attempts)
            self._announce(SourceFailed(error, attempts.attempt_number, wait))
            attempts.prepare_for_next_attempt()
            await asyncio.sleep(wait)

    def _next_wait(self, attempts: RetryCallState) -> float:
        try:
            return self._wait(attempts)
        except Exception as error:  # noqa: BLE001 - the caller's function may raise anything, and supervision goes on
            context = {"message": "the wait of the source raised", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
            return full_jitter(attempts)

    async def _until_it_ends(self) -> Exception | None:
        """Return what the source died of, or None when it completed."""
        ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def end(error: Exception | None = None) -> None:
            if not ended.done():
                ended.set_result(error)

        subscription: DisposableBase | None = None
        try:
            subscription = self._source.stream(self._flow).subscribe(self._flow.push, end, end)
            self._subscribed.set()
            return await ended
        except Exception as error:  # noqa: BLE001 - a source may fail in any way
            return error
        finally:
            self._subscribed.set()
            if subscription is not None:
                subscription.dispose()


def _attempts() -> RetryCallState:
    return RetryCallState(Retrying(), None, (), {})


async def close(part: Any) -> None:
    """Close a source, an enricher or a sink, if it can be closed; of a method the object it belongs to."""
    aclose: Callable[[], Awaitable[object]] | None = getattr(getattr(part, "__self__", part), "aclose", None)
    if aclose is not None:
        await aclose()
