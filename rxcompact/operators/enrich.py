"""enrich: calls a function for each distinct event, again and again until the event is too old."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, MutableMapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from heapq import heappop, heappush
from operator import itemgetter
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Concatenate, ParamSpec, Protocol, overload

from msgspec.structs import replace
from reactivex import Observable
from reactivex.abc import ObserverBase, SchedulerBase
from typing_extensions import TypeVar

from rxcompact.clock import TICK, Seconds, count
from rxcompact.contracts import Enricher, KeyedEnricher, TargetedEnricher
from rxcompact.errors import AnswerError, ArgumentError
from rxcompact.events import Compacted, Window
from rxcompact.format import short
from rxcompact.operators.jobs import Entry, Job, Loss, number_of
from rxcompact.operators.operator import PooledOperator, awaitable
from rxcompact.operators.retry import OncePerMinute, without_frames
from rxcompact.operators.stage import PooledStage
from rxcompact.operators.verdict import is_nothing_found

K = TypeVar("K", default=Any)
E = TypeVar("E", default=Any)
R = TypeVar("R", default=Any)
P = ParamSpec("P")
YIELDS = (GeneratorType, AsyncGeneratorType)
UNKNOWN = object()
NOTHING = object()
"""The answer that there is nothing to add."""


@dataclass(kw_only=True, eq=False)
class Enrich(PooledOperator):
    """Replace the event of each `Compacted` by what ``enricher`` makes of it.

    ::

        windows   ----[a b c]--------------------|
                  enrich(lookup, max_age=…)             b fails once, c until it is too old
        enriched  ------A----------B-------------|
        dead      --------------------------c-----

    While a call is under way for an event, one that is equal waits for its answer. With ``merge`` the answer is taken
    to depend on the key alone: then one call serves every event with that key, each with its own content.

    Args:
        enricher: Returns the enriched event: an `Enricher`, a coroutine function, a function, or one that returns an
            Observable, whose last item it is. One that blocks holds up all: `asyncio.to_thread` calls it elsewhere.
            Raising means failure; `PermanentError` one that retrying cannot mend, `RateLimitedError` a wait. What a
            resolver raises where there is no such host is the answer that there is nothing to add.
        max_age: Seconds after its birth (``first_seen``) at which an event expires; by default the pipeline's. No
            attempt starts after it; one under way is cancelled.
        max_concurrent: Calls at once. An event that waits to be tried again is not one of them.
        rate: Calls a second at most, evenly spread.
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
        before_sleep: Called before each wait, as tenacity's. All three may be coroutine functions.
        flushes: On its first item waits are cut short: one last attempt for each event, then it is abandoned.
        dead_letters: An observer, or a function, of the events that expired or failed; by default they are logged.
        scheduler: A scheduler on asyncio's loop; by default the running loop's.

    Shape:
        `Observable[Window]` or `Observable[Compacted]` to `Observable[Compacted]`, in order of completion. Holds every
        event that is not settled.

    Cost:
        Some 10 µs a call, 4 more where it does not wait; what retrying needs is made after a first failure.

    Errors:
        None of an event's: it is a dead letter, "expired", "failed" or, when disposed, "abandoned". The source's is
        passed on when all are settled.

    Raises:
        ArgumentError: for an argument out of range.
        LoopError: to the observer, when subscribed outside asyncio.

    Source:
        https://reactivex.io/documentation/operators/flatmap.html; https://tenacity.readthedocs.io
    """

    enricher: Any = field(kw_only=False)
    max_concurrent: int = 100
    timeout: Seconds | None = 10.0
    batch: int | None = None
    merge: Callable[[Any, Any], Any] | None = None
    ordered: bool = False
    cache: MutableMapping[Hashable, Any] | None = None
    stage: str = field(init=False, default="enrich")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (callable(self.enricher) or isinstance(self.enricher, Enricher | KeyedEnricher)):
            raise ArgumentError("enricher", self.enricher, "an Enricher, a function or a coroutine function")
        self.batch = None if self.batch is None else count("batch", self.batch)

    def _stage(self, observer: ObserverBase[Any], scheduler: SchedulerBase | None) -> EnrichStage:
        return EnrichStage(self, observer, scheduler)


class _Enrich(Protocol[P]):
    """The type of `enrich`: what it gives is of the enricher's type."""

    @overload
    def __call__(
        self, enricher: Enricher[R] | Callable[[Any], Awaitable[R]], /, *args: P.args, **options: P.kwargs
    ) -> Callable[[Observable[Window[K, E]] | Observable[Compacted[K, E]]], Observable[Compacted[K, R]]]: ...
    @overload
    def __call__(
        self, enricher: Callable[[Any], R], /, *args: P.args, **options: P.kwargs
    ) -> Callable[[Observable[Window[K, E]] | Observable[Compacted[K, E]]], Observable[Compacted[K, R]]]: ...


def _typed(operator: Callable[Concatenate[Any, P], Any]) -> _Enrich[P]:
    return operator


enrich = _typed(Enrich)


class EnrichStage(PooledStage):
    """Makes one call for equal events in flight (single flight)."""

    def __init__(self, options: Enrich, observer: ObserverBase[Any], scheduler: SchedulerBase | None) -> None:
        super().__init__(options, observer, scheduler)
        function: Any = options.enricher
        self._merge = options.merge
        if isinstance(options.enricher, KeyedEnricher) and options.merge is None:
            self._merge, function = options.enricher.merge, options.enricher.lookup
        elif isinstance(options.enricher, Enricher):
            function = options.enricher.enrich
        self._enricher = awaitable(function)
        self._target_of = options.enricher.target if isinstance(options.enricher, TargetedEnricher) else None
        self._batch = options.batch
        self._cache = options.cache
        self._log = OncePerMinute("WARNING", "the cache of enrich could not be {}: {text}")
        self._in_flight: dict[Hashable, Entry] = {}
        self._ordered = options.ordered
        self._next = 0  # place, of those that complete in order
        self._completed: dict[int, Compacted | None] = {}  # that wait for one before them

    def _handle(self, entries: list[Entry], now: float) -> None:
        leaders: list[Entry] = []
        joined = 0
        for entry in entries:
            if entry.deadline <= now:
                self._lost("expired", entry)
            elif self._cache is not None and (known := self._at(entry, self._cache.get, UNKNOWN)) is not UNKNOWN:
                self.lookups["cache"] += 1
                self._succeed(entry, known, None)
            else:
                leader = self._in_flight.setdefault(entry.compacted.key, entry)
                if leader is entry or not self._joins(entry, leader):
                    leaders.append(entry)
                else:
                    joined += 1
        if joined:
            self.lookups["shared"] += joined
        if leaders:
            self.lookups["call"] += len(leaders)
        size = self._batch or 1
        for start in range(0, len(leaders), size):
            self._submit(leaders[start : start + size])

    def _joins(self, entry: Entry, leader: Entry) -> bool:
        """Have an event served by a call that is under way, if it is for an equal one; return whether it is."""
        try:
            is_equal = self._merge is not None or bool(entry.compacted.event == leader.compacted.event)
        except Exception:  # noqa: BLE001 - of whatever type events are
            is_equal = False
        if not is_equal:
            return False
        if leader.others is None:
            leader.others = []
        heappush(leader.others, (entry.deadline, entry.number, entry))
        if entry.deadline < leader.deadline:  # it expires before the call is looked at again
            self._loop.call_at(entry.deadline, self._expire_others, leader)
        return True

    async def _call(self, entries: list[Entry]) -> Sequence[Any]:
        if self._batch is None:
            try:
                result = await self._enricher(entries[0].compacted.event)
            except Exception as error:
                if not is_nothing_found(error):
                    raise
                return (NOTHING,)
            if isinstance(result, YIELDS):
                raise AnswerError(f"the enricher yields: it must return the event, got {short(result)}")
            return (result,)
        results = await self._enricher([entry.compacted.event for entry in entries])
        if not isinstance(results, Sequence) or isinstance(results, str | bytes) or len(results) != len(entries):
            raise AnswerError(f"the enricher must return a list of {len(entries)} results, got {short(results)}")
        return results

    def _target(self, entry: Entry) -> str:
        with suppress(Exception):  # the call fails for it too
            return "" if self._target_of is None else self._target_of(entry.compacted.event)
        return ""

    def _at(self, entry: Entry, access: Callable[[Hashable, Any], Any], value: Any) -> Any:
        """Call a method of the cache; cachetools refuses what is too large for it, and an event can do without."""
        try:
            return access(entry.compacted.key, value)
        except Exception as error:  # noqa: BLE001 - the caller's cache may raise anything
            self._log("read" if value is UNKNOWN else "written", text=type(error).__name__)
            return UNKNOWN

    def _succeeded(self, job: Job, entries: list[Entry], results: Sequence[Any]) -> None:
        for entry, result in zip(entries, results, strict=True):
            if self._cache is not None and result is not NOTHING:
                self._at(entry, self._cache.__setitem__, result)
            for each in self._landed(entry):
                self._succeed(each, result, job)

    def _succeed(self, entry: Entry, result: Any, job: Job | None) -> None:
        compacted = entry.compacted
        try:
            if result is NOTHING:
                result = compacted.event
            elif self._merge is not None:
                result = self._merge(compacted.event, result)
            enriched = replace(compacted, event=result)  # the method of that name takes four times as long
        except BaseException as error:
            self._lost("failed", entry, job, without_frames(error))
            if isinstance(error, SystemExit | KeyboardInterrupt):
                raise
        else:
            if self._ordered:
                self._complete(entry, enriched)
            else:
                self._emit(enriched)

    def _complete(self, entry: Entry, enriched: Compacted | None = None) -> None:
        """Emit what became of an event, if anything, after all before it are completed."""
        self._completed[entry.number] = enriched
        while self._next in self._completed:
            completed = self._completed.pop(self._next)
            self._next += 1
            if completed is not None:
                self._emit(completed)

    def _landed(self, leader: Entry) -> list[Entry]:
        """Return the events of a call that is over, in the order of the source."""
        if self._in_flight.get(leader.compacted.key) is leader:
            del self._in_flight[leader.compacted.key]
        others, leader.others = leader.others, None
        if not others:
            return [leader]
        return sorted((leader, *map(itemgetter(2), others)), key=number_of)

    def _lost(self, outcome: Loss, entry: Entry, job: Job | None = None, error: BaseException | None = None) -> None:
        for each in self._expired(entry) if outcome == "expired" else self._landed(entry):
            super()._lost(outcome, each, job, error)
            if self._ordered:
                self._complete(each)

    def _expired(self, leader: Entry) -> list[Entry]:
        """Return the events of a call that are too old; the call goes on for the others."""
        now = self._loop.time() + TICK
        others, expired = leader.others or [], list[Entry]()
        while others and others[0][0] <= now:
            expired.append(heappop(others)[2])
        if leader.deadline <= now:
            if not others:
                leader.others = [(0.0, other.number, other) for other in expired]
                return self._landed(leader)
            expired.append(copy(leader))
            first = heappop(others)[2]
            leader.deadline, leader.number, leader.compacted = first.deadline, first.number, first.compacted
        return expired

    def _expire_others(self, leader: Entry) -> None:
        job = next((job for job in self._jobs if leader in job.entries), None)
        self._lost("expired", leader, job)

    def _close(self) -> None:
        self._ordered = False
        completed, self._completed = self._completed, {}
        for place, enriched in completed.items():
            if enriched is not None:
                super()._lost("abandoned", Entry(0.0, place, enriched))
        super()._close()
