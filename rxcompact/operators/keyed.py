"""Buckets whose keys have windows of their own, or first events that leave ahead of their repeats."""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import count, repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rxcompact.acks import Ack, Waiting, retain
from rxcompact.clock import INFINITY
from rxcompact.errors import LateError, contained
from rxcompact.events import Bounds, Compacted, Window
from rxcompact.operators.bucket import Field, Keep, Reject, Row, RowBucket, Rows, Seen

if TYPE_CHECKING:
    from rxcompact.operators.compact import Compact

NO_ACKS: Iterator[Sequence[Ack]] = repeat(())
EVENT, COUNT, FIRST, LAST, KEY, OPENED, TOUCHED, OPEN, SIZE = range(9)
"""Of a row. ``OPENED`` and ``TOUCHED``, the first and last event, are monotonic instants or event times."""
STALE = 1000
"""Rows that wait though they are closed, or twice, before they are removed."""
_key, _count, _opened, _size = map(itemgetter, (KEY, COUNT, OPENED, SIZE))


class KeyedBucket(RowBucket):
    """Closes the rows that are due, in O(1) an event: those that open together wait together to be looked at again.

    A row with a count of 0 is a key whose first event has left and that was not repeated.

    Attributes:
        leads: First events that leave at once, where there is a leading edge.
    """

    def __init__(self, options: Compact, reject: Reject, keep: Keep, fields: Collection[Field]) -> None:
        super().__init__(reject, keep, fields)
        self.texts = False
        self.incoming: Iterator[Sequence[Ack]] = NO_ACKS  # of each event that is added next
        self._acks: Sequence[Ack] = ()  # of the event that is being added
        self.leads: list[Row] = []
        self._lead_acks: Waiting = defaultdict(list)
        self.now = 0.0
        self.timespan = options.timespan if options.per_key else INFINITY  # else rows end with the bucket
        self.gap = INFINITY if options.gap is None else options.gap
        self._shortest = min(self.timespan, self.gap)
        self._leading, self._trailing = options.leading, options.trailing
        self._held, self._is_sized = 0, options.raw
        self._queue: list[tuple[float, int, list[Row]]] = []  # a heap: when rows are looked at, the first of them last
        self._numbers = count()
        self._row_acks: defaultdict[int, list[Ack]] = defaultdict(list)  # by the identity of a row

    def __len__(self) -> int:
        return self._held

    def absorbs(self, key: Hashable, time: float = INFINITY) -> bool:
        del time
        row = self.table.get(key)
        return row is not None and bool(row[COUNT] or not self._trailing)

    def add_sized(self, keys: Sequence[Hashable], events: Sequence[Any], seen: Seen, *, replacing: bool) -> None:
        self.add(keys, events, seen)
        if replacing:
            self._measure(filter(None, map(self.table.get, dict.fromkeys(keys))))

    def _measure(self, rows: Iterable[Row]) -> None:
        """Count the bytes of the events in rows; what an accumulator makes of them may be anything, and counts none."""
        for row in rows if self._is_sized else ():
            size = len(row[EVENT]) if type(row[EVENT]) is bytes else 0
            self.size += size - row[SIZE]
            row[SIZE] = size

    # ── events ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _fill(self, keys: Iterable[Hashable], events: Iterable[Any], seen: Any) -> None:
        table, get, now, last = self.table, self.table.get, self.now, self._last
        is_plain, began, fresh, incoming = self._is_plain(), self._began(), list[Row](), self.incoming
        if isinstance(seen, float | int):
            seen = repeat(seen)
        else:
            is_plain = False
        for key, event, time, self._acks in zip(keys, events, seen, incoming, strict=False):
            row = get(key)
            if row is None:
                table[key] = row = [event, began, time, time, key, now, now, True, 0]
                fresh.append(row)
                if not began:
                    self._begin(row, event, time)
                continue
            row[6] = now
            if is_plain and row[1]:
                row[1] += 1
                row[3] = time
                if last:
                    row[0] = event
            else:
                self._repeat(row, event, time)
        self._opened(fresh)

    def _is_plain(self) -> bool:
        return self.incoming is NO_ACKS and self._accumulate is None

    def _began(self) -> int:
        """Return the count of a row that opens; where it is 0 the event is for `_begin`."""
        return int(not self._leading and self._is_plain())

    def _begin(self, row: Row, event: Any, time: float) -> None:
        if self._leading:
            row[EVENT] = None
            self.leads.append([event, 1, time, time, row[KEY], row[OPENED]])
            if self._acks:
                self._retain(self._lead_acks[row[KEY]])
        else:
            self._repeat(row, event, time)

    def _repeat(self, row: Row, event: Any, time: float) -> None:
        """Add an event to a row, which may be the first that is counted."""
        if self._trailing and self._merge(row, event, time, earlier=not self._leading):
            if row[COUNT] == 1:
                self._held += 1
                self._measure((row,))
            if self._acks:
                self._retain(self._row_acks[id(row)])

    def _retain(self, waiting: list[Ack]) -> None:
        retain(self._acks)
        waiting += self._acks

    # ── the end of windows ────────────────────────────────────────────────────────────────────────────────────────

    def _opened(self, rows: list[Row]) -> None:
        if rows:
            self._held += len(rows) * self._began()
            self._measure(rows)
            rows.reverse()
            rows.sort(key=_opened, reverse=True)
            self._watch(rows[-1][OPENED] + self._shortest, rows)

    def _watch(self, instant: float, rows: list[Row]) -> None:
        heappush(self._queue, (instant, next(self._numbers), rows))

    def end(self, row: Row) -> float:
        return min(row[TOUCHED] + self.gap, row[OPENED] + self.timespan)  # type: ignore[no-any-return]

    def due(self) -> float:
        return self._queue[0][0] if self._queue else INFINITY

    def pop_due(self, until: float) -> list[Row]:
        found: list[Row] = []
        touched: defaultdict[float, list[Row]] = defaultdict(list)  # since they opened, by their ends
        while self.due() <= until:
            rows = heappop(self._queue)[2]
            while rows and rows[-1][OPENED] + self._shortest <= until:
                row = rows.pop()
                if row[OPEN]:
                    end = self.end(row)
                    row[OPEN] = end > until
                    (touched[end] if row[OPEN] else found).append(row)
            if rows:
                self._watch(rows[-1][OPENED] + self._shortest, rows)
        for end, rows in touched.items():
            self._watch(end, rows[::-1])
        self._remove(found)
        return found

    def pop_all(self) -> list[Row]:
        found = self._rows()
        self.table.clear()
        self._queue.clear()
        self._held = self.size = 0
        return found

    def _rows(self) -> list[Row]:
        return list(self.table.values())

    def _remove(self, rows: Sequence[Row]) -> None:
        for row in rows:
            del self.table[row[KEY]]
        self._count_off(rows)

    def _count_off(self, rows: Sequence[Row]) -> None:
        self._held -= sum(map(bool, map(_count, rows)))
        self.size -= sum(map(_size, rows))

    def forget(self, *, held: bool) -> Row:
        """Remove the row that is looked at next; where it is to be one that has something to emit, those before too."""
        while True:
            rows = self._queue[0][2]
            row = rows.pop()
            if not rows:
                heappop(self._queue)
            if row[OPEN]:
                row[OPEN] = False
                self._remove((row,))
                if row[COUNT] or not held:
                    return row

    # ── what is emitted ───────────────────────────────────────────────────────────────────────────────────────────

    def oldest(self) -> float | None:
        return min((row[FIRST] for row in self.table.values() if row[COUNT]), default=None)

    def window(self, rows: list[Row], bounds: Bounds, own: Callable[[Row], Bounds] | None = None) -> Window:
        """Return a window of rows that were removed; each may have bounds of its own."""
        rows = rows if all(map(_count, rows)) else [row for row in rows if row[COUNT]]
        acks: Waiting = {}
        if self._row_acks:
            acks = {row[KEY]: self._row_acks.pop(id(row)) for row in rows if id(row) in self._row_acks}
        return Window(bounds, sum(map(_count, rows)), Rows(None, rows, self._kept, own or bounds), acks=acks)

    def dropped(self, row: Row) -> tuple[Compacted, list[Ack]]:
        """Return a row that was removed and is not emitted, and what waits for it."""
        return next(iter(Rows(None, (row,), self._kept))), self._row_acks.pop(id(row), [])

    def take_leads(self, bounds: Bounds, own: Callable[[Row], Bounds] | None = None) -> Window:
        """Return a window of the first events that are to leave at once."""
        leads, self.leads = self.leads, []
        acks, self._lead_acks = self._lead_acks, defaultdict(list)
        return Window(bounds, len(leads), Rows(None, leads, self._kept, own or bounds), acks=acks)


class SessionBucket(KeyedBucket):
    """In event time: a late event may open a session before others of its key, or join two."""

    def __init__(self, options: Compact, reject: Reject, keep: Keep, fields: Collection[Field]) -> None:
        super().__init__(options, reject, keep, fields)
        self.latest = self.idle_watermark = -INFINITY
        self._lateness = options.lateness or 0.0
        self._stale = 0  # rows that wait though they are closed, or twice
        self._sessions: dict[Hashable, list[Row]] = {}  # where a key has several, in order; the table has the last

    def absorbs(self, key: Hashable, time: float = INFINITY) -> bool:
        if not super().absorbs(key):
            return False
        row = self.table[key]
        end = self.end(row)  # the event may open another session
        return bool(row[OPENED] <= time < end and end > self.latest - self._lateness)

    def _fill(self, keys: Iterable[Hashable], events: Iterable[Any], seen: Any) -> None:
        table, get, last, idle, latest = self.table, self.table.get, self._last, self.idle_watermark, self.latest
        gap, timespan, lateness = self.gap, self.timespan, self._lateness
        is_plain, began, fresh, incoming = self._is_plain(), self._began(), list[Row](), self.incoming
        for key, event, time, self._acks in zip(keys, events, seen, incoming, strict=False):
            row, before = get(key), latest
            if time > latest:  # noqa: PLR1730 - faster
                latest = time
            if row is None and time > before - lateness and time > idle:
                table[key] = row = [event, began, time, time, key, time, time, True, 0]
                fresh.append(row)
                if not began:
                    self._begin(row, event, time)
            # most events are of their key's last session, and behind those before
            elif (
                is_plain
                and row is not None
                and row[1]
                and time > before - lateness
                and time > idle
                and row[6] <= time <= row[6] + gap
                and time < row[5] + timespan
            ):
                row[1] += 1
                row[3] = row[6] = time
                if last:
                    row[0] = event
            elif (row := self._session(key, event, row, time, max(before - lateness, idle))) is not None:
                self._repeat(row, event, time)
        self.latest = latest
        self._opened(fresh)

    def _session(self, key: Hashable, event: Any, row: Row | None, time: float, watermark: float) -> Row | None:
        """Return the session that an event is to be added to, joined with its neighbour; None where there is none."""
        gap, timespan = self.gap, self.timespan
        if row and row[OPENED] <= time <= row[TOUCHED] + gap and watermark < time < row[OPENED] + timespan:
            row[TOUCHED] = max(row[TOUCHED], time)  # of the last one, and not before it began
            return row
        rows = self._sessions.get(key) or ([] if row is None else [row])
        first = bisect(rows, watermark, key=self.end)  # those before wait to be closed
        at = bisect(rows, time, lo=first, key=_opened)
        found, low, high = None, time, time
        for each in rows[max(at - 1, first) : at + 1]:
            opened, touched = min(low, each[OPENED]), max(high, each[TOUCHED])
            is_near = each[OPENED] - gap <= time <= each[TOUCHED] + gap
            if is_near and touched - opened < timespan and (found is None or self._join(found, each)):
                if found is not None:
                    del rows[at]
                found, low, high = found or each, opened, touched
        if found is None:
            end = time + self._shortest
            if end > watermark:
                rows.insert(at, self._open(key, event, time))
            else:
                self._refuse(event, LateError(end, watermark, watermark + self._lateness - time))
        else:
            is_lower, found[OPENED], found[TOUCHED] = low < found[OPENED], low, high
            if is_lower:  # it may end earlier
                self._watch(self.end(found), [found])
                self._count_stale()
        self._store(key, rows)
        return found

    def _open(self, key: Hashable, event: Any, time: float) -> Row:
        row = [event, self._began(), time, time, key, time, time, True, 0]
        self._opened([row])
        if not row[COUNT]:
            self._begin(row, event, time)
        return row

    def _store(self, key: Hashable, rows: list[Row]) -> None:
        if rows:
            self.table[key] = rows[-1]
        if len(rows) > 1:
            self._sessions[key] = rows
        else:
            self._sessions.pop(key, None)

    def _join(self, row: Row, other: Row) -> bool:
        """Add a session to one before it; return whether that can be done."""
        if self._accumulate is not None and row[COUNT] and other[COUNT]:
            try:
                row[EVENT] = self._accumulate(row[EVENT], other[EVENT])
            except BaseException as error:  # noqa: BLE001 - the caller's function may raise anything
                return not contained(error)
        elif not row[COUNT]:
            row[EVENT] = other[EVENT]
        self._held -= bool(row[COUNT] and other[COUNT])
        row[COUNT] += other[COUNT]
        row[LAST] = max(row[LAST], other[LAST])
        self._row_acks[id(row)] += self._row_acks.pop(id(other), [])
        other[OPEN] = False
        self._count_stale()
        self.size -= other[SIZE]
        self._measure((row,))
        return True

    def _count_stale(self) -> None:
        self._stale += 1
        if self._stale > STALE + self._held:  # else it grows with the events
            self._queue = [(self.end(row), next(self._numbers), [row]) for row in self._rows()]
            heapify(self._queue)
            self._stale = 0

    def _rows(self) -> list[Row]:
        before = (row for rows in self._sessions.values() for row in rows[:-1])
        return sorted((*before, *self.table.values()), key=_opened) if self._sessions else super()._rows()

    def pop_all(self) -> list[Row]:
        found = super().pop_all()
        self._sessions.clear()
        return found

    def _remove(self, rows: Sequence[Row]) -> None:
        if not self._sessions:
            super()._remove(rows)
            return
        for row in rows:
            found = self._sessions.get(row[KEY])
            if found is None:
                del self.table[row[KEY]]
            elif found[0] is row:
                del found[0]
                self._store(row[KEY], found)
            else:
                self._store(row[KEY], [each for each in found if each is not row])
        self._count_off(rows)

    def take_leads(self, bounds: Bounds, own: Callable[[Row], Bounds] | None = None) -> Window:
        return super().take_leads(bounds, own or (lambda row: Bounds(row[OPENED], row[OPENED], "leading")))
