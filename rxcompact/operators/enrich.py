"""enrich: calls a function for each distinct event, again and again until the event is too old."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack, overload

from loguru import logger
from reactivex import Observable
from reactivex.abc import ObserverBase, SchedulerBase
from typing_extensions import TypeVar

from rxcompact.clock import Seconds, count, seconds
from rxcompact.contracts import Enricher, KeyedEnricher
from rxcompact.errors import AbandonedError, ArgumentError
from rxcompact.events import Compacted, Window
from rxcompact.operators.job import Call, Entry, Job, deadlines
from rxcompact.operators.operator import DeadLetters
from rxcompact.operators.order import InOrder
from rxcompact.operators.retry import Callback, Predicate, RetryPolicy, Wait, full_jitter, transient
from rxcompact.operators.stage import PooledOperator, PooledStage

K = TypeVar("K", default=Any)
E = TypeVar("E", default=Any)
R = TypeVar("R", default=Any)
Mapper = Callable[[Any], Any]
UNKNOWN = object()
"""No answer: None may be one."""


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
        enricher: Gives the enriched event: an `Enricher`, a coroutine function, a function, or one that returns an
            Observable, whose last item it is. Raising means failure; `PermanentError` one that retrying cannot mend,
            `RateLimitedError` that the service asked to wait.
        max_age: Seconds after an event's birth (its ``first_seen``) at which it expires; by default the pipeline's.
            No attempt starts after it; one under way is cancelled.
        max_concurrent: Calls at once. An event that waits to be tried again is not one of them.
        timeout: Seconds a call may take; None for as long as the event may live.
        batch: Call the mapper with a list of up to this many events that wait; it returns as many, in their order. One
            that failed may be an exception in its place; raising fails all.
        merge: Makes the enriched event of an event and the mapper's answer; without it the answer is the event.
        ordered: Keep the order of the source. An event then waits for all before it, in memory, and one that fails
            holds back the rest until its end.
        cache: Spares calls for keys it holds, of whatever content without ``merge``; any mutable mapping, such as one
            of cachetools, which then also says when an answer is forgotten.
        wait: tenacity's, or a function of its retry state that gives seconds; by default exponential with full jitter.
        retry: tenacity's condition; by default `is_transient`.
        before_sleep: tenacity's callback, called before each wait.
        flushes: On its first item waits are cut short: one last attempt for each event, then it is abandoned.
        dead_letters: An observer, or a function, of the events that expired or failed; by default they are logged.
        scheduler: A scheduler on asyncio's loop; by default the running loop's.

    Shape:
        `Observable[Window]` or `Observable[Compacted]` to `Observable[Compacted]`, in order of completion. Holds every
        event that has not met its end.

    Cost:
        A worker's turn per call; what retrying needs is made after a first failure.

    Errors:
        None of an event's: they end in a dead letter, "expired", "failed" or, when disposed, "abandoned". The
        source's error is passed on when all have met their end.

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
        enricher, merge = self.enricher, self.merge
        if isinstance(enricher, KeyedEnricher) and merge is None:
            mapper, merge = enricher.lookup, enricher.merge
        else:
            mapper = enricher.enrich if isinstance(enricher, Enricher) else enricher
        call = _batched(mapper) if self.batch else _single(mapper)
        return EnrichStage(call, observer, self, scheduler, merge=merge)


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - of whatever type events are
        return False


async def _result(value: Any) -> Any:
    return await value if hasattr(value, "__await__") else value


def _single(mapper: Mapper) -> Call[Entry]:
    return lambda entries: mapper(entries[0].compacted.event)


def _batched(mapper: Mapper) -> Call[Entry]:
    async def call(entries: Sequence[Entry]) -> Sequence[Any]:
        results: Sequence[Any] = await _result(mapper([entry.compacted.event for entry in entries]))
        if len(results) != len(entries):
            raise ValueError(f"mapper returned {len(results)} results for {len(entries)} events")
        return results

    return call


class EnrichStage(PooledStage[Entry, Compacted]):
    """Calls once for each key in flight; the others of that key follow it."""

    def __init__(
        self,
        call: Call[Entry],
        observer: ObserverBase[Compacted],
        options: Enrich,
        scheduler: SchedulerBase | None,
        *,
        merge: Callable[[Any, Any], Any] | None,
    ) -> None:
        super().__init__(call, observer, options, scheduler, single=options.batch is None)
        self._size = options.batch or 1
        self._merge = merge
        self._cache = options.cache
        self._order = InOrder(self._emit) if options.ordered else None
        self._leaders: dict[Hashable, tuple[Entry, list[Entry]]] = {}  # and who follows them

    def held(self) -> int:
        followers = sum(len(following) for _, following in self._leaders.values())
        return self._pool.held() + followers + (len(self._order) if self._order is not None else 0)

    def _is_empty(self) -> bool:
        return not self._leaders and not self._order and super()._is_empty()

    @staticmethod
    def _compacted(entry: Entry) -> Compacted:
        return entry.compacted

    def _take(self, items: Sequence[Compacted]) -> None:
        entries: list[Entry] = []
        now = self._loop.time()
        for entry in map(Entry, items, self._deadlines()(items)):
            if entry.deadline <= now:
                self._expire(entry.compacted, 0)
                continue
            if self._order is not None:
                self._order.enter(entry)
            answer = UNKNOWN if self._cache is None else self._remembered(self._cache, entry.compacted.key)
            if answer is not UNKNOWN:
                self._came_through(entry, answer, 0)
            elif not self._follow(entry):
                entries.append(entry)
        for start in range(0, len(entries), self._size):
            self._pool.submit(entries[start : start + self._size], deadlines)

    @staticmethod
    def _remembered(cache: MutableMapping[Hashable, Any], key: Hashable) -> Any:
        try:
            return cache.get(key, UNKNOWN)
        except Exception as error:  # noqa: BLE001 - the caller's cache may raise anything; the event can do without
            logger.warning("the cache of enrich could not be read: {}", type(error).__name__)
            return UNKNOWN

    @staticmethod
    def _remember(cache: MutableMapping[Hashable, Any], key: Hashable, answer: Any) -> None:
        try:
            cache[key] = answer
        except Exception as error:  # noqa: BLE001 - as above; cachetools refuses what is too large for it
            logger.warning("the cache of enrich could not be written: {}", type(error).__name__)

    def _follow(self, entry: Entry) -> bool:
        """Tell whether a call is under way that serves an event too."""
        key = entry.compacted.key
        if key not in self._leaders:
            self._leaders[key] = (entry, [])
            return False
        leader, following = self._leaders[key]
        if entry.deadline < leader.deadline:
            return False  # it cannot wait for as long as the other may
        if self._merge is None and not _same(entry.compacted.event, leader.compacted.event):
            return False
        following.append(entry)
        return True

    def _followers(self, entry: Entry) -> list[Entry]:
        """Return those who follow an event, which leads no more."""
        key = entry.compacted.key
        if key not in self._leaders or self._leaders[key][0] is not entry:
            return []
        return self._leaders.pop(key)[1]

    def _came_through(self, entry: Entry, answer: Any, attempts: int) -> None:
        compacted = entry.compacted
        try:
            merged = answer if self._merge is None else self._merge(compacted.event, answer)
        except Exception as error:  # noqa: BLE001 - the caller's function may raise anything
            self._bury("failed", compacted, error, attempts)
            self._leave(entry)
            return
        enriched = compacted.having(merged)
        if self._order is not None:
            self._order.leave(entry, enriched)
        else:
            self._emit(enriched)

    def succeeded(self, job: Job[Entry], entries: Sequence[Entry], results: Sequence[Any]) -> None:
        for entry, event in zip(entries, results, strict=True):
            if self._cache is not None:
                self._remember(self._cache, entry.compacted.key, event)
            for each in (entry, *self._followers(entry)):
                self._came_through(each, event, job.count)

    def expired(self, job: Job[Entry], entry: Entry) -> None:
        super().expired(job, entry)
        self._leave(entry)
        # those that followed it are younger: the first of them goes on in its place
        followers = [each for each in self._followers(entry) if not self._is_over(each, job)]
        if followers:
            self._leaders[entry.compacted.key] = (followers[0], followers[1:])
            self._pool.submit(followers[:1], deadlines)

    def _is_over(self, entry: Entry, job: Job[Entry]) -> bool:
        over = entry.deadline <= self._loop.time()
        if over:
            super().expired(job, entry)
            self._leave(entry)
        return over

    def failed(self, job: Job[Entry], entry: Entry, error: BaseException) -> None:
        for each in (entry, *self._followers(entry)):
            super().failed(job, each, error)
            self._leave(each)

    def abandoned(self, job: Job[Entry], entry: Entry) -> None:
        for each in (entry, *self._followers(entry)):
            super().abandoned(job, each)
            self._leave(each)

    def dispose(self) -> None:
        self._run(self._give_up)
        super().dispose()

    def _give_up(self) -> None:
        order, self._order = self._order, None
        for compacted in order.waiting() if order is not None else ():
            self._bury("abandoned", compacted, AbandonedError("stopped before its turn"), 0)

    def _leave(self, entry: Entry) -> None:
        if self._order is not None:
            self._order.leave(entry)
