"""An instant by which several steps are over, and which may be shortened."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


class Deadline:
    """A span of time that several steps share, and that may be shortened.

    Args:
        seconds: From now.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._at = self._began + seconds
        self._shortened: asyncio.Future[None] = self._loop.create_future()

    def shorten(self, seconds: float) -> None:
        """Have it be so many seconds from now, unless it is sooner already."""
        at = self._loop.time() + seconds
        if at < self._at:
            self._at = at
            self._shortened.set_result(None)
            self._shortened = self._loop.create_future()

    def left(self) -> float:
        """Return how many seconds are left."""
        return self._at - self._loop.time()

    async def wait(self, future: asyncio.Future[Any], share: float = 1.0) -> bool:
        """Wait until a future is done, or this share of the time is over; return whether it is done."""
        while not future.done():
            left = self._began + (self._at - self._began) * share - self._loop.time()
            if left <= 0:
                break
            await asyncio.wait({future, self._shortened}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return future.done()

    async def limit(self, work: Awaitable[Any], share: float = 1.0) -> None:
        """Have something done in this share of the time; what ignores its cancellation then is left behind."""
        task: asyncio.Future[Any] = asyncio.ensure_future(work)
        await asyncio.sleep(0)  # even with no time left it gets to begin
        if not await self.wait(task, share):
            task.cancel()
        elif not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "closing failed", "exception": error})
