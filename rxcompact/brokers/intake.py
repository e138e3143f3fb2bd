"""Pushes the events of messages as there is capacity, with an acknowledgement for each message."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from reactivex.abc import ObserverBase

from rxcompact.acks import Ack, Chunk
from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.errors import ArgumentError, DecodeError
from rxcompact.reader.decompress import MIB
from rxcompact.reader.position import SHOWN, Malformed
from rxcompact.reader.reader import Reader
from rxcompact.reader.scan import are_objects

MAX_BODY = 16 * MIB
"""Bytes of the largest message, decompressed."""
WEIGHT = 1 / 64
"""Of the latest message in `Intake.events_each`."""


class Intake:
    """Messages in order; what has no room waits here, and stays when nobody subscribes for a while.

    Args:
        settled: Called with the identities of messages when all their events have met their ends.
        together: Messages that are pushed together at most, and settled together: an ack for each costs several
            times as much as its message, and an event that waits keeps so many from being settled.

    Attributes:
        events_each: How many events a message has, on average of the latest.
    """

    def __init__(self, settled: Callable[[Sequence[Any]], object], *, together: int = 1) -> None:
        if together < 1:
            raise ArgumentError("together", together, "at least 1")
        self.events_each = 1.0
        self._settled = settled
        self._together = together
        self._identities: deque[Any] = deque()  # of messages that are not taken apart yet
        self._bodies: deque[bytes] = deque()
        self._backlog: deque[tuple[Any, list[Any]]] = deque()
        self._begun: Ack | None = None  # of the first, of which a part has been pushed
        self._observer: ObserverBase[list[Any]] | None = None
        self._demand: Demand = UNBOUNDED

    def attach(self, observer: ObserverBase[list[Any]], demand: Demand) -> None:
        """Push to this observer from now on."""
        self._observer, self._demand = observer, demand

    def detach(self) -> None:
        """Push nothing more."""
        self._observer = None

    def __len__(self) -> int:
        """Return how many messages wait."""
        return len(self._backlog) + len(self._bodies)

    def take(self, identities: Iterable[Any], bodies: Iterable[bytes]) -> None:
        """Have messages wait for `push`.

        Args:
            identities: What ``settled`` and `leave` shall call them.
            bodies: Of each an event as JSON, an array or lines of them. One that cannot be taken apart is passed on as
                a line, to be refused with a reason where keys are read.
        """
        self._identities.extend(identities)
        self._bodies.extend(bodies)

    def push(self) -> None:
        """Push what there is room for."""
        while self and (observer := self._observer) is not None:
            room = self._demand.capacity()
            if not self._backlog and self._push_fresh(observer, room):
                continue
            if self._begun is None and (identities := self._fitting(room)):
                events = [event for _ in identities for event in self._backlog.popleft()[1]]
                observer.on_next(Chunk(events, Ack(partial(self._settled, identities))))
            elif not self._push_first(observer, room):
                return

    def _push_fresh(self, observer: ObserverBase[list[Any]], room: int) -> bool:
        """Push the next messages if each is one event and there is capacity, else split them; return whether pushed."""
        number = min(self._together, len(self._bodies))
        identities = [self._identities.popleft() for _ in range(number)]
        bodies = [self._bodies.popleft() for _ in range(number)]
        block = b"\n".join(bodies)
        singles = block.count(b"\n") == len(bodies) - 1 and are_objects(bodies, block)
        if singles and len(bodies) <= room:
            self.events_each = 1 + (self.events_each - 1) * (1 - WEIGHT) ** len(bodies)
            observer.on_next(Chunk(bodies, Ack(partial(self._settled, identities))))
            return True
        for identity, body in zip(identities, bodies, strict=True):
            events = [body] if singles else _events(body)
            self.events_each += (len(events) - self.events_each) * WEIGHT
            self._backlog.append((identity, events))
        return False

    def _fitting(self, room: int) -> list[Any]:
        """Return the identities of the first messages, as many as there is room for."""
        identities: list[Any] = []
        for identity, events in self._backlog:
            room -= len(events)
            if room < 0 or len(identities) == self._together:
                break
            identities.append(identity)
        return identities

    def _push_first(self, observer: ObserverBase[list[Any]], room: int) -> bool:
        """Push the first message if its keys are held already, or else a part of it; tell whether any was."""
        identity, events = self._backlog[0]
        if self._demand.accepts(events):
            room = len(events)
        elif not room:
            return False
        ack = self._begun
        if ack is None:
            ack = self._begun = Ack(partial(self._settled, [identity]))
            ack.retain()  # it is not settled before its last part is on its way
        self._backlog[0] = (identity, events[room:])
        observer.on_next(Chunk(events[:room], ack))
        if room >= len(events):
            self._backlog.popleft()
            self._begun = None
            ack.release()
        return True

    def leave(self) -> list[Any]:
        """Forget the messages that wait; return the identities of those of which nothing was pushed."""
        identities = [*(identity for identity, _ in self._backlog), *self._identities]
        if self._begun is not None:
            del identities[0]
        self._backlog.clear()
        self._identities.clear()
        self._bodies.clear()
        self._begun = None
        return identities


def _events(body: bytes) -> list[bytes]:
    reader = Reader(max_body=MAX_BODY)
    try:
        events = [event for chunk in (*reader.feed(body), *reader.end()) for event in chunk]
    except (DecodeError, OSError, EOFError) as error:
        return [Malformed(body[:SHOWN], str(error))]
    return [body] if reader.blank else events
