"""Any function, coroutine function or Observer as a sink."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reactivex.abc import ObserverBase

from rxcompact.contracts import close
from rxcompact.events import Batch


class FunctionSink:
    """Gives each batch to a function, or each of its events to an observer.

    Args:
        function: Called with a `Batch`; what it returns, or what awaiting that gives, is as `publish` wants it. An
            Observer is told of each `Compacted`. The object of a method is closed with the pipeline, by its ``aclose``.
    """

    def __init__(self, function: Callable[[Batch], Any] | ObserverBase[Any]) -> None:
        self._function = function

    async def publish(self, batch: Batch) -> Any:
        """Hand over a batch; raises what the function raises."""
        if isinstance(self._function, ObserverBase):
            for compacted in batch:
                self._function.on_next(compacted)
            return None
        answer = self._function(batch)
        return await answer if hasattr(answer, "__await__") else answer

    async def aclose(self) -> None:
        """Close what the function belongs to."""
        await close(self._function)
