"""What the sources of brokers share: messages are fetched, pushed as there is capacity, acknowledged, given back."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import accumulate, chain, repeat
from types import MappingProxyType
from typing import Any, TypeAlias

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from rxcompact.acks import Ack, Chunk
from rxcompact.brokers.unacked import Identity, UnackedMessages
from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.errors import ArgumentError, DecodeError, TimeMapperError, TransientError
from rxcompact.operators.turns import BYTES
from rxcompact.reader.items import SHOWN, Events, Malformed, items_path, lines_of
from rxcompact.reader.reader import Reader
from rxcompact.reader.scan import slice_of
from rxcompact.reader.text import MIB, PIECE
from rxcompact.timestamps import posix

MAX_BODY, MAX_EVENTS = 16 * MIB, 1_000_000  # of the largest message, decompressed
MAX_EVENT = 2 * MIB  # bytes of the largest event; a larger one is rejected
STEPS = 2  # of the reader, a few milliseconds each, before the loop has its turn; a small message takes as many
READS = 100  # small messages that are read one by one before the loop has its turn
SLICE = 500  # events that are pushed at once, but for a few: the loop has its turn before bad ones take 50 ms
WEIGHT = 1 / 64  # of the latest message in the average of events a message has
PAUSE = 0.25  # seconds until replies that could not be sent are sent again
LAG = 5.0  # seconds between two questions to the broker how many messages wait

Start: TypeAlias = str | float | datetime
"""Where a consumer begins: with "all" that is there, with what is "new", or at an instant."""


def start_time(start: Start) -> float | None:
    """Return the POSIX seconds of an instant; None for "all" and "new"."""
    if start in ("all", "new"):
        return None
    try:
        return posix(start.timestamp() if isinstance(start, datetime) else start)
    except TimeMapperError as error:
        raise ArgumentError("start", start, '"all", "new" or an instant') from error


class RefusedError(TransientError):
    """The broker answered that it does not do what it was asked."""


@dataclass
class Messages:
    """Messages that came together; their bodies are there until they are read."""

    identities: Sequence[Identity]
    bodies: Sequence[bytes]
    on_settled: Callable[[list[Identity]], object]  # see `Ack`
    part: Any = None  # of the broker, such as a partition, where its identities are of that
    spans: Mapping[Identity, Any] = field(default_factory=dict)
    begun: int = 0  # how many were pushed, the last of them perhaps in part


class BrokerSource(ABC):
    """Binds to a broker when it is subscribed to, and fetches messages until it is unsubscribed.

    Args:
        unacked: Messages that are not settled.
        items: The path to the lists of events in each object: ``"Records"``, ``"streams[].values[]"``.

    Attributes:
        bound: Set when messages can be fetched.
        lag: Messages that the broker has and did not deliver yet, by partition or consumer; as of the last seconds.
    """

    raw = True
    _max_pending = _prefetch = 1 << 62  # messages that are held, and fetched at once
    _observer: ObserverBase[list[Any]]  # the latest
    _ended: asyncio.Future[None]  # its subscription

    def __init__(self, unacked: UnackedMessages, items: str | None = None) -> None:
        self._unacked = unacked
        self._items = () if items is None else items_path(items)
        self._waiting: deque[Messages] = deque()
        self._chunks = self._chunks_of_all()
        self._left = 0  # events until the loop has its turn
        self._events_each = 1.0  # how many events a message has, on average of the latest
        self._demand: Demand = UNBOUNDED
        self._fetching: asyncio.Future[None] | None = None
        self._tasks: tuple[asyncio.Future[None], ...] = ()  # that reply, and that measure the lag
        self.bound = asyncio.Event()
        self.lag: Mapping[str, int] = {}

    # ── what a broker adds ────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def _bind(self) -> None:
        """Connect, and create what is missing; what it raises is the stream's error."""

    @abstractmethod
    async def _fetch(self, number: int) -> Coroutine[Any, Any, object] | None:
        """Fetch so many messages at most, and `_take` them; return what to wait for before the next call."""

    @abstractmethod
    async def _send(self, kind: bytes, replies: Sequence[bytes]) -> None:
        """Send one of ``ACK``, ``NAK`` and ``IN_PROGRESS`` for each of some messages.

        What it could not send is sent again; all errors but TransientError fail the stream, and so does RefusedError.
        """

    async def _measure(self) -> Mapping[str, int]:
        """Ask the broker for `lag`."""
        return {}

    @abstractmethod
    def _describe(self, _: Any, identity: Identity) -> str:
        """Return the origin of a message's events."""

    @abstractmethod
    async def _disconnect(self) -> None: ...

    # ── lifecycle ─────────────────────────────────────────────────────────────────────────────────────────────────

    def stream(self, demand: Demand) -> Observable[list[Any]]:
        """Return the messages, several a chunk; one for which there is too little capacity comes in parts.

        Errors:
            TransientError: when the broker cannot be reached, or refuses.
            ArgumentError: when what is there cannot be consumed.
        """

        def subscribe(observer: ObserverBase[list[Any]], _: SchedulerBase | None = None) -> DisposableBase:
            def unsubscribe() -> None:
                ended.cancel()  # but no task: messages may be on their way, and have to be given back

            self._observer, self._demand = observer, demand
            ended = self._ended = asyncio.get_running_loop().create_future()
            self._fetching = asyncio.ensure_future(self._run(ended, self._fetching))
            return Disposable(unsubscribe)

        return Observable(subscribe)

    def _fail(self, error: Exception) -> None:
        if not self._ended.done():
            self._observer.on_error(error)  # which unsubscribes

    async def _run(self, ended: asyncio.Future[None], before: asyncio.Future[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            await self._bind()
            self.bound.set()
            if not ended.done() and not self._tasks:  # or nobody may be left to end them
                self._tasks = asyncio.ensure_future(self._reply()), asyncio.ensure_future(self._measure_lag())
            while not ended.done():
                self._push()
                capacity = self._demand.capacity()
                condition: Coroutine[Any, Any, object] | None = None
                if not capacity:
                    condition = self._demand.wait()
                elif not self._waiting and (left := self._max_pending - len(self._unacked)) > 0:
                    condition = await self._fetch(min(max(1, int(capacity / self._events_each)), self._prefetch, left))
                elif not self._waiting:
                    condition = self._unacked.fewer(self._max_pending)
                if condition is None:
                    await asyncio.sleep(0)
                    continue
                waiting: asyncio.Future[Any] = asyncio.ensure_future(condition)
                await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        except Exception as error:  # noqa: BLE001 - whatever it is ends the stream
            if not ended.done():
                self._fail(error)

    async def _stop_fetching(self) -> None:
        if self._fetching is not None:
            self._ended.cancel()
            await asyncio.wait({self._fetching})

    async def _reply(self) -> None:
        """Send replies until `release`. A failure is tried again; all but the network's are errors of the stream."""
        while asyncio.current_task() in self._tasks:  # clients swallow cancellations
            await self._unacked.wait()
            try:
                await self._unacked.flush(self._send)
            except Exception as error:  # noqa: BLE001 - this task has to outlive whatever a client raises
                if isinstance(error, RefusedError) or not isinstance(error, TransientError):
                    self._fail(error)
                await asyncio.sleep(PAUSE)
                self._unacked.wake()

    async def _measure_lag(self) -> None:
        while asyncio.current_task() in self._tasks:
            with suppress(TransientError):  # whatever it is, fetching has it too
                self.lag = await self._measure()
            await asyncio.sleep(LAG)

    async def aclose(self) -> None:
        """Fetch no more; what was not pushed is given back."""
        try:
            await self._stop_fetching()
        finally:
            self._chunks = self._chunks_of_all()
            for messages in self._waiting:
                self._unacked.give_back(messages.identities[messages.begun :])
            self._waiting.clear()

    async def release(self) -> None:
        """Send the replies that are left, give back what was not settled, and disconnect.

        Raises:
            RefusedError: when the broker does not take a reply.
        """
        tasks, self._tasks = self._tasks, ()
        for task in tasks:
            task.cancel()
        try:
            await self._stop_fetching()
            if tasks:
                await asyncio.wait(tasks[:1])  # the other may swallow its cancellation, and sleep
            self._unacked.give_back()
            while self._unacked.pending_replies:
                try:
                    await self._unacked.flush(self._send)
                except RefusedError:
                    raise
                except TransientError:
                    await asyncio.sleep(PAUSE)
        finally:
            await self._disconnect()

    # ── pushing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(
        self,
        identities: Sequence[Identity],
        replies: Sequence[bytes],
        bodies: Sequence[bytes],
        headers: Mapping[Identity, Mapping[str, bytes | None]] = MappingProxyType({}),
    ) -> None:
        """Have messages wait for `_push`; one that is malformed is passed on, to be rejected where keys are read."""
        identities, bodies = self._unacked.take(identities, replies, bodies)
        if identities:
            self._waiting.append(Messages(identities, bodies, self._unacked.settle, spans=self._spans(headers)))

    def _spans(self, headers: Mapping[Identity, Mapping[str, bytes | None]]) -> Mapping[Identity, Any]:
        """Return the span contexts of messages that have headers, where the run is traced."""
        spans = dict[Identity, Any]()
        for identity, each in headers.items():
            texts = {name.lower(): (value or b"").decode(errors="replace") for name, value in each.items()}
            if (span := self._demand.span(texts)) is not None:
                spans[identity] = span
        return spans

    def _push(self) -> None:
        """Push what there is capacity for; some of it, where it is much."""
        self._left = SLICE
        for chunk in self._chunks:
            if chunk is None or self._ended.done():
                return
            self._observer.on_next(chunk)

    def _chunks_of_all(self) -> Iterator[Chunk | None]:
        """Yield the events of messages; None when it is time for a turn of the loop."""
        while True:
            if self._waiting:
                yield from self._chunks_of(self._waiting[0])
            else:
                yield None

    def _chunks_of(self, messages: Messages) -> Iterator[Chunk | None]:
        """Yield the events of some messages, in parts for which there is capacity."""
        counts, events, text = yield from self._read(messages.bodies[: self._number(messages.bodies)])
        number = len(counts)
        self._events_each += (len(events) / number - self._events_each) * (1 - (1 - WEIGHT) ** number)
        first, messages.bodies = len(messages.identities) - len(messages.bodies), messages.bodies[number:]
        identities = messages.identities[first : first + number]
        spans = map(messages.spans.get, identities) if messages.spans else repeat(None)
        acks = list(map(Ack, repeat(messages.on_settled), identities, spans, counts))
        each = list(chain.from_iterable(map(repeat, acks, counts)))
        ends = list(accumulate(counts))
        at = 0
        while at < len(events):
            part = events[at : at + SLICE]
            size = sum(map(len, part))
            part = part if size <= PIECE else part[: slice_of(part, SLICE)]
            while part and not self._demand.accepts(part):  # it may take more than its capacity of what is held already
                part = part[: max(self._demand.capacity(), len(part) // 2)]
            if self._left <= 0 or self._ended.done() or not part:
                yield None
                continue
            before, at = at, at + len(part)
            messages.begun = first + bisect_left(ends, at) + 1
            self._left -= max(len(part), size // BYTES)
            whole = text if len(part) == len(events) else None
            yield Chunk(part, acks=each[before:at], origin=partial(self._describe, messages.part), text=whole)
        messages.begun = first + number
        if empty := [identity for identity, many in zip(identities, counts, strict=True) if not many]:
            messages.on_settled(empty)
        if not messages.bodies:
            self._waiting.popleft()

    def _number(self, bodies: Sequence[bytes]) -> int:
        """Return how many messages to read at once."""
        return slice_of(bodies, max(1, int(SLICE / self._events_each)))

    def _read(self, bodies: Sequence[bytes]) -> Generator[None, None, Events]:
        """Return the events of some messages, of the first at least."""
        if not self._items and (lines := lines_of(bodies)) is not None:
            return lines
        counts, events = list[int](), list[bytes]()
        for body in bodies:
            before = len(events)
            reader = Reader(items=self._items, max_event=MAX_EVENT, max_body=MAX_BODY, max_events=MAX_EVENTS)
            by_source = isinstance(body, Malformed)
            try:
                for step, chunk in enumerate(((body,),) if by_source else chain(reader.feed(body), reader.end())):
                    events += chunk
                    if step >= STEPS:
                        yield
            except (DecodeError, OSError, EOFError) as error:
                events[before:] = [Malformed(body[:SHOWN], str(error))]
            if reader.blank and len(events) == before:
                events.append(body)
            counts.append(len(events) - before)
            if not len(counts) % READS:
                yield
            if len(events) >= SLICE:
                break
        return counts, events, None
