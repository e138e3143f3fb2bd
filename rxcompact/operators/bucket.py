"""An open bucket: what is kept of each key, in O(1) an event and O(keys) of memory."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from itertools import islice, repeat
from operator import itemgetter, length_hint
from typing import Any, Literal, TypeAlias, get_args

from rxcompact.acks import Ack, Waiting
from rxcompact.clock import INFINITY
from rxcompact.errors import AccumulatorError, RxCompactError
from rxcompact.events import Bounds, Compacted, Window
from rxcompact.fields import FATAL
from rxcompact.keys import MAX_LENGTH, are_texts

Accumulator: TypeAlias = Callable[[Any, Any], Any]
Keep: TypeAlias = Literal["first", "last"] | Accumulator
Field: TypeAlias = Literal["count", "first_seen", "last_seen"]
FIELDS: tuple[Field, ...] = get_args(Field)
Seen: TypeAlias = float | Sequence[float]
"""The instant at which all events arrived, or the event time of each, in any order."""
Reject: TypeAlias = Callable[[Any, RxCompactError], None]
Row: TypeAlias = list[Any]

NOTHING: Iterator[Any] = repeat(None)
_first_seen = itemgetter(2)  # of a row


class Items:
    """Events that are made when they are asked for: a `Collection`, which as a base makes `isinstance` slow."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Compacted]: ...

    def __contains__(self, item: object) -> bool:
        return any(item == compacted for compacted in self)


class Bucket(Items):
    """The distinct events of a window; once closed, the items of that window.

    Args:
        reject: Called with an event that cannot be added, and why.
    """

    texts: bool
    """Whether it can `add_texts`, for all its keys are texts."""

    def __init__(self, reject: Reject) -> None:
        self.table: dict[Hashable, Any] = {}
        self.received = 0
        self.size = 0
        """Bytes of its events, where they are counted."""
        self.acks: Waiting = defaultdict(list)
        self._reject = reject
        self._bounds: Bounds | None = None
        self._oldest_keys: Iterator[Hashable] = iter(())

    def __len__(self) -> int:
        return len(self.table)

    def known(self) -> int:
        return len(self.table)

    def absorbs(self, key: Hashable, time: float = INFINITY) -> bool:
        """Return whether an event of this key and time makes nothing more to emit."""
        del time
        return key in self.table

    def add(self, keys: Sequence[Hashable], events: Sequence[Any], seen: Seen) -> None:
        """Add events."""
        self.texts = False
        self.received += len(keys)
        self._fill(keys, events, seen)

    @abstractmethod
    def add_texts(self, keys: Iterable[Any], events: Sequence[Any], arrived: float) -> int:
        """Add events up to one whose key is not known to be a text; return how many.

        No other value is equal to a text, so that keys which are in the table are known.
        """

    def _refuse(self, event: Any, error: RxCompactError) -> None:
        self.received -= 1
        self._reject(event, error)

    @abstractmethod
    def _fill(self, keys: Iterable[Hashable], events: Iterable[Any], seen: Seen) -> None: ...

    def add_sized(self, keys: Sequence[Hashable], events: Sequence[Any], seen: Seen, *, replacing: bool) -> None:
        """Add events, which may be ``replacing`` those that are held, and count their bytes."""
        table, before = self.table, len(self.table)
        if replacing:
            self.size -= self._size_of(filter(None, map(table.get, dict.fromkeys(keys))))
        self.add(keys, events, seen)
        if replacing:
            self.size += self._size_of(filter(None, map(table.get, dict.fromkeys(keys))))
        else:
            self.size += self._size_of(islice(reversed(table.values()), len(table) - before))

    def _size_of(self, values: Iterable[Any]) -> int:
        """Return the bytes of the events in values of the table."""
        return sum(map(len, values))

    @abstractmethod
    def oldest(self) -> float | None: ...

    @abstractmethod
    def _pop(self, key: Hashable) -> Compacted: ...

    def evict(self) -> tuple[Compacted, Sequence[Ack]]:
        """Remove the oldest key; return it, and what waits for it."""
        # from a list of the keys, made anew when it is used up: a dict that loses its first key over and over takes
        # longer to find it each time
        for _ in range(2):
            for key in self._oldest_keys:
                if self.size:
                    self.size -= self._size_of((self.table[key],))
                return self._pop(key), self.acks.pop(key, ())
            self._oldest_keys = iter(list(self.table))
        raise KeyError("the bucket is empty")

    def wait(self, keys: Iterable[Hashable], acks: Iterable[Ack]) -> None:
        """Have each ack wait for a key; in C, for each event has one."""
        deque(map(list.append, map(self.acks.__getitem__, keys), acks), maxlen=0)

    def close(self, bounds: Bounds) -> Window:
        """Return the window; nothing may be added after."""
        self._bounds = bounds
        return Window(bounds, self.received, self, acks=self.acks, size=self.size)


class EventBucket(Bucket):
    """Keeps of each key an event, and when the key first arrived: filled in C, a chunk at a time."""

    texts = True

    def __init__(self, reject: Reject, keep: Keep, fields: Collection[Field]) -> None:
        super().__init__(reject)
        self._last = keep == "last"
        self._seen = "first_seen" in fields
        self._arrivals: deque[float] = deque()  # of each key, in the order of the table

    def add_texts(self, keys: Iterable[Any], events: Sequence[Any], arrived: float) -> int:
        table, before = self.table, len(self.table)
        try:
            self._put(keys, events)
            if are_texts(list(islice(reversed(table), len(table) - before))):
                self._arrivals.extend(repeat(arrived, len(table) - before))
                self.received += len(events)
                return len(events)
        except FATAL:
            raise
        except BaseException:  # noqa: BLE001, S110 - of a key's own methods, which are looked at then
            pass
        for _ in range(len(table) - before):
            table.popitem()
        return 0

    def _put(self, keys: Iterable[Hashable], events: Iterable[Any]) -> None:
        if self._last:
            self.table.update(zip(keys, events, strict=True))
        else:
            deque(map(self.table.setdefault, keys, events), maxlen=0)

    def _fill(self, keys: Iterable[Hashable], events: Iterable[Any], seen: Any) -> None:
        self._put(keys, events)
        self._arrivals.extend(repeat(seen, len(self.table) - len(self._arrivals)))

    def oldest(self) -> float | None:
        return self._arrivals[0] if self._arrivals else None

    def _pop(self, key: Hashable) -> Compacted:
        arrived = self._arrivals.popleft()
        return Compacted(key, self.table.pop(key), None, arrived if self._seen else None)

    def __iter__(self) -> Iterator[Compacted]:
        seen = self._arrivals if self._seen else NOTHING
        return map(Compacted, self.table, self.table.values(), NOTHING, seen, NOTHING, repeat(self._bounds))


class Rows(Items):
    """The events of rows, which have their keys behind the fields where these are not given.

    Args:
        bounds: Those of all, or a function that gives those of a row.
    """

    def __init__(
        self,
        keys: Iterable[Hashable] | None,
        rows: Collection[Row],
        kept: tuple[bool, ...],
        bounds: Bounds | Callable[[Row], Bounds] | None = None,
    ) -> None:
        self._keys, self._rows, self._kept, self._bounds = keys, rows, kept, bounds

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Compacted]:
        rows, bounds = self._rows, self._bounds
        keys = map(itemgetter(4), rows) if self._keys is None else self._keys
        kept = [map(itemgetter(at), rows) if keep else NOTHING for at, keep in enumerate(self._kept, 1)]
        own = map(bounds, rows) if callable(bounds) else repeat(bounds)
        return map(Compacted, keys, map(itemgetter(0), rows), *kept, own)


class RowBucket(Bucket):
    """Keeps of each key a row ``[event, count, first_seen, last_seen]``, filled by a plain loop."""

    def __init__(self, reject: Reject, keep: Keep, fields: Collection[Field]) -> None:
        super().__init__(reject)
        self._last = keep == "last"
        self._accumulate = keep if callable(keep) else None
        self._seed: Callable[[Any], Any] | None = getattr(keep, "seed", None)
        self._kept = tuple(field in fields for field in FIELDS)
        self._timed = False
        self.texts = self._accumulate is None

    def add_texts(self, keys: Iterable[Any], events: Sequence[Any], arrived: float) -> int:
        left = iter(events)
        try:
            keys = list(keys)
            bad = self._fill_arrived(zip(keys, left, strict=True), arrived, texts=True)
        except FATAL:
            raise
        except BaseException:  # noqa: BLE001 - of a key's own methods
            bad = True
        added = max(0, len(events) - length_hint(left) - bad)
        self.received += added
        return added

    def _fill(self, keys: Iterable[Hashable], events: Iterable[Any], seen: Seen) -> None:
        if not isinstance(seen, float | int):
            self._timed = True
            self._fill_timed(zip(keys, events, seen, strict=True))
        elif self._accumulate is not None:
            self._fill_timed(zip(keys, events, repeat(seen), strict=False))
        else:
            self._fill_arrived(zip(keys, events, strict=True), seen)

    def _fill_arrived(self, pairs: Iterable[tuple[Any, Any]], arrived: float, *, texts: bool = False) -> bool:
        """Add events. Where all keys are to be ``texts``, stop at a new one that is not; return whether it did."""
        table, get, last = self.table, self.table.get, self._last
        for key, event in pairs:
            row = get(key)
            if row is None:
                if texts and (type(key) is not str or len(key) > MAX_LENGTH):
                    return True
                table[key] = [event, 1, arrived, arrived]
            else:
                row[1] += 1
                row[3] = arrived
                if last:
                    row[0] = event
        return False

    def _fill_timed(self, triples: Iterable[tuple[Hashable, Any, float]]) -> None:
        table, get, last, merges = self.table, self.table.get, self._last, self._accumulate is not None
        for key, event, time in triples:
            row = get(key)
            if merges:
                row = row or [event, 0, time, time]
                if self._merge(row, event, time):
                    table[key] = row
            elif row is None:
                table[key] = [event, 1, time, time]
            else:
                row[1] += 1
                if last:
                    row[0] = event
                if time > row[3]:
                    row[3] = time
                elif time < row[2]:
                    row[2] = time

    def _merge(self, row: Row, event: Any, time: float, *, earlier: bool = True) -> bool:
        """Add an event to a row, or begin the row with it; return whether the caller's function could do that."""
        try:
            if not row[1]:
                row[0] = event if self._seed is None else self._seed(event)
            elif self._accumulate is not None:
                row[0] = self._accumulate(row[0], event)
            elif self._last:
                row[0] = event
        except BaseException as cause:  # noqa: BLE001 - the caller's function may raise anything
            self._refuse(event, AccumulatorError.of(cause))
            return False
        row[1] += 1
        if time > row[3]:
            row[3] = time
        elif earlier and time < row[2]:
            row[2] = time
        return True

    def _size_of(self, values: Iterable[Any]) -> int:
        events = map(itemgetter(0), values)
        if self._accumulate is not None:  # what it makes of them may be anything, which is not counted
            return sum(len(event) for event in events if isinstance(event, bytes))
        return sum(map(len, events))

    def oldest(self) -> float | None:
        rows = self.table.values()
        # arrivals are in order
        return min(map(_first_seen, rows), default=None) if self._timed else next(map(_first_seen, rows), None)

    def _pop(self, key: Hashable) -> Compacted:
        row = self.table.pop(key)
        self.received -= row[1]
        return next(iter(Rows((key,), (row,), self._kept)))

    def __iter__(self) -> Iterator[Compacted]:
        return iter(Rows(self.table, self.table.values(), self._kept, self._bounds))
