"""One run of a pipeline: its stages joined, counted and bounded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from reactivex import Observable
from reactivex import operators as ops
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable
from reactivex.subject import Subject

from rxcompact.acks import PendingAcks
from rxcompact.clock import LoopScheduler
from rxcompact.contracts import Holder, StageContext
from rxcompact.errors import AbandonedError, DecodeError
from rxcompact.events import Compacted, DeadLetter, Delivered, Window
from rxcompact.fields import decode
from rxcompact.operators import enrich, publish
from rxcompact.operators.windows import Windows
from rxcompact.pipeline import Pipeline
from rxcompact.render import StageNow
from rxcompact.signals import Account, RetryScheduled

COUNTED = ("received", "refused", "published", "expired", "rejected", "dropped", "abandoned")


class Flow:
    """The stages behind the source. They outlive it: a source may die, or be restarted, and nothing is lost.

    It is also the `Demand` that sources ask.

    Attributes:
        ended: Done when everything has met its end, or failed with what the stream failed with.
        refusals: What was rejected at the door of the chunk pushed last.
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
        self._on_delivered = on_delivered
        self._on_dead_letter = on_dead_letter
        self._on_retry = on_retry
        self.metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._counts = dict.fromkeys(COUNTED, 0)  # fields of the account
        self.refusals: list[DeadLetter] = []
        self._over = 0  # distinct events that have met their end
        self._pending_acks = PendingAcks()
        self._windows: list[Windows] = []  # of the reducer, where it is ours
        self._stages: list[Holder] = []
        self._aside: Counter[str] = Counter()  # dead letters by stage
        self._errors: dict[str, BaseException] = {}  # the last of each stage
        self._closed = 0  # distinct events of a reducer that is not
        self._waiters: list[asyncio.Future[None]] = []
        self._drain: Subject[None] = Subject()
        self._chunks: ObserverBase[list[Any]] | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        scheduler = LoopScheduler(self._loop)
        self.scheduler = scheduler

        def count(window: Window) -> None:
            self._closed += len(window)

        def tell(window: Window) -> None:
            self._pending_acks.add(window)
            on_window(window)

        windows = pipeline.reducer.reduce(Observable(self._intake), self._context()).pipe(
            ops.do_action(count, self._shut)
        )
        if getattr(pipeline.source, "raw", False):
            windows = windows.pipe(ops.map(self._decoded))
        windows = windows.pipe(ops.do_action(tell))
        self._subscription = self._publish(self._enrich(windows)).subscribe(
            self._delivered, self._fail, self._end, scheduler=scheduler
        )

    # ── the stages ────────────────────────────────────────────────────────────────────────────────────────────────

    def _intake(self, observer: ObserverBase[list[Any]], _: SchedulerBase | None = None) -> DisposableBase:
        self._chunks = observer
        return Disposable()

    def _context(self) -> StageContext:
        return StageContext(
            max_age=self._pipeline.max_age,
            retries=self._on_retry,
            max_keys=lambda: self.capacity() + sum(stage.held() for stage in self._windows),
            overflow=self._pipeline.overflow,
            flushes=self._drain,
            dead_letters=self._dead_letter,
            register=self._probe,
            scheduler=self.scheduler,
        )

    def _probe(self, stage: Holder) -> None:
        (self._windows if isinstance(stage, Windows) else self._stages).append(stage)  # type: ignore[arg-type]

    def _enrich(self, windows: Observable[Window]) -> Observable[Any]:
        if self._pipeline.enricher is None:
            return windows
        return windows.pipe(enrich(self._pipeline.enricher, **self._stage("enrich")))

    def _publish(self, events: Observable[Any]) -> Observable[Delivered]:
        return events.pipe(publish(self._pipeline.sink.publish, **self._stage("publish")))

    def _stage(self, stage: Any) -> dict[str, Any]:
        def before_sleep(state: Any) -> None:
            error = state.outcome.exception()
            self.record_error(stage, error)
            self._on_retry(RetryScheduled(stage, state.attempt_number, state.upcoming_sleep, error))

        return self._pipeline.options(stage) | {
            "before_sleep": before_sleep,
            "flushes": self._drain,
            "dead_letters": self._dead_letter,
            "probe": self._probe,
            "scheduler": self.scheduler,
        }

    def _decoded(self, window: Window) -> Window:
        """Decode the survivors."""
        kept: list[Compacted] = []
        for compacted in window:
            try:
                kept.append(compacted.having(decode(compacted.event)))
            except DecodeError as error:
                self._dead_letter(DeadLetter("rejected", compacted, "decode", error.reason, error))
        return window.having(kept)

    # ── accounting ────────────────────────────────────────────────────────────────────────────────────────────────

    def account(self) -> Account:
        """Return what came in and what became of it."""
        now, distinct = self._counts, self._distinct()
        return Account(
            **now,
            distinct=distinct,
            duplicates=now["received"] - distinct - now["refused"],
            in_flight=distinct - self._over,
        )

    def _distinct(self) -> int:
        return sum(windows.distinct for windows in self._windows) if self._windows else self._closed

    def held(self) -> dict[str, int]:
        """Return how many distinct events each stage holds."""
        return {type(stage).__name__: stage.held() for stage in (*self._windows, *self._stages)}

    def record_error(self, stage: str, error: BaseException) -> None:
        """Remember the last error of a stage."""
        self._errors[stage] = error

    def stages(self) -> dict[str, StageNow]:
        """Return what each stage holds, and what went wrong in it."""
        now = {name: StageNow(aside=self._aside[name], error=self._errors.get(name)) for name in ("source", "decode")}
        for holder in (*self._windows, *self._stages):
            name = getattr(holder, "stage", "compact")
            oldest = getattr(holder, "oldest", lambda: None)()  # a reducer of one's own need not know
            waiting = getattr(holder, "waiting", lambda: 0)()
            now[name] = StageNow(holder.held(), oldest, self._aside[name], self._errors.get(name), waiting)
        return now

    def _dead_letter(self, letter: DeadLetter) -> None:
        self._aside[letter.stage] += 1
        if letter.error is not None:
            self.record_error(letter.stage, letter.error)
        at_the_door = letter.stage == "compact" and letter.outcome == "rejected"
        if at_the_door:
            self.refusals.append(letter)
        self._counts["refused" if at_the_door else letter.outcome] += 1
        self._over += not at_the_door
        self._notify_capacity()
        self._on_dead_letter(letter)
        if letter.outcome != "abandoned" and isinstance(letter.event, Compacted):
            self._pending_acks.settle((letter.event,))

    def _delivered(self, delivered: Delivered) -> None:
        self._counts["published"] += len(delivered.batch)
        self._over += len(delivered.batch)
        self._notify_capacity()
        self._on_delivered(delivered)
        self._pending_acks.settle(delivered.batch)

    # ── demand ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def limit(self) -> int:
        """Distinct events that can be held at all."""
        return self._pipeline.max_in_flight

    def capacity(self) -> int:
        """Return how many events may be pushed now, whatever their keys."""
        return max(0, self.limit - self._distinct() + self._over) if self._chunks is not None else 0

    def accepts(self, chunk: Sequence[Any]) -> bool:
        """Tell whether there is room for a chunk; duplicates of what is held need none."""
        room = self.capacity()
        if len(chunk) <= room:
            return True
        return (
            self._chunks is not None
            and bool(self._windows)
            and all(windows.new_keys(chunk) <= room for windows in self._windows)
        )

    async def wait(self) -> int:
        """Wait until there is room; return how much."""
        while not (room := self.capacity()):
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
        return room

    def _notify_capacity(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # ── in, and the end ───────────────────────────────────────────────────────────────────────────────────────────

    def push(self, chunk: Sequence[Any]) -> None:
        """Take a chunk of events."""
        self._counts["received"] += len(chunk)
        if self.refusals:
            self.refusals = []
        if self._chunks is not None:
            self._chunks.on_next(chunk if isinstance(chunk, list) else list(chunk))
            return
        for event in chunk:
            error = AbandonedError("it came after the end of the stream")
            self._dead_letter(DeadLetter("rejected", event, "compact", error.reason, error))

    def _shut(self, _: Exception) -> None:
        """Refuse what comes while those inside meet their end: the stream has failed, nobody would look at it."""
        self._chunks = None

    def complete(self) -> None:
        """End when everything that is held has met its end, waits and all."""
        chunks, self._chunks = self._chunks, None
        if chunks is not None:
            chunks.on_completed()

    def drain(self) -> None:
        """Close the open windows, cut all waits short, and end."""
        self._drain.on_next(None)
        self.complete()

    def abandon(self) -> None:
        """End now; what is held is abandoned."""
        self._subscription.dispose()
        self._end()

    def _end(self) -> None:
        self._chunks = None
        if not self.ended.done():
            self.ended.set_result(None)

    def _fail(self, error: Exception) -> None:
        self.record_error("compact", error)
        self._chunks = None
        if not self.ended.done():
            self.ended.set_exception(error)
