"""publish: delivers distinct events to a sink in batches, again and again until they are too old."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reactivex import Observable
from reactivex.abc import ObserverBase, SchedulerBase

from rxcompact.clock import INFINITY, Seconds, count, seconds
from rxcompact.contracts import BoundedSink, Sink, TargetedSink
from rxcompact.errors import AnswerError, ArgumentError, contained
from rxcompact.events import Batch, Compacted, Delivered, Window
from rxcompact.format import short
from rxcompact.operators.jobs import Entry, Job, compacted_of, deadline_of
from rxcompact.operators.operator import PooledOperator, awaitable
from rxcompact.operators.retry import without_frames
from rxcompact.operators.stage import PooledStage
from rxcompact.operators.turns import size_of
from rxcompact.operators.verdict import is_about_events, is_transient, verdict

PAUSE = 10.0
"""Seconds."""
BATCH_BYTES = 2 << 20
"""Of the events of a batch, about; of what a sink is given at once there are copies."""
SHORTEST, LONGEST = 1.0, 30.0
"""Seconds, of the time limit of a delivery."""


@dataclass(kw_only=True, eq=False)
class Publish(PooledOperator):
    """Hand batches to a sink; emit each that it took.

    ::

        events     --a-b-c----d------------|
                   publish(sink, count=3, timespan=5)
        delivered  ------[a b c]---[d]-----|

    A batch that fails is tried again, less the events that expired meanwhile. While it waits, the next ones go on.

    Args:
        sink: Takes a `Batch`: a `Sink`, a coroutine function or a function; or an Observer of its events. One that
            blocks holds up all: `asyncio.to_thread` calls it elsewhere. It returns None, or an exception for each event
            that was not taken, as ``{position: exception}`` or in a list: only these are tried again, or have failed.
            Raising means that nothing was taken: the batch is halved, until the events that it fails for are alone,
            but not for connections, time limits and rate limits.
        max_age: As in `enrich`; a delivery under way goes on while any event of the batch is young enough.
        count: Deliver when so many events wait, or about 2 MiB of JSON lines.
        timespan: Deliver at the latest so many seconds after the first of them came (linger).
        max_concurrent: Deliveries at once.
        ordered: One delivery at a time: batches that do not fail arrive in order, but for the one that finds that a
            sink which was down answers again.
        rate: Deliveries a second at most, evenly spread.
        timeout: Seconds a delivery may take; by default a tenth of ``max_age``, but 1 to 30, so that a delivery that
            hangs is made again several times.
        wait, retry, before_sleep: As in `enrich`.
        flushes: On its first item the open batch is delivered and waits are cut short: one last attempt for each.
        dead_letters: An observer, or a function, of the events that expired or failed; by default they are logged.
        scheduler: A scheduler on asyncio's loop; by default the running loop's.

    Shape:
        `Observable[Window]` or `Observable[Compacted]` to `Observable[Delivered]`. Holds every event that is not
        settled.

    Cost:
        A call per batch; where one of n events fails for itself, 2 log2(n) more. An idempotency key is computed only
        for a sink that asks for it.

    Errors:
        None of an event's: it is a dead letter, "expired", "failed" or, when disposed, "abandoned". At least once: a
        sink that took a batch and could not confirm it is given it again, with the same idempotency key unless some of
        it expired meanwhile.

    Raises:
        ArgumentError: for an argument out of range.
        LoopError: to the observer, when subscribed outside asyncio.

    Source:
        https://www.rfc-editor.org/rfc/rfc9110#name-idempotent-methods
    """

    sink: Any = field(kw_only=False)
    count: int = 500
    timespan: Seconds = 1.0
    max_concurrent: int = 10
    ordered: bool = False
    timeout: Seconds | None = None
    stage: str = field(init=False, default="publish")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.deliver = delivery(self.sink)
        self.count = count("count", self.count)
        self.linger = seconds("timespan", self.timespan, zero=True)

    def __call__(self, source: Observable[Window] | Observable[Compacted]) -> Observable[Delivered]:
        return super().__call__(source)

    def _stage(self, observer: ObserverBase[Any], scheduler: SchedulerBase | None) -> PublishStage:
        options = self.having(max_concurrent=1 if self.ordered else self.max_concurrent)
        if self.timeout is None and self.max_age is not None:
            options.timeout = min(max(seconds("max_age", self.max_age, infinite=True) / 10, SHORTEST), LONGEST)
        return PublishStage(options, observer, scheduler)


publish = Publish


def delivery(sink: Any) -> Callable[[Batch], Awaitable[Any]]:
    """Return what hands a batch to a sink or a function, or its events to an observer.

    Raises:
        ArgumentError: for anything else.
    """
    if isinstance(sink, ObserverBase):  # a Subject has a method `publish` too, with another meaning

        def notify(batch: Batch) -> None:
            for compacted in batch:
                sink.on_next(compacted)

        return awaitable(notify)
    if isinstance(sink, Sink):
        return awaitable(sink.publish)
    if callable(sink):
        return awaitable(sink)
    raise ArgumentError("sink", sink, "a Sink, a function, a coroutine function or an Observer")


def _halves(start: int, end: int) -> list[tuple[int, int]]:
    middle = (start + end) // 2
    return [(middle, end), (start, middle)]


def _results(answer: Any, size: int) -> Sequence[Any]:
    """Return what became of each event by a sink's answer: an exception or None; nothing where none failed.

    Raises:
        AnswerError: for what is no answer.
    """
    if answer is None:
        return ()
    errors: Any = answer
    if isinstance(answer, Sequence) and not isinstance(answer, str | bytes) and len(answer) == size:
        # False and a class of exceptions are no success
        errors = {at: each for at, each in enumerate(answer) if isinstance(each, BaseException | type) or each is False}
    if isinstance(errors, Mapping) and all(
        type(at) is int and 0 <= at < size and isinstance(each, BaseException | None) for at, each in errors.items()
    ):
        errors = [errors.get(at) for at in range(size)] if errors else ()
        return [None if each is None else without_frames(each) for each in errors]
    raise AnswerError(
        f"a sink must return None, {{position: exception}} or a list of {size} with exceptions, got {short(answer)}"
    )


class PublishStage(PooledStage):
    """Gathers events into batches, and has each delivered."""

    def __init__(self, options: Publish, observer: ObserverBase[Any], scheduler: SchedulerBase | None) -> None:
        super().__init__(options, observer, scheduler)
        self._sink = options.deliver
        self._fruitless, self._again = False, -INFINITY  # of the last batch that was halved
        limit = options.sink.max_batch if isinstance(options.sink, BoundedSink) else None
        self._count = min(options.count, limit or options.count)
        self._linger = options.linger
        self._name = options.sink.target if isinstance(options.sink, TargetedSink) else ""
        self._open: Job | None = None

    def _handle(self, entries: list[Entry], now: float) -> None:
        start, count = 0, self._count
        if size := sum(map(size_of, map(compacted_of, entries))):
            count = max(1, min(count, BATCH_BYTES * len(entries) // size))
        while start < len(entries):
            job = self._open_batch()
            end = start + max(1, count - (0 if job is None else len(job.entries)))
            part, full = entries[start:end], end <= len(entries)
            if job is not None:
                self._add(job, part, self._wait(part, now))
            else:
                self._open = self._submit(part, None if full else self._wait(part, now))
            if full:
                self._close_batch()
            start = end

    def _target(self, entry: Entry) -> str:
        del entry
        return self._name

    def _wait(self, entries: list[Entry], now: float) -> float:
        # for no more than half of what is left to the oldest of these
        left = min(map(deadline_of, entries)) - now
        return float(max(0.0, min(self._linger, left / 2)))

    def _open_batch(self) -> Job | None:
        job = self._open
        return job if job is not None and job.waiting and job.count == 0 else None

    def _close_batch(self) -> None:
        if (job := self._open_batch()) is not None:
            self._enqueue(job)

    async def _call(self, entries: list[Entry]) -> Sequence[Any]:
        """Hand a batch to the sink. One that fails as a whole is halved until the events that it fails for are alone.

        The others are delivered in the same attempt. It is not halved for what is no event's fault (see
        `is_about_events`), nor while the sink is down. For an error that may pass, or where the last batch had no good
        half, it gives up after 2 log2(n) failures in a row, and in the first case tries no sooner than ten seconds
        later again.
        """
        events = Batch(map(compacted_of, entries))
        try:
            return await self._deliver(events)
        except Exception as error:
            passing = is_transient(error)
            if len(events) < 2 or not is_about_events(error) or self.failing():  # noqa: PLR2004
                raise
            if passing and self._loop.time() < self._again:
                raise
            limit = 2 * len(events).bit_length() if passing or self._fruitless else len(events) * 2
            return await self._halve(events, error, limit)

    async def _deliver(self, batch: Batch) -> Sequence[Any]:
        results = _results(await self._sink(batch), len(batch))
        self._fruitless, self._again = False, -INFINITY
        return results

    async def _halve(self, events: Sequence[Compacted], error: BaseException, limit: int) -> Sequence[Any]:
        results: list[Any] = [without_frames(error)] * len(events)
        self._fruitless, self._again = True, self._loop.time() + PAUSE
        failures = 0
        parts = _halves(0, len(events))
        while parts and failures < limit and not self.failing():
            start, end = parts.pop()
            try:
                results[start:end] = await self._deliver(Batch(events[start:end])) or [None] * (end - start)
                failures = 0
            except BaseException as failed:  # noqa: BLE001 - the sink may raise anything
                contained(failed)
                failures += 1  # of this part; others were taken
                parts += _halves(start, end) if end - start > 1 and is_about_events(failed) else []
                over = isinstance(failed, asyncio.CancelledError) or verdict(failed) == "rate limited"
                for first, last in ((start, end), *(parts if over else ())):
                    results[first:last] = [without_frames(failed)] * (last - first)
                if over:
                    break
        return results

    def _succeeded(self, job: Job, entries: list[Entry], results: Sequence[Any]) -> None:
        del results
        batch = Batch(map(compacted_of, entries))
        at, born = self._clock.wall(), batch[0].first_seen
        if self._clock.wall.past and born is not None:  # by the clock that showed the birth, so that ages are right
            at = born + self._age(batch[0])
        self._emit(Delivered(batch, job.count, at), len(batch))

    def _finish(self, completion: Callable[[], None]) -> None:
        self._close_batch()
        super()._finish(completion)
