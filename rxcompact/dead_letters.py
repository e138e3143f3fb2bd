"""Dead letters delivered to a sink."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

from reactivex.abc import SchedulerBase
from reactivex.subject import Subject

from rxcompact.contracts import Holder
from rxcompact.errors import chain_of
from rxcompact.events import Compacted, DeadLetter, Delivered
from rxcompact.format import error_text
from rxcompact.operators.publish import Publish
from rxcompact.operators.retry import OncePerMinute
from rxcompact.signals import RetryScheduled, StageSignal


class DeadLetterRoute:
    """Publishes dead letters in batches, with retries for as long as the run lasts.

    The sink is given `Compacted` events whose ``event`` is the `DeadLetter`; what writes JSON writes its `to_json`.

    Args:
        sink: Where dead letters go.
        scheduler: Of the loop.
        register: Called with the stage.

    Attributes:
        lost: How many dead letters could not be delivered.
        size: Bytes of those that wait.
        ended: Done when `complete` was called and every dead letter was delivered or given up.
    """

    def __init__(
        self, sink: Any, scheduler: SchedulerBase, register: Callable[[Holder], object] = lambda _: None
    ) -> None:
        self._flushes: Subject[None] = Subject()
        self._letters: Subject[Compacted] = Subject()
        self.complete = self._letters.on_completed
        self._callbacks: dict[int, Callable[[], object]] = {}  # by the identity of what is on its way
        self.lost = self.size = 0
        self._log = OncePerMinute("ERROR", "a dead letter ({} at {}, {}) could not be delivered: {text}")
        self._log_retry = OncePerMinute("WARNING", "dead letters cannot be delivered, and are tried again: {text}")
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        publish = Publish(sink, flushes=self._flushes, dead_letters=self._on_lost, scheduler=scheduler)
        publish = publish.having(stage="dead_letters", max_age=inf, register=register, signals=self._on_signal)
        self._subscription = publish(self._letters).subscribe(self._on_delivered, on_completed=self._on_completed)

    def __len__(self) -> int:
        """Return how many dead letters wait to be delivered."""
        return len(self._callbacks)

    def push(self, letter: DeadLetter, on_delivered: Callable[[], object]) -> None:
        """Deliver a dead letter; ``on_delivered`` is called when the sink took it, and never when it could not."""
        event = letter.event if isinstance(letter.event, Compacted) else Compacted(None, None, 1)
        self._callbacks[id(letter)] = on_delivered
        self.size += letter.size
        self._letters.on_next(event.replace(event=letter, window=None))

    async def finish(self) -> None:
        """Deliver those that wait, at once; what cannot be delivered now is lost, and logged."""
        self._flushes.on_next(None)
        self.complete()
        try:
            await asyncio.shield(self.ended)
        finally:
            self._subscription.dispose()
            self._on_completed()

    def _on_delivered(self, delivered: Delivered) -> None:
        for compacted in delivered.batch:
            self.size -= compacted.event.size
            self._callbacks.pop(id(compacted.event))()

    def _on_signal(self, signal: StageSignal) -> None:
        if isinstance(signal, RetryScheduled):
            self._log_retry(text=f"{len(self)} wait; {error_text(signal.error)}")

    def _on_lost(self, letter: DeadLetter) -> None:
        lost: DeadLetter = letter.event.event
        self._callbacks.pop(id(lost), None)
        self.size -= lost.size
        self.lost += 1
        self._log(lost.outcome, lost.stage, lost.reason, text="; ".join(map(error_text, chain_of(letter.error))))

    def _on_completed(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
