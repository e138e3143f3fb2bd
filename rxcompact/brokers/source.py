"""What the sources of brokers share: messages are fetched, pushed as there is capacity, acknowledged, given back."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import chain, islice
from typing import Any, TypeAlias

from reactivex import Observable
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

from rxcompact.acks import Ack, Chunk
from rxcompact.brokers.unacked import Identity, UnackedMessages
from rxcompact.clock import count
from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.errors import ArgumentError, DecodeError, TimeMapperError, TransientError
from rxcompact.operators.turns import BYTES
from rxcompact.reader.items import LARGE, LETTER, ItemsPath
from rxcompact.reader.position import SHOWN, Malformed
from rxcompact.reader.reader import Reader
from rxcompact.reader.scan import are_objects, slice_of
from rxcompact.reader.text import MIB
from rxcompact.timestamps import posix

MAX_BODY, MAX_EVENTS = 16 * MIB, 1_000_000  # of the largest message, decompressed
MAX_EVENT = 2 * MIB  # bytes of the largest event; a larger one is rejected
STEPS = 3  # of the reader, a few milliseconds each, before the loop has its turn; a small message takes two
SLICE = 1_000  # events that are pushed at once, but for a few: the loop has its turn before bad ones take 50 ms
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


class BrokerSource(ABC):
    """Binds to a broker when it is subscribed to, and fetches messages until it is unsubscribed.

    Args:
        unacked: Messages that are not settled.
        together: Messages that are pushed, and so settled, together at most: an acknowledgement for each costs several
            times as much as its message, and an event that waits for long keeps so many from being settled.
        items: The path to the lists of events in each object.
    """

    raw = True

    def __init__(self, unacked: UnackedMessages, together: int, items: str | None = None) -> None:
        self._unacked = unacked
        self._items = None if items is None else ItemsPath(items)
        self._reading: tuple[list[bytes], Iterator[None]] | None = None  # of the first message, while that takes long
        self._together = count("together", together)
        # messages that wait for capacity; before the others those that were parsed and did not fit, with their events
        self._waiting: deque[tuple[Identity, bytes | list[bytes]]] = deque()
        self._partial: Ack | None = None  # of the first of them, when a part of it has been pushed
        self._events_each = 1.0  # how many events a message has, on average of the latest
        self._observer: ObserverBase[list[Any]] | None = None
        self._demand: Demand = UNBOUNDED
        self._ended: asyncio.Future[None] | None = None  # of the latest subscription
        self._fetching: asyncio.Future[None] | None = None
        self._replying: asyncio.Future[None] | None = None
        self._measuring: asyncio.Future[None] | None = None
        self._bound = asyncio.Event()
        self.lag: Mapping[str, int] = {}
        """Messages that the broker has and did not deliver yet, by partition or consumer; as of the last seconds."""

    async def bound(self) -> None:
        """Wait until messages can be fetched."""
        await self._bound.wait()

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

    async def _confirmed(self) -> bool:
        """Return whether the broker has read all replies that were sent."""
        return True

    async def _measure(self) -> Mapping[str, int]:
        """Ask the broker for `lag`."""
        return {}

    @abstractmethod
    def _describe(self, identity: Identity) -> str:
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
            self._observer, self._demand = observer, demand
            ended = self._ended = asyncio.get_running_loop().create_future()
            self._fetching = asyncio.ensure_future(self._run(ended, self._fetching))
            return Disposable(partial(self._end, ended))

        return Observable(subscribe)

    def _end(self, ended: asyncio.Future[None] | None) -> None:
        """End a subscription. Its task is not cancelled: messages may be on their way, and have to be given back."""
        if ended is not None:
            ended.cancel()
        if ended is self._ended:  # there is no later one
            self._observer = None

    def _fail(self, error: Exception) -> None:
        if self._observer is not None:
            self._observer.on_error(error)  # which unsubscribes

    async def _run(self, ended: asyncio.Future[None], before: asyncio.Future[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            await self._bind()
            self._bound.set()
            self._replying = self._replying or asyncio.ensure_future(self._reply())
            self._measuring = self._measuring or asyncio.ensure_future(self._measure_lag())
            while not ended.done():
                self._push()
                capacity = self._demand.capacity()
                number = max(1, int(capacity / self._events_each))
                condition: Coroutine[Any, Any, object] | None = None
                if not capacity:
                    condition = self._demand.wait()
                elif not self._waiting:
                    condition = await self._fetch(number)
                waiting: asyncio.Future[Any] = asyncio.ensure_future(condition or asyncio.sleep(0))
                await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        except Exception as error:  # noqa: BLE001 - whatever it is ends the stream
            if not ended.done():
                self._fail(error)

    async def _stop_fetching(self) -> None:
        self._end(self._ended)
        if self._fetching is not None:
            await asyncio.wait({self._fetching})

    async def _reply(self) -> None:
        """Send replies until `release`. A failure is tried again; all but the network's are errors of the stream."""
        while self._replying is asyncio.current_task():  # clients swallow cancellations
            await self._unacked.wait()
            try:
                await self._unacked.flush(self._send)
            except Exception as error:  # noqa: BLE001 - this task has to outlive whatever a client raises
                if isinstance(error, RefusedError) or not isinstance(error, TransientError):
                    self._fail(error)
                await asyncio.sleep(PAUSE)
                self._unacked.wake()

    async def _measure_lag(self) -> None:
        while self._measuring is asyncio.current_task():  # as above
            with suppress(TransientError):  # whatever it is, fetching has it too
                self.lag = await self._measure()
            await asyncio.sleep(LAG)

    async def aclose(self) -> None:
        """Fetch no more; what was not pushed is given back."""
        try:
            await self._stop_fetching()
        finally:
            identities = [identity for identity, _ in self._waiting]
            self._unacked.give_back(identities[1:] if self._partial else identities)
            self._waiting.clear()
            self._partial = self._reading = None

    async def release(self) -> None:
        """Send the replies that are left, give back what was not settled, and disconnect.

        Raises:
            RefusedError: when the broker does not take a reply.
        """
        replying, self._replying = self._replying, None
        measuring, self._measuring = self._measuring, None
        if measuring is not None:
            measuring.cancel()
        try:
            await self._stop_fetching()
            self._unacked.give_back()
            if replying is not None:
                replying.cancel()
                await asyncio.wait({replying})
            while self._unacked.pending_replies or not await self._confirmed():
                try:
                    await self._unacked.flush(self._send)
                except RefusedError:
                    raise
                except TransientError:
                    await asyncio.sleep(PAUSE)
        finally:
            await self._disconnect()

    # ── pushing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, identities: Sequence[Identity], replies: Sequence[bytes], bodies: Sequence[bytes]) -> None:
        """Have messages wait for `_push`; one that is malformed is passed on, to be rejected where keys are read."""
        self._waiting.extend(zip(*self._unacked.take(identities, replies, bodies), strict=True))

    def _push(self) -> None:
        """Push what there is capacity for; some of it, where it is much."""
        pushed = 0
        while self._waiting and self._observer is not None and pushed < SLICE:
            identity, content = self._waiting[0]
            if isinstance(content, bytes):
                pushed += self._push_together(self._observer)
            elif (number := self._push_part(self._observer, identity, content)) is not None:
                pushed += number
            else:
                return

    def _push_together(self, observer: ObserverBase[list[Any]]) -> int:
        """Push the next messages as one chunk; if they do not fit, they wait to be pushed one by one."""
        number = min(self._together, len(self._waiting), max(1, int(SLICE / self._events_each)))
        bodies: list[Any] = [body for _, body in islice(self._waiting, number)]
        bodies = bodies[: slice_of(bodies, number)]
        contents = self._read(bodies)
        if not contents:
            return SLICE
        number = len(contents)
        identities = [self._waiting.popleft()[0] for _ in contents]
        origin = partial(self._origin, identities, contents, {})
        chunk = Chunk(chain.from_iterable(contents), Ack(partial(self._unacked.settle, identities)), origin=origin)
        self._events_each += (len(chunk) / number - self._events_each) * (1 - (1 - WEIGHT) ** number)
        if len(chunk) <= min(self._demand.capacity(), 2 * SLICE):
            observer.on_next(chunk)
            return max(len(chunk), sum(map(len, bodies)) // BYTES)
        self._waiting.extendleft(zip(reversed(identities), reversed(contents), strict=True))
        return 0

    def _read(self, bodies: Sequence[bytes]) -> list[list[bytes]]:
        """Return the events of each message, up to a slice; the next call goes on with one that takes long."""
        block = b"\n".join(bodies)
        one_each = all(bodies) and len(block) <= LARGE and block.count(b"\n") == len(bodies) - 1 and LETTER not in block
        if one_each and self._items is None and self._reading is None and are_objects(bodies, block):
            return [[body] for body in bodies]
        contents: list[list[bytes]] = []
        number = 0
        for body in bodies:
            if self._reading is None:
                found: list[bytes] = []
                self._reading = found, self._steps(body, found)
            events, steps = self._reading
            if len(list(islice(steps, STEPS))) == STEPS:
                break
            self._reading = None
            contents.append(events)
            if (number := number + len(events)) >= SLICE:
                break
        return contents

    def _steps(self, body: bytes, events: list[bytes]) -> Iterator[None]:
        """Read the events of a message into a list."""
        if isinstance(body, Malformed):  # by the source
            events.append(body)
            return
        reader = Reader(items=self._items, max_event=MAX_EVENT, max_body=MAX_BODY, max_events=MAX_EVENTS)
        try:
            for chunk in chain(reader.feed(body), reader.end()):
                events += chunk
                yield
        except (DecodeError, OSError, EOFError) as error:
            events[:] = [Malformed(body[:SHOWN], str(error))]
        else:
            events += [body] if reader.blank else []

    def _origin(
        self, identities: Sequence[Identity], contents: Sequence[list[bytes]], found: dict[int, Identity], event: Any
    ) -> str | None:
        if not found:  # searching for each event would take long, where many are rejected
            for identity, events in zip(identities, contents, strict=True):
                found.update(dict.fromkeys(map(id, events), identity))
        return self._describe(found[id(event)]) if id(event) in found else None

    def _push_part(self, observer: ObserverBase[list[Any]], identity: Identity, events: list[bytes]) -> int | None:
        """Push a part of the first message, of which there may be one; return how many events, or None."""
        part = events[: slice_of(events, SLICE)]
        if not self._demand.accepts(part):
            part = part[: self._demand.capacity()]
        if events and not part:
            return None
        if self._partial is None:
            self._partial = Ack(partial(self._unacked.settle, (identity,)))
            self._partial.retain()  # until the last part is pushed
        ack = self._partial
        self._waiting[0] = identity, events[len(part) :]
        observer.on_next(Chunk(part, ack, origin=self._describe(identity)))
        if len(part) == len(events):
            self._waiting.popleft()
            self._partial = None
            ack.release()
        return len(part)
