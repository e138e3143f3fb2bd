"""What every durable source does with messages: their events are pushed as there is capacity, with acknowledgements."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any

from reactivex.abc import ObserverBase

from rxcompact.acks import Ack, Chunk
from rxcompact.clock import count
from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.errors import DecodeError
from rxcompact.reader.position import SHOWN, Malformed
from rxcompact.reader.reader import Reader
from rxcompact.reader.scan import are_objects
from rxcompact.reader.text import MIB

MAX_BODY = 16 * MIB  # of the largest message, decompressed
WEIGHT = 1 / 64  # of the latest message in `Intake.events_each`


class Intake:
    """Messages in order, which wait here for capacity, and while nobody is subscribed.

    Args:
        settled: Called with the identities of messages when all their events are settled.
        together: Messages that are pushed, and so settled, together at most: an acknowledgement for each costs several
            times as much as its message, and an event that waits for long keeps so many from being settled.
        describe: Gives the origin of a rejected event, for its message's identity.

    Attributes:
        events_each: How many events a message has, on average of the latest.
    """

    def __init__(
        self,
        settled: Callable[[Sequence[Any]], object],
        *,
        together: int = 1,
        describe: Callable[[Any], str] = str,
    ) -> None:
        self.events_each = 1.0
        self._settled = settled
        self._together = count("together", together)
        self._describe = describe
        self._identities: deque[Any] = deque()  # of messages that are not parsed yet
        self._bodies: deque[bytes] = deque()
        self._parsed: deque[tuple[Any, list[Any]]] = deque()
        self._partial: Ack | None = None  # of the first message, when a part of it has been pushed
        self._observer: ObserverBase[list[Any]] | None = None
        self._demand: Demand = UNBOUNDED

    def attach(self, observer: ObserverBase[list[Any]], demand: Demand) -> None:
        """Push to this observer from now on."""
        self._observer, self._demand = observer, demand

    def detach(self) -> None:
        """Push nothing more."""
        self._observer = None

    def __len__(self) -> int:
        return len(self._parsed) + len(self._bodies)

    def take(self, identities: Iterable[Any], bodies: Iterable[bytes]) -> None:
        """Have messages wait for `push`; one that is malformed is passed on, to be rejected where keys are read."""
        self._identities.extend(identities)
        self._bodies.extend(bodies)

    def push(self) -> None:
        """Push what there is capacity for."""
        while self and (observer := self._observer) is not None:
            capacity = self._demand.capacity()
            if not self._parsed and self._push_or_parse(observer, capacity):
                continue
            if self._partial is None and (identities := self._fitting(capacity)):
                contents = [self._parsed.popleft()[1] for _ in identities]
                observer.on_next(self._chunk(chain(*contents), identities, contents))
            elif not self._push_part(observer, capacity):
                return

    def _push_or_parse(self, observer: ObserverBase[list[Any]], capacity: int) -> bool:
        """Push the next messages and return True, if each is one event and there is capacity; else parse them."""
        number = min(self._together, len(self._bodies))
        identities = [self._identities.popleft() for _ in range(number)]
        bodies = [self._bodies.popleft() for _ in range(number)]
        block = b"\n".join(bodies)
        one_each = all(bodies) and block.count(b"\n") == number - 1 and are_objects(bodies, block)
        if one_each and number <= capacity:
            self.events_each = 1 + (self.events_each - 1) * (1 - WEIGHT) ** number
            observer.on_next(self._chunk(bodies, identities, bodies))
            return True
        for identity, body in zip(identities, bodies, strict=True):
            events = [body] if one_each else _events(body)
            self.events_each += (len(events) - self.events_each) * WEIGHT
            self._parsed.append((identity, events))
        return False

    def _chunk(self, events: Iterable[Any], identities: Sequence[Any], contents: Sequence[Any]) -> Chunk:
        ack = Ack(partial(self._settled, identities))
        return Chunk(events, ack, origin=partial(self._origin, identities, contents))

    def _origin(self, identities: Sequence[Any], contents: Sequence[Any], event: Any) -> str | None:
        """Return the origin of an event: it is the content of a message, or in the list of its events."""
        for identity, content in zip(identities, contents, strict=True):
            if content is event or (isinstance(content, list) and any(each is event for each in content)):
                return self._describe(identity)
        return None

    def _fitting(self, capacity: int) -> list[Any]:
        """Return the identities of the first messages, as many as there is capacity for."""
        identities: list[Any] = []
        for identity, events in self._parsed:
            capacity -= len(events)
            if capacity < 0 or len(identities) == self._together:
                break
            identities.append(identity)
        return identities

    def _push_part(self, observer: ObserverBase[list[Any]], capacity: int) -> bool:
        """Push the first message if its keys are held already, or else a part of it; return whether any was."""
        identity, events = self._parsed[0]
        if self._demand.accepts(events):
            capacity = len(events)
        elif not capacity:
            return False
        ack = self._partial
        if ack is None:
            ack = self._partial = Ack(partial(self._settled, [identity]))
            ack.retain()  # until the last part is pushed
        self._parsed[0] = (identity, events[capacity:])
        observer.on_next(Chunk(events[:capacity], ack, origin=self._describe(identity)))
        if capacity >= len(events):
            self._parsed.popleft()
            self._partial = None
            ack.release()
        return True

    def leave(self) -> list[Any]:
        """Forget the messages that wait; return the identities of those of which nothing was pushed."""
        identities = [*(identity for identity, _ in self._parsed), *self._identities]
        if self._partial is not None:
            del identities[0]
        for waiting in (self._parsed, self._identities, self._bodies):
            waiting.clear()
        self._partial = None
        return identities


def _events(body: bytes) -> list[bytes]:
    if isinstance(body, Malformed):  # by the source
        return [body]
    reader = Reader(max_body=MAX_BODY)
    try:
        events = [event for chunk in (*reader.feed(body), *reader.end()) for event in chunk]
    except (DecodeError, OSError, EOFError) as error:
        return [Malformed(body[:SHOWN], str(error))]
    return [body] if reader.blank else events
