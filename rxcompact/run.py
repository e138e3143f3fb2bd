"""One run of a pipeline: its stages joined, counted and bounded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from loguru import logger
from msgspec.structs import replace
from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase
from reactivex.disposable import Disposable
from reactivex.subject import Subject

from rxcompact.acks import Ack, Chunk, PendingAcks, release, retain
from rxcompact.clock import LoopScheduler
from rxcompact.contracts import Demand, Holder, NamedSource, Reducer, StageContext
from rxcompact.dead_letters import DeadLetterRoute
from rxcompact.errors import AbandonedError, NoRoomError, chain_of, isolated
from rxcompact.events import Compacted, DeadLetter, Delivered, Window
from rxcompact.observers.observables import Observables
from rxcompact.operators.retry import without_frames
from rxcompact.operators.stage import PooledStage
from rxcompact.operators.turns import FAST, Turns, decoded, in_parts, size_of, step
from rxcompact.operators.windows import Windows
from rxcompact.pipeline import EVENTS_SHARE, Pipeline
from rxcompact.signals import Account, RetryScheduled, StageNow, StageSignal


class Run(Demand):
    """The stages behind the source, joined. They outlive it: it may die, or be restarted, and nothing is lost."""

    def __init__(self, pipeline: Pipeline, observables: Observables) -> None:
        self._pipeline, self._observables = pipeline, observables
        self._raw, self.limit, self.max_bytes = pipeline.raw, pipeline.max_in_flight, pipeline.max_bytes
        self._bytes = self.receiving = 0  # of events behind the reducer, and of bodies
        self.received_bytes = 0
        """Of JSON lines."""
        self.failures: Counter[str] = Counter()
        """How often a caller's code raised, where it is no event's fault."""
        self.loop = asyncio.get_running_loop()
        self.scheduler = LoopScheduler(self.loop)
        self.ended: asyncio.Future[None] = self.loop.create_future()  # with what the stream failed with
        self._counts: Counter[str] = Counter()  # fields of the account
        self._distinct_of_others = 0  # distinct events of a reducer that is not ours
        self._acks = PendingAcks()
        self._turns = Turns(self.loop)
        self._named = pipeline.source if isinstance(pipeline.source, NamedSource) else None
        self._windows: list[Windows] = []  # of the reducer, where it is ours
        self._holders: dict[str, Holder] = {}  # by stage
        self._dead_letters: Counter[str] = Counter()  # by stage
        self.errors: dict[str, BaseException] = {}  # the last of each stage
        self._chunk: Chunk | None = None  # that is being pushed, where its source asks what was rejected
        self._room = asyncio.Event()
        self._drain: Subject[None] = Subject()
        self._intake: ObserverBase[list[Any]] | None = None
        self._route: DeadLetterRoute | None = None
        if pipeline.dead_letters is not None:
            self._route = DeadLetterRoute(pipeline.dead_letters, self.scheduler, self._register)
        self._subscription = self._stages().subscribe(
            self._on_delivered, self._end, self._end, scheduler=self.scheduler
        )

    # ── the stages ────────────────────────────────────────────────────────────────────────────────────────────────

    def _stages(self) -> Observable[Delivered]:
        context = StageContext(
            max_age=self._pipeline.max_age,
            max_keys=self._max_keys,
            max_quiet=lambda: self.limit,
            overflow=self._pipeline.overflow,
            raw=self._raw,
            flushes=self._drain,
            dead_letters=self._on_dead_letter,
            signals=self._on_signal,
            calls=self._observables.call_observer,
            register=self._register,
            acks=self._acks,
            scheduler=self.scheduler,
        )
        reducer, stream = self._pipeline.reducer, Observable[Any](self._subscribe_intake)
        stream = reducer.reduce(stream, context) if isinstance(reducer, Reducer) else stream.pipe(reducer)
        stream = Observable(partial(self._subscribe_windows, stream))
        for operator in self._pipeline.calls:
            stream = stream.pipe(operator.bind(context))
        return stream

    def _subscribe_intake(self, observer: ObserverBase[list[Any]], _: object = None) -> DisposableBase:
        self._intake = observer
        return Disposable()

    def _register(self, holder: Holder) -> None:
        self._holders[holder.stage] = holder
        if isinstance(holder, Windows):
            self._windows.append(holder)

    def _subscribe_windows(self, windows: Observable[Window], observer: ObserverBase[Any], *_: Any) -> DisposableBase:
        def take(window: Window) -> None:
            self._distinct_of_others += len(window)
            if self._raw:
                lines = (each.event for each in (() if window.size else window) if type(each.event) is bytes)
                self._bytes += window.size or sum(map(len, lines))
            self._turns.add(self._hand_over(window, observer.on_next))

        def fail(error: Exception) -> None:
            self._intake = None  # what arrives while the last events are settled is rejected
            self._turns.add(step(partial(observer.on_error, error)))

        complete = partial(self._turns.add, step(observer.on_completed))
        return windows.subscribe(take, fail, complete, scheduler=self.scheduler)

    def _hand_over(self, window: Window, handle: Callable[[Sequence[Compacted]], None]) -> Iterator[int]:
        """Pass on a window in parts: the loop has its turn between the steps of a large one."""
        yield len(window[:]) // FAST + 1
        window = self._acks.add(window)  # before an event may fail
        if self._raw:
            events: list[Compacted] = []
            yield from decoded(window, events, self._on_dead_letter)
            window = window.having(tuple(events))
        self._report_unknown_fields()
        self._observables.notify_window(window)
        events = list(window)
        del window  # its events are freed as they are published
        yield len(events) // FAST
        yield from in_parts(events, getattr(self._pipeline.calls[0], "batch", None) or 1, handle)

    # ── accounting ────────────────────────────────────────────────────────────────────────────────────────────────

    def account(self) -> Account:
        counts, distinct = self._counts, self._distinct()
        duplicates = counts["received"] - distinct - counts["rejected"]
        return Account(**counts, distinct=distinct, duplicates=duplicates, in_flight=self._in_flight())

    def _distinct(self) -> int:
        return sum(windows.distinct for windows in self._windows) if self._windows else self._distinct_of_others

    def _in_flight(self) -> int:
        return self._distinct() - self._settled_events()

    def _settled_events(self) -> int:
        return self._counts.total() - self._counts["received"] - self._counts["rejected"]

    def stages(self) -> dict[str, StageNow]:
        """Return what each stage holds, and what went wrong in it; looking changes nothing."""
        found: dict[str, StageNow] = {}
        for name in self._pipeline.stages:
            holder, now = self._holders.get(name), StageNow()
            if holder is not None:
                now = holder.now() if isinstance(holder, PooledStage) else StageNow(holder.held(), holder.oldest())
            found[name] = now._replace(dead_letters=self._dead_letters[name], error=self.errors.get(name))
        handed_over = self._in_flight() - sum(stage.held for stage in found.values())
        return found | {"compact": found["compact"]._replace(held=found["compact"].held + handed_over)}

    @property
    def null_keys(self) -> int:
        """How many events lacked a field of the key, and were taken all the same."""
        return sum(windows.mapper.null_keys for windows in self._windows)

    @property
    def unknown_fields(self) -> tuple[str, ...]:
        """The fields of keys and times that no event had, so far."""
        return tuple(name for windows in self._windows for name in windows.mapper.unknown)

    def _report_unknown_fields(self) -> None:
        for windows in self._windows:
            for text in windows.mapper.new_unknown():
                logger.warning("{}", text)

    def _on_signal(self, signal: StageSignal) -> None:
        if isinstance(signal, RetryScheduled):
            self.errors[signal.stage] = signal.error
        self._observables.notify_signal(signal)

    def _on_dead_letter(self, letter: DeadLetter) -> None:
        chunk = self._chunk if letter.outcome == "rejected" else None
        origin = None
        if chunk is not None:
            with isolated(partial(self.report, "the origin of an event raised")):
                origin = chunk.origin_of(letter.event)
        if origin is None and self._named is not None:
            origin = self._named.name
        if origin is not None:
            letter = replace(letter, origin=origin)
        self._dead_letters[letter.stage] += 1
        self._counts[letter.outcome] += 1
        if letter.error is not None:
            self.errors[letter.stage] = letter.error
            for error in chain_of(letter.error) if letter.outcome == "rejected" else ():
                without_frames(error)  # which hold the chunk
        if chunk is not None:
            chunk.rejected.append(letter)
        if isinstance(letter.event, Compacted):
            self._bytes -= letter.event.size
        self._observables.notify_dead_letter(letter)
        if self._route is None:
            self._settle(letter)
            return
        acks = () if chunk is None else chunk.acks_of(letter.event)
        retain(acks)
        self._route.push(letter, partial(self._settle, letter, acks))

    def _settle(self, letter: DeadLetter, acks: Iterable[Ack] = ()) -> None:
        """Acknowledge what waits for a dead letter; what was abandoned is returned to the broker."""
        self._room.set()
        release(acks)
        if letter.outcome != "abandoned" and isinstance(letter.event, Compacted):
            self._acks.settle((letter.event,))

    def _on_delivered(self, delivered: Delivered) -> None:
        self._counts["published"] += len(delivered.batch)
        if self._raw:
            self._bytes -= sum(map(size_of, delivered.batch))
        self._room.set()
        self._observables.notify_delivered(delivered)
        self._acks.settle(delivered.batch)

    def report(self, message: str, error: BaseException) -> None:
        """Report what a caller's code raised, where it is no event's fault."""
        self.failures[message] += 1
        self.loop.call_exception_handler({"message": message, "exception": error})

    # ── demand ────────────────────────────────────────────────────────────────────────────────────────────────────

    def capacity(self) -> int:
        return 0 if self.size() >= EVENTS_SHARE * self.max_bytes else self._events_free()

    def _max_keys(self) -> int:
        """Return how many keys the windows may hold: all that others do not."""
        return (
            self.limit
            - len(self._route or ())
            + self._settled_events()
            - sum([windows.left for windows in self._windows])
        )

    def _events_free(self) -> int:
        return 0 if self._intake is None else max(0, self.limit - self._in_flight() - len(self._route or ()))

    def size(self) -> int:
        """Return how many bytes of events are held."""
        waiting = 0 if self._route is None else self._route.size
        return self._bytes + waiting + sum(windows.size for windows in self._windows)

    def hold(self, size: int) -> bool:
        fits = size <= 0 or self.size() + self.receiving + size <= self.max_bytes
        self.receiving += size * fits
        return fits

    def used(self) -> Mapping[str, tuple[int, int]]:
        held = self.limit - self._events_free()
        return {"max_in_flight": (held, self.limit), "max_bytes": (self.size() + self.receiving, self.max_bytes)}

    def accepts(self, chunk: Sequence[Any], before: set[Any] | None = None) -> bool:
        capacity = self.capacity()
        if before is None and len(chunk) <= capacity:
            return True
        keys: set[Any] = set() if before is None else before
        known = self._intake is not None and bool(self._windows)
        return known and all(windows.new_keys(chunk, keys) <= capacity for windows in self._windows)

    async def wait(self) -> int:
        while not (capacity := self.capacity()):
            self._room.clear()
            await self._room.wait()
        return capacity

    def failing(self) -> Mapping[str, Sequence[str]]:
        stages = {call.stage: self._holders.get(call.stage) for call in self._pipeline.calls}
        return {name: stage.failing() for name, stage in stages.items() if isinstance(stage, PooledStage)}

    def span(self, headers: Mapping[str, str]) -> Any:
        return self._observables.extract_span(headers)

    def metrics(self, accept: str = "") -> tuple[bytes, str]:
        return self._observables.exposition(accept)

    # ── in, and the end ───────────────────────────────────────────────────────────────────────────────────────────

    def push(self, chunk: Sequence[Any]) -> None:
        self._counts["received"] += len(chunk)
        if self._raw:
            self.received_bytes += sum(map(len, chunk))
        self._chunk = chunk if isinstance(chunk, Chunk) else None
        try:
            if self._intake is not None and not (self._raw and self.size() > self.max_bytes):
                self._intake.on_next(chunk if isinstance(chunk, list) else list(chunk))
                return
            late, too_much = "it arrived after the end of the stream", NoRoomError(self.max_bytes, " bytes")
            error = AbandonedError(late) if self._intake is None else too_much  # of a source that did not wait
            for event in chunk:
                self._on_dead_letter(DeadLetter("rejected", event, "compact", error.reason, error))
            if self._intake is not None and self._chunk is not None:
                release(self._chunk.acks)
        finally:
            self._chunk = None

    def complete(self) -> None:
        """End when everything that is held is settled, waits and all."""
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.on_completed()

    def drain(self) -> None:
        """Close the open windows, cut all waits short, and end."""
        self._drain.on_next(None)
        self.complete()

    async def abandon(self) -> None:
        """End now; what is held is abandoned, in turns of the loop."""
        for call in self._pipeline.calls:
            if isinstance(stage := self._holders.get(call.stage), PooledStage):
                await stage.abandon()
        await self._turns.wait()
        self._subscription.dispose()
        self._end()

    async def deliver_dead_letters(self) -> None:
        """Deliver the dead letters that wait, when all else is settled."""
        try:
            if self._route is not None:
                await self._route.finish()
        finally:
            self._acks.clear()  # what is in it leads back to the source, unseen by the garbage collector

    def _end(self, error: Exception | None = None) -> None:
        self._report_unknown_fields()
        self._intake = None
        if error is not None:
            self.errors["compact"] = error
        if not self.ended.done():
            self.ended.set_result(None) if error is None else self.ended.set_exception(error)
