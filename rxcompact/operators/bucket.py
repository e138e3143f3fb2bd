"""An open bucket: what is kept of each key, in O(1) an event and O(keys) of memory."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from itertools import chain, compress, repeat
from typing import Any, Literal, TypeAlias

from rxcompact.acks import Ack
from rxcompact.errors import AccumulatorError, RxCompactError
from rxcompact.events import Compacted, Trigger, Window

Accumulator: TypeAlias = Callable[[Any, Any], Any]
Keep: TypeAlias = Literal["first", "last"] | Accumulator
Field: TypeAlias = Literal["count", "first_seen", "last_seen"]
FIELDS: tuple[Field, ...] = ("count", "first_seen", "last_seen")


class Bucket:
    """Distinct events by key, and of their counts and times what the caller wants kept.

    Work is done a chunk at a time by what runs in C: `dict.setdefault`, `dict.update`, `Counter.update`.
    Arrivals are kept as one mark per chunk that brought a new key, not one per event.
    """

    __slots__ = ("_counts", "_evicted", "_first", "_keep", "_last", "_marks", "_reject", "acks", "events", "received")

    def __init__(self, keep: Keep, fields: Collection[Field], reject: Callable[[Any, RxCompactError], None]) -> None:
        self.events: dict[Hashable, Any] = {}
        self.received = 0
        self.acks: list[tuple[Ack, Iterable[Hashable]]] = []
        self._keep: Keep = keep
        self._reject = reject
        self._counts: Counter[Hashable] | None = Counter() if "count" in fields else None
        self._first: dict[Hashable, float] | None = {} if "first_seen" in fields else None
        self._last: dict[Hashable, float] | None = {} if "last_seen" in fields else None
        self._marks: deque[tuple[int, float]] = deque()  # where in the order of keys an instant of arrival begins
        self._evicted = 0

    def add(self, keys: Sequence[Hashable], events: Sequence[Any], seen: float | Sequence[float]) -> None:
        """Take a chunk; ``seen`` is the instant at which all of it arrived, or the event time of each, in any order.

        Raises:
            TypeError: when a key cannot be hashed; the chunk may be added again without it.
        """
        if isinstance(seen, (float, int)):
            self._add_arrived(keys, events, seen)
        else:
            self._add_timed(keys, events, seen)

    def _add_arrived(self, keys: Sequence[Hashable], events: Sequence[Any], arrived: float) -> None:
        size = len(self.events)
        if self._first is not None:
            self._marks.append((size + self._evicted, arrived))
        try:
            taken = self._absorb(keys, events)
        finally:
            if self._first is not None and len(self.events) == size:
                self._marks.pop()
        if taken is not None:
            keys = list(compress(keys, taken))
        if self._last is not None:
            self._last.update(zip(keys, repeat(arrived), strict=False))

    def _add_timed(self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]) -> None:
        if (taken := self._absorb(keys, events)) is not None:
            keys, times = list(compress(keys, taken)), list(compress(times, taken))
        first, last = self._first, self._last
        if first is not None:
            for key, time in zip(keys, times, strict=True):
                if time < first.setdefault(key, time):
                    first[key] = time
        if last is not None:
            for key, time in zip(keys, times, strict=True):
                if time > last.setdefault(key, time):
                    last[key] = time

    def _absorb(self, keys: Sequence[Hashable], events: Sequence[Any]) -> list[bool] | None:
        taken: list[bool] | None = None
        received = len(keys)
        if self._keep == "first":
            deque(map(self.events.setdefault, keys, events), maxlen=0)
        elif self._keep == "last":
            self.events.update(zip(keys, events, strict=True))
        else:
            deque(map(hash, keys), maxlen=0)
            taken = list(map(self._accumulate, repeat(self._keep), keys, events))
            received = sum(taken)
            keys = list(compress(keys, taken))
        self.received += received
        if self._counts is not None:
            self._counts.update(keys)
        return taken

    def _accumulate(self, accumulator: Accumulator, key: Hashable, event: Any) -> bool:
        try:
            self.events[key] = accumulator(self.events[key], event) if key in self.events else event
        except Exception as cause:  # noqa: BLE001 - the caller's function may raise anything
            error = AccumulatorError(f"accumulator raised {cause!r}")
            error.__cause__ = cause
            self._reject(event, error)
            return False
        return True

    def retain(self, ack: Ack, keys: Sequence[Hashable]) -> None:
        """Have an ack wait for keys that were added."""
        if keys:
            ack.retain()
            self.acks.append((ack, dict.fromkeys(keys)))

    def oldest(self) -> float | None:
        """Return the earliest ``first_seen``, POSIX seconds, where it is kept and there is any."""
        if self._first:  # event times, in any order
            return min(self._first.values())
        return self._marks[0][1] if self._marks and self.events else None

    def evict(self) -> Compacted:
        """Take out the oldest key."""
        if not isinstance(self.events, OrderedDict):
            # a plain dict that loses its oldest key again and again looks longer for it each time
            self.events = OrderedDict(self.events)
        key, event = next(iter(self.events.items()))
        del self.events[key]
        while len(self._marks) > 1 and self._marks[1][0] <= self._evicted:
            self._marks.popleft()
        arrived = self._marks[0][1] if self._marks else None
        self._evicted += 1
        count = None if self._counts is None else self._counts.pop(key)
        self.received -= count or 0  # which is of what the window has
        return Compacted(
            key,
            event,
            count,
            arrived if not self._first else self._first.pop(key),
            None if self._last is None else self._last.pop(key),
        )

    def window(self, opened: float, closed: float, trigger: Trigger) -> Window:
        """Close the bucket; nothing may be added after."""
        keys = self.events
        columns = (
            keys,
            keys.values(),
            _column(self._counts, keys),
            self._arrivals() if self._marks else _column(self._first, keys),
            _column(self._last, keys),
        )
        return Window(opened, closed, trigger, self.received, columns, acks=self.acks)

    def _arrivals(self) -> Iterator[float]:
        # keys are in order of arrival: each mark holds from its position to the next mark's
        starts = [max(0, start - self._evicted) for start, _ in self._marks]
        ends = [*starts[1:], len(self.events)]
        lengths = (end - start for start, end in zip(starts, ends, strict=True))
        return chain.from_iterable(map(repeat, (time for _, time in self._marks), lengths))


def _column(kept: dict[Hashable, Any] | None, keys: Iterable[Hashable]) -> Iterable[Any]:
    return repeat(None) if kept is None else map(kept.__getitem__, keys)
