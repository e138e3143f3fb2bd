"""enrich: calls a function for each distinct event, again and again until the event is too old."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Hashable, MutableMapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from operator import attrgetter
from types import AsyncGeneratorType, GeneratorType
from typing import Any, TypedDict, Unpack, overload

import msgspec
from loguru import logger
from reactivex import Observable
from reactivex.abc import ObserverBase, SchedulerBase
from typing_extensions import TypeVar

from rxcompact.clock import Seconds, count, seconds
from rxcompact.contracts import Enricher, KeyedEnricher
from rxcompact.errors import AnswerError, ArgumentError
from rxcompact.events import Compacted, Window
from rxcompact.format import short
from rxcompact.operators.operator import DeadLetters
from rxcompact.operators.pool import TICK, Call, Job
from rxcompact.operators.retry import Callback, Predicate, RetryPolicy, Wait, full_jitter, transient, without_our_frames
from rxcompact.operators.stage import PooledOperator, PooledStage, awaitable

K = TypeVar("K", default=Any)
E = TypeVar("E", default=Any)
R = TypeVar("R", default=Any)
Mapper = Callable[[Any], Any]
UNKNOWN = object()


class Options(TypedDict, total=False):
    """The options of `enrich`, for the type checker."""

    max_age: Seconds | None
    max_concurrent: int
    timeout: Seconds | None
    batch: int | None
    merge: Callable[[Any, Any], Any] | None
    ordered: bool
    cache: MutableMapping[Hashable, Any] | None
    wait: Wait
    retry: Predicate
    before_sleep: Callback | None
    flushes: Observable[Any] | None
    dead_letters: DeadLetters | None
    scheduler: SchedulerBase | None


@overload
def enrich(
    enricher: Enricher[R] | Callable[[Any], Awaitable[R]], **options: Unpack[Options]
) -> Callable[[Observable[Window[K, E]] | Observable[Compacted[K, E]]], Observable[Compacted[K, R]]]: ...
@overload
def enrich(
    enricher: Callable[[Any], R], **options: Unpack[Options]
) -> Callable[[Observable[Window[K, E]] | Observable[Compacted[K, E]]], Observable[Compacted[K, R]]]: ...
def enrich(
    enricher: Any,
    *,
    max_age: Seconds | None = None,
    max_concurrent: int = 100,
    timeout: Seconds | None = 10.0,
    batch: int | None = None,
    merge: Callable[[Any, Any], Any] | None = None,
    ordered: bool = False,
    cache: MutableMapping[Hashable, Any] | None = None,
    wait: Wait = full_jitter,
    retry: Predicate = transient,
    before_sleep: Callback | None = None,
    flushes: Observable[Any] | None = None,
    dead_letters: DeadLetters | None = None,
    scheduler: SchedulerBase | None = None,
) -> Callable[[Observable[Window] | Observable[Compacted]], Observable[Compacted]]:
    """Replace the event of each `Compacted` by what ``enricher`` makes of it.

    ::

        windows   ----[a b c]--------------------|
                  enrich(lookup, max_age=…)             b fails once, c until it is too old
        enriched  ------A----------B-------------|
        dead      --------------------------c-----

    While a call is under way for an event, one that is equal waits for its answer. With ``merge`` the mapper's answer
    is taken to depend on the key alone: then one call serves every event with that key, each with its own content.

    Args:
        enricher: Returns the enriched event: an `Enricher`, a coroutine function, a function, or one that returns an
            Observable, whose last item it is. One that blocks holds up all: `asyncio.to_thread` calls it elsewhere.
            Raising means failure; `PermanentError` one that retrying cannot mend, `RateLimitedError` a wait.
        max_age: Seconds after an event's birth (its ``first_seen``) at which it expires; by default the pipeline's.
            No attempt starts after it; one under way is cancelled.
        max_concurrent: Calls at once. An event that waits to be tried again is not one of them.
        timeout: Seconds a call may take; None for as long as the event may live.
        batch: Call it with a list of up to this many events; it returns as many results, in their order, and for one
            that failed an exception. Raising fails all.
        merge: Makes the enriched event of an event and the mapper's answer; without it the answer is the event.
        ordered: Keep the order of the source. An event then waits, in memory, until all before it are settled.
        cache: Spares calls for keys it holds, of whatever content without ``merge``; any mutable mapping, such as one
            of cachetools, which then also decides when an answer is forgotten.
        wait: Seconds, tenacity's, or a function of its retry state; by default exponential with full jitter. An event
            that would expire in a wait has one last attempt, in the last tenth of its age.
        retry: Exceptions, tenacity's condition, or a function of its retry state; by default `is_transient`.
        before_sleep: tenacity's callback, called before each wait. All three may be coroutine functions.
        flushes: On its first item waits are cut short: one last attempt for each event, then it is abandoned.
        dead_letters: An observer, or a function, of the events that expired or failed; by default they are logged.
        scheduler: A scheduler on asyncio's loop; by default the running loop's.

    Shape:
        `Observable[Window]` or `Observable[Compacted]` to `Observable[Compacted]`, in order of completion. Holds every
        event that is not settled.

    Cost:
        A task per call, some 12 µs; what retrying needs is made after a first failure.

    Errors:
        None of an event's: they end in a dead letter, "expired", "failed" or, when disposed, "abandoned". The
        source's error is passed on when all are settled.

    Raises:
        ArgumentError: for an argument out of range.
        LoopError: to the observer, when subscribed outside asyncio.

    Source:
        https://reactivex.io/documentation/operators/flatmap.html; https://tenacity.readthedocs.io
    """
    return Enrich(
        enricher=enricher,
        batch=None if batch is None else count("batch", batch),
        merge=merge,
        ordered=ordered,
        cache=cache,
        max_age=None if max_age is None else seconds("max_age", max_age),
        max_concurrent=count("max_concurrent", max_concurrent),
        timeout=None if timeout is None else seconds("timeout", timeout),
        policy=RetryPolicy(wait=wait, retry=retry, before_sleep=before_sleep),
        flushes=flushes,
        dead_letters=dead_letters,
        scheduler=scheduler,
    )


@dataclass(frozen=True, kw_only=True)
class Enrich(PooledOperator[Compacted]):
    """The operator that `enrich` returns."""

    stage: str = "enrich"
    enricher: Any
    batch: int | None
    merge: Callable[[Any, Any], Any] | None
    ordered: bool
    cache: MutableMapping[Hashable, Any] | None

    def __post_init__(self) -> None:
        if not (callable(self.enricher) or isinstance(self.enricher, Enricher | KeyedEnricher)):
            raise ArgumentError("enricher", self.enricher, "an Enricher, a function or a coroutine function")

    @property
    def part(self) -> Any:
        return self.enricher

    def _stage(self, observer: ObserverBase[Compacted], scheduler: SchedulerBase | None) -> EnrichStage:
        enricher: Any = self.enricher
        mapper: Any = enricher
        merge = self.merge
        if isinstance(enricher, KeyedEnricher) and merge is None:
            mapper, merge = enricher.lookup, enricher.merge
        elif isinstance(enricher, Enricher):
            mapper = enricher.enrich
        call = _batched(mapper) if self.batch else _single(mapper)
        return EnrichStage(call, observer, self, scheduler, merge=merge)


def _single(mapper: Mapper) -> Call[Flight]:
    function = awaitable(mapper)

    async def call(flights: Sequence[Flight]) -> Sequence[Any]:
        result = await function(flights[0].event)
        if isinstance(result, GeneratorType | AsyncGeneratorType):
            raise AnswerError(f"the enricher yields: it must return the event, got {short(result)}")
        return (result,)

    return call


def _batched(mapper: Mapper) -> Call[Flight]:
    function = awaitable(mapper)

    async def call(flights: Sequence[Flight]) -> Sequence[Any]:
        results = await function([flight.event for flight in flights])
        if not isinstance(results, Sequence) or isinstance(results, str | bytes) or len(results) != len(flights):
            raise AnswerError(f"the enricher must return a list of {len(flights)} results, got {short(results)}")
        return results

    return call


class Entry(msgspec.Struct, order=True, gc=False):
    """A distinct event on its way through."""

    deadline: float
    """The instant at which it is too old, in the loop's seconds."""
    number: int
    """Its place in the order of the source; no two have the same."""
    compacted: Compacted


class Flight(msgspec.Struct, eq=False):
    """Events that one call serves, a heap by deadline; the call is for the first."""

    entries: list[Entry]
    job: Job[Any] | None = None

    @property
    def event(self) -> Any:
        return self.entries[0].compacted.event


def _deadlines(flights: Sequence[Flight]) -> Sequence[float]:
    return [flight.entries[0].deadline for flight in flights]


class ReorderBuffer:
    """Emits results in the order of their places; each waits for all before it to be completed, with a result or none.

    Every place, from 0, is to be completed once.
    """

    def __init__(self, emit: Callable[[Compacted], object]) -> None:
        self._emit = emit
        self._next = 0
        self._completed: dict[int, Compacted | None] = {}

    def results(self) -> list[Compacted]:
        """Return the results that wait for one before them."""
        return [result for result in self._completed.values() if result is not None]

    def complete(self, place: int, result: Compacted | None = None) -> None:
        """Complete a place."""
        self._completed[place] = result
        while self._next in self._completed:
            result = self._completed.pop(self._next)
            self._next += 1
            if result is not None:
                self._emit(result)


class EnrichStage(PooledStage[Flight, Compacted]):
    """Makes one call for equal events in flight (single flight)."""

    def __init__(
        self,
        call: Call[Flight],
        observer: ObserverBase[Compacted],
        options: Enrich,
        scheduler: SchedulerBase | None,
        *,
        merge: Callable[[Any, Any], Any] | None,
    ) -> None:
        super().__init__(call, observer, options, scheduler)
        self._size = options.batch or 1
        self._merge = merge
        self._cache = options.cache
        self._numbers = itertools.count()
        self._order = ReorderBuffer(self._emit) if options.ordered else None
        self._in_flight: dict[Hashable, Flight] = {}

    def held(self) -> int:
        buffered = 0 if self._order is None else len(self._order.results())
        return sum(len(flight.entries) for flight in self._pool.entries()) + buffered

    # ── in ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _handle(self, items: Sequence[Compacted]) -> None:
        flights: list[Flight] = []
        now = self._loop.time()
        for compacted, deadline in zip(items, self._deadlines()(items), strict=True):
            entry = Entry(deadline, next(self._numbers), compacted)
            if deadline <= now:
                self._expire(compacted)
                self._complete(entry)
                continue
            cached = UNKNOWN if self._cache is None else self._cached(self._cache, compacted.key)
            if cached is not UNKNOWN:
                self._succeed(entry, cached, 0)
            elif (flight := self._join(entry)) is not None:
                flights.append(flight)
        for start in range(0, len(flights), self._size):
            part = flights[start : start + self._size]
            job = self._pool.submit(part, _deadlines)
            for flight in part:
                flight.job = job

    @staticmethod
    def _cached(cache: MutableMapping[Hashable, Any], key: Hashable) -> Any:
        try:
            return cache.get(key, UNKNOWN)
        except Exception as error:  # noqa: BLE001 - the caller's cache may raise anything; the event can do without
            logger.warning("the cache of enrich could not be read: {}", type(error).__name__)
            return UNKNOWN

    @staticmethod
    def _store(cache: MutableMapping[Hashable, Any], key: Hashable, result: Any) -> None:
        try:
            cache[key] = result
        except Exception as error:  # noqa: BLE001 - as above; cachetools refuses what is too large for it
            logger.warning("the cache of enrich could not be written: {}", type(error).__name__)

    def _join(self, entry: Entry) -> Flight | None:
        """Have an event served by a call that is under way; return a new flight where there is none."""
        key = entry.compacted.key
        flight = self._in_flight.get(key)
        if flight is None:
            flight = self._in_flight[key] = Flight([entry])
            return flight
        if self._merge is None and not _same(entry.compacted.event, flight.event):
            return Flight([entry])
        if entry < flight.entries[0]:  # it expires before the call is looked at again
            self._loop.call_at(entry.deadline, self._expire_due, flight, 1)
        heappush(flight.entries, entry)
        return None

    # ── out ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def succeeded(self, job: Job[Flight], entries: Sequence[Flight], results: Sequence[Any]) -> None:
        for flight, result in zip(entries, results, strict=True):
            if self._cache is not None:
                self._store(self._cache, flight.entries[0].compacted.key, result)
            for entry in self._landed(flight):
                self._succeed(entry, result, job.count)

    def _succeed(self, entry: Entry, result: Any, attempts: int) -> None:
        compacted = entry.compacted
        try:
            enriched = compacted.having(result if self._merge is None else self._merge(compacted.event, result))
        except BaseException as error:
            self._dead_letter("failed", compacted, without_our_frames(error), attempts)
            self._complete(entry)
            if isinstance(error, SystemExit | KeyboardInterrupt):
                raise
        else:
            self._complete(entry, enriched)

    def _complete(self, entry: Entry, enriched: Compacted | None = None) -> None:
        if self._order is not None:
            self._order.complete(entry.number, enriched)
        elif enriched is not None:
            self._emit(enriched)

    def _landed(self, flight: Flight) -> list[Entry]:
        """Return the events of a flight, which is over, in the order of the source."""
        entries, flight.entries, flight.job = flight.entries, [], None
        key = entries[0].compacted.key
        if self._in_flight.get(key) is flight:
            del self._in_flight[key]
        return entries if len(entries) == 1 else sorted(entries, key=attrgetter("number"))

    def expired(self, job: Job[Flight], entry: Flight) -> bool:
        entry.job = job
        self._expire_due(entry, 0)
        return bool(entry.entries)

    def _expire_due(self, flight: Flight, keep: int) -> None:
        """Expire what is too old in a flight, but for ``keep`` events, which are the job's affair."""
        now = self._loop.time() + TICK
        while len(flight.entries) > keep and flight.entries[0].deadline <= now:
            job, last = flight.job, len(flight.entries) == 1
            entry = self._landed(flight)[0] if last else heappop(flight.entries)
            self._expire(entry.compacted, job)
            self._complete(entry)

    def failed(self, job: Job[Flight], entry: Flight, error: BaseException) -> None:
        for each in self._landed(entry):
            self._dead_letter("failed", each.compacted, error, job.count)
            self._complete(each)

    def abandoned(self, job: Job[Flight], entry: Flight) -> None:
        for each in self._landed(entry):
            self._abandon(each.compacted, job)
            self._complete(each)

    def dispose(self) -> None:
        self._run(self._give_up)
        super().dispose()

    def _give_up(self) -> None:
        order, self._order = self._order, None
        for compacted in order.results() if order is not None else ():
            self._abandon(compacted)


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - of whatever type events are
        return False
