"""One run of a pipeline: its stages joined, counted and bounded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from loguru import logger
from msgspec.structs import replace
from reactivex import Observable
from reactivex import operators as ops
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable
from reactivex.subject import Subject

from rxcompact.acks import Ack, Chunk, PendingAcks
from rxcompact.clock import LoopScheduler
from rxcompact.contracts import Holder, NamedSource, StageContext
from rxcompact.dead_letters import DeadLetterRoute
from rxcompact.errors import AbandonedError, DecodeError
from rxcompact.events import Compacted, DeadLetter, Delivered, Window
from rxcompact.fields import decode
from rxcompact.operators.windows import Windows
from rxcompact.pipeline import Pipeline
from rxcompact.signals import Account, RetryScheduled, StageNow

COUNTED = ("received", "rejected", "published", "expired", "failed", "dropped", "abandoned")


class Run:
    """The stages behind the source. They outlive it: a source may die, or be restarted, and nothing is lost.

    It is also the `Demand` that sources ask.

    Args:
        pipeline: What to run.
        on_window: Called with each window that closed.
        on_delivered: Called with each batch that a sink took.
        on_dead_letter: Called with each dead letter.
        on_retry: Called with each call that failed and will be made again.
        metrics: Gives the metrics, and their content type.

    Attributes:
        loop: That it runs on.
        ended: Done when everything is settled, or failed with what the stream failed with.
        scheduler: Of the loop that it runs on; for the source too.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        on_window: Callable[[Window], object],
        on_delivered: Callable[[Delivered], object],
        on_dead_letter: Callable[[DeadLetter], object],
        on_retry: Callable[[RetryScheduled], object],
        metrics: Callable[[], tuple[bytes, str]],
    ) -> None:
        self._pipeline = pipeline
        self._notify_window = on_window
        self._notify_delivered = on_delivered
        self._notify_dead_letter = on_dead_letter
        self._notify_retry = on_retry
        self.metrics = metrics
        self.loop = asyncio.get_running_loop()
        self._counts = dict.fromkeys(COUNTED, 0)  # fields of the account
        self._settled = 0  # distinct events
        self._distinct_of_others = 0  # distinct events of a reducer that is not ours
        self._acks = PendingAcks()
        self._windows: list[Windows] = []  # of the reducer, where it is ours
        self._holders: dict[str, Holder] = {}  # by stage
        self._dead_letters: Counter[str] = Counter()  # by stage
        self._errors: dict[str, BaseException] = {}  # the last of each stage
        self._chunk: Chunk | None = None  # that is being pushed, where its source asks what was rejected
        self._source_name = pipeline.source.name if isinstance(pipeline.source, NamedSource) else None
        self._waiters: list[asyncio.Future[None]] = []
        self._drain: Subject[None] = Subject()
        self._flush: Subject[None] = Subject()  # of the dead letters, when all else is settled
        self._intake: ObserverBase[list[Any]] | None = None
        self.ended: asyncio.Future[None] = self.loop.create_future()
        self.scheduler = LoopScheduler(self.loop)
        self._route = self._dead_letter_route()
        self._subscription = self._stages().subscribe(
            self._on_delivered, self._fail, self._end, scheduler=self.scheduler
        )

    # ── the stages ────────────────────────────────────────────────────────────────────────────────────────────────

    def _stages(self) -> Observable[Delivered]:
        context = StageContext(
            max_age=self._pipeline.max_age,
            max_keys=lambda: self.capacity() + sum(windows.held() for windows in self._windows),
            overflow=self._pipeline.overflow,
            flushes=self._drain,
            dead_letters=self._on_dead_letter,
            retries=self._on_retry,
            register=self._register,
            scheduler=self.scheduler,
        )
        stream: Observable[Any] = self._pipeline.reducer.reduce(Observable(self._subscribe_intake), context)
        stream = stream.pipe(ops.do_action(self._count, self._reject_from_now_on))
        if self._pipeline.raw:
            stream = stream.pipe(ops.map(self._decode))
        stream = stream.pipe(ops.do_action(self._on_window))
        for operator in self._pipeline.calls:
            bound: Any = operator.bind(context)
            stream = bound(stream)
        return stream

    def _dead_letter_route(self) -> DeadLetterRoute | None:
        sink = self._pipeline.dead_letters
        if sink is None:
            return None
        return DeadLetterRoute(sink, flushes=self._flush, register=self._register, scheduler=self.scheduler)

    def _subscribe_intake(self, observer: ObserverBase[list[Any]], _: SchedulerBase | None = None) -> DisposableBase:
        self._intake = observer
        return Disposable()

    def _register(self, holder: Holder) -> None:
        self._holders[holder.stage] = holder
        if isinstance(holder, Windows):
            self._windows.append(holder)

    def _count(self, window: Window) -> None:
        self._distinct_of_others += len(window)

    def _decode(self, window: Window) -> Window:
        """Decode the survivors; one that is not JSON has failed, with its duplicates counted."""
        decoded: list[Compacted] = []
        for compacted in window:
            try:
                decoded.append(compacted.having(decode(compacted.event)))
            except DecodeError as error:
                self._on_dead_letter(DeadLetter("failed", compacted, "decode", error.reason, error))
        return window.having(decoded)

    # ── accounting ────────────────────────────────────────────────────────────────────────────────────────────────

    def account(self) -> Account:
        """Return what came in and what became of it."""
        now, distinct = self._counts, self._distinct()
        return Account(
            **now,
            distinct=distinct,
            duplicates=now["received"] - distinct - now["rejected"],
            in_flight=distinct - self._settled,
        )

    def _distinct(self) -> int:
        return sum(windows.distinct for windows in self._windows) if self._windows else self._distinct_of_others

    def record_error(self, stage: str, error: BaseException) -> None:
        """Remember the last error of a stage."""
        self._errors[stage] = error

    def stages(self) -> dict[str, StageNow]:
        """Return what each stage holds, and what went wrong in it; looking changes nothing."""
        return {name: self._stage_now(name, self._holders.get(name)) for name in self._pipeline.stages}

    def _stage_now(self, name: str, holder: Holder | None) -> StageNow:
        dead_letters, error = self._dead_letters[name], self._errors.get(name)
        if holder is None:
            return StageNow(dead_letters=dead_letters, error=error)
        return StageNow(holder.held(), holder.oldest(), dead_letters, error, holder.waiting())

    @property
    def unknown_fields(self) -> tuple[str, ...]:
        """The fields of keys and times that no event had, so far."""
        return tuple(name for windows in self._windows for name in windows.mapper.unknown)

    def _report_unknown_fields(self) -> None:
        for windows in self._windows:
            for text in windows.mapper.new_unknown():
                logger.warning("{}", text)

    def _on_window(self, window: Window) -> None:
        self._report_unknown_fields()
        self._acks.add(window)
        self._notify_window(window)

    def _on_retry(self, retry: RetryScheduled) -> None:
        self.record_error(retry.stage, retry.error)
        self._notify_retry(retry)

    def _on_dead_letter(self, letter: DeadLetter) -> None:
        letter = replace(letter, origin=self._origin(letter))
        self._dead_letters[letter.stage] += 1
        if letter.error is not None:
            self.record_error(letter.stage, letter.error)
        self._counts[letter.outcome] += 1
        if letter.outcome != "rejected":
            self._settled += 1
        elif self._chunk is not None:
            self._chunk.rejected.append(letter)
        self._notify_capacity()
        self._notify_dead_letter(letter)
        if self._route is None:
            self._settle(letter)
            return
        ack = self._chunk.ack if self._chunk is not None and letter.outcome == "rejected" else None
        if ack is not None:
            ack.retain()
        self._route.push(letter, partial(self._on_letter_delivered, letter, ack))

    def _on_letter_delivered(self, letter: DeadLetter, ack: Ack | None) -> None:
        self._notify_capacity()
        self._settle(letter, ack)

    def _settle(self, letter: DeadLetter, ack: Ack | None = None) -> None:
        """Acknowledge what waits for a dead letter; what was abandoned is returned to the broker."""
        if ack is not None:
            ack.release()
        if letter.outcome != "abandoned" and isinstance(letter.event, Compacted):
            self._acks.settle((letter.event,))

    def _origin(self, letter: DeadLetter) -> str | None:
        origin = self._chunk.origin if self._chunk is not None and letter.outcome == "rejected" else None
        if callable(origin):
            origin = origin(letter.event)
        return origin or self._source_name

    def _on_delivered(self, delivered: Delivered) -> None:
        self._counts["published"] += len(delivered.batch)
        self._settled += len(delivered.batch)
        self._notify_capacity()
        self._notify_delivered(delivered)
        self._acks.settle(delivered.batch)

    # ── demand ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def limit(self) -> int:
        """Distinct events that can be held at all."""
        return self._pipeline.max_in_flight

    def capacity(self) -> int:
        """Return how many events may be pushed now, whatever their keys."""
        if self._intake is None:
            return 0
        waiting = 0 if self._route is None else len(self._route)
        return max(0, self.limit - self._distinct() + self._settled - waiting)

    def accepts(self, chunk: Sequence[Any]) -> bool:
        """Return whether there is capacity for a chunk; duplicates of what is held need none."""
        capacity = self.capacity()
        if len(chunk) <= capacity:
            return True
        return (
            self._intake is not None
            and bool(self._windows)
            and all(windows.new_keys(chunk) <= capacity for windows in self._windows)
        )

    async def wait(self) -> int:
        """Wait until there is capacity; return how much."""
        while not (capacity := self.capacity()):
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return capacity

    def _notify_capacity(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # ── in, and the end ───────────────────────────────────────────────────────────────────────────────────────────

    def push(self, chunk: Sequence[Any]) -> None:
        """Take a chunk of events."""
        self._counts["received"] += len(chunk)
        self._chunk = chunk if isinstance(chunk, Chunk) else None
        try:
            if self._intake is not None:
                self._intake.on_next(chunk if isinstance(chunk, list) else list(chunk))
                return
            for event in chunk:
                error = AbandonedError("it arrived after the end of the stream")
                self._on_dead_letter(DeadLetter("rejected", event, "compact", error.reason, error))
        finally:
            self._chunk = None

    def _reject_from_now_on(self, _: Exception) -> None:
        """Reject what arrives while the last events are settled: the stream has failed."""
        self._intake = None

    def complete(self) -> None:
        """End when everything that is held is settled, waits and all."""
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.on_completed()

    def drain(self) -> None:
        """Close the open windows, cut all waits short, and end."""
        self._drain.on_next(None)
        self.complete()

    def abandon(self) -> None:
        """End now; what is held is abandoned."""
        self._subscription.dispose()
        self._end()

    async def deliver_dead_letters(self) -> None:
        """Deliver the dead letters that wait, at once; what cannot be delivered now is lost, and logged."""
        if self._route is not None:
            self._flush.on_next(None)
            self._route.complete()
            try:
                await asyncio.shield(self._route.ended)
            finally:
                self._route.abandon()

    def _end(self) -> None:
        self._report_unknown_fields()
        self._intake = None
        if not self.ended.done():
            self.ended.set_result(None)

    def _fail(self, error: Exception) -> None:
        self.record_error("compact", error)
        self._intake = None
        if not self.ended.done():
            self.ended.set_exception(error)
