"""A bucket whose keys have windows of their own, or events that leave ahead of their repeats."""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from copy import copy
from heapq import heappop, heappush
from itertools import repeat
from operator import itemgetter
from typing import Any, TypeAlias

from rxcompact.acks import Ack
from rxcompact.clock import INFINITY
from rxcompact.errors import AccumulatorError, LateError, contained
from rxcompact.events import Bounds, Compacted, Trigger, Window
from rxcompact.operators.bucket import Field, Keep, Reject, Row, RowBucket, Seen

EVENT, COUNT, FIRST, LAST, KEY, OPENED, TOUCHED, OPEN, SIZE = range(9)
"""Of a row. ``OPENED`` and ``TOUCHED``, the first and last event, are monotonic instants or event times."""
Own: TypeAlias = tuple[Trigger, float, float]
"""Of rows with bounds of their own: why they are closed, what makes POSIX seconds of their instants, the latest end."""


class KeyedBucket(RowBucket):
    """Closes the rows that are due, in O(1) an event: a row waits for the instant at which it is looked at again.

    A row with a count of 0 is a key whose first event has left and that was not repeated.

    Args:
        timespan: Of each key's window; it ends with the bucket where this is infinite.
        gap: A window ends so long after its last event.
        leading: First events leave at once: they are put into ``leads``.
        trailing: Repeats of these are counted.
        lateness: In event time: how far the watermark is behind.
    """

    def __init__(
        self,
        reject: Reject,
        keep: Keep,
        fields: Collection[Field],
        *,
        timespan: float = INFINITY,
        gap: float = INFINITY,
        leading: bool = False,
        trailing: bool = True,
        lateness: float | None = None,
    ) -> None:
        super().__init__(reject, keep, fields)
        self.ack: Ack | None = None  # of the chunk that is being added
        self.leads: list[tuple[Hashable, Any, float]] = []
        self.now = 0.0
        self.latest = self.idle_watermark = -INFINITY
        self._timespan, self._gap, self._lateness = timespan, gap, lateness
        self._leading, self._trailing = leading, trailing
        self._seed: Callable[[Any], Any] | None = getattr(keep, "seed", None)
        self._held, self._known, self._is_sized = 0, 0, False
        self._queue: dict[float, list[Row] | deque[Row]] = {}  # by the instant at which they are looked at
        self._instants: list[float] = []  # a heap of these
        # several open rows of a key, in order; the table has the last
        self._sessions: dict[Hashable, list[Row]] = {}
        self._row_acks: defaultdict[int, list[Ack]] = defaultdict(list)  # by the identity of a row
        self._own: Own | None = None

    def __len__(self) -> int:
        return self._held

    def known(self) -> int:
        return self._known

    def absorbs(self, key: Hashable, time: float = INFINITY) -> bool:
        row = self.table.get(key)
        if row is None or (not row[COUNT] and self._trailing):
            return False
        if self._lateness is None:
            return True
        end = self.end(row)  # in event time the event may open another session
        return bool(row[OPENED] <= time < end and end > self.latest - self._lateness)

    def add_sized(self, keys: Sequence[Hashable], events: Sequence[Any], seen: Seen, *, replacing: bool) -> int:
        size, self._is_sized = self.size, True
        self.add(keys, events, seen)
        if replacing:
            self._measure(map(self.table.__getitem__, dict.fromkeys(filter(self._holds, keys))))
        return self.size - size

    def _measure(self, rows: Iterable[Row]) -> None:
        """Count the bytes of the events in rows; what an accumulator makes of them may be anything, and counts none."""
        for row in rows if self._is_sized else ():
            size = len(row[EVENT]) if type(row[EVENT]) is bytes else 0
            self.size += size - row[SIZE]
            row[SIZE] = size

    # ── events ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _fill(self, keys: Iterator[Hashable], events: Iterator[Any], seen: float | Iterator[float]) -> None:
        is_plain = not (self._seed or self.ack or callable(self._keep))
        if is_plain and isinstance(seen, float | int):
            self._fill_arrived(zip(keys, events, strict=True), seen)
        else:
            times = repeat(seen) if isinstance(seen, float | int) else seen
            self._fill_timed(zip(keys, events, times, strict=False))

    def _fill_arrived(self, pairs: Iterable[tuple[Hashable, Any]], arrived: float) -> None:
        table, get, now, fresh = self.table, self.table.get, self.now, list[Row]()
        last, leading = self._keep == "last", self._leading
        try:
            for key, event in pairs:
                row = get(key)
                if row is None:
                    if leading:
                        table[key] = self._open(key, event, arrived, now)
                        continue
                    row = table[key] = [event, 1, arrived, arrived, key, now, now, True, 0]
                    fresh.append(row)
                    continue
                row[6] = now
                if row[1]:
                    row[1] += 1
                    row[3] = arrived
                    if last:
                        row[0] = event
                else:
                    self._start(row, event, arrived)
        finally:  # a key may raise
            if fresh:
                self._watch(fresh)
                self._held += len(fresh)
                self._known += len(fresh)
                self._measure(fresh)

    def _fill_timed(self, triples: Iterable[tuple[Hashable, Any, float]]) -> None:
        last, accumulate, leading = self._keep == "last", self._keep if callable(self._keep) else None, self._leading
        rows = self._by_arrival(triples) if self._lateness is None else self._by_event_time(triples, self._lateness)
        has_ack = self.ack is not None
        for row, event, time in rows:
            if not row[1]:
                self._start(row, event, time)
                continue
            if has_ack:
                self._hold(row)
            if accumulate is not None:
                try:
                    row[0] = accumulate(row[0], event)
                except BaseException as cause:  # noqa: BLE001 - the caller's function may raise anything
                    self._refuse(event, AccumulatorError.of(cause))
                    continue
            elif last:
                row[0] = event
            row[1] += 1
            if time > row[3]:
                row[3] = time
            elif time < row[2] and not leading:  # else it is the id of what has left
                row[2] = time

    def _by_arrival(self, triples: Iterable[tuple[Hashable, Any, float]]) -> Iterator[tuple[Row, Any, float]]:
        """Yield events with the row that each is to be added to, but for those that open one."""
        get, now = self.table.get, self.now
        for key, event, time in triples:
            row = get(key)
            if row is not None:
                row[6] = now
                yield row, event, time
            else:
                self.table[key] = self._open(key, event, time, now)

    def _by_event_time(
        self, triples: Iterable[tuple[Hashable, Any, float]], lateness: float
    ) -> Iterator[tuple[Row, Any, float]]:
        get, gap, timespan, latest = self.table.get, self._gap, self._timespan, self.latest
        watermark = max(latest - lateness, self.idle_watermark)
        for key, event, time in triples:
            found, row = watermark, get(key)
            if time > latest:
                latest = self.latest = time
                if time - lateness > watermark:  # noqa: PLR1730 - faster
                    watermark = time - lateness
            # most events are of their key's last session, and not before it began
            if row is not None and time <= row[6] + gap and found < time >= row[5] > time - timespan:
                if time > row[6]:  # noqa: PLR1730 - faster
                    row[6] = time
                yield row, event, time
            elif row is None and found < time:
                self.table[key] = self._open(key, event, time, time)
            elif (row := self._session(key, event, row, time, found)) is not None:
                yield row, event, time

    def _session(self, key: Hashable, event: Any, row: Row | None, time: float, watermark: float) -> Row | None:
        """Return the session that an event is to be added to, joined with its neighbour; None where there is none."""
        rows = self._sessions.pop(key, None) or ([] if row is None else [row])
        while rows and self.end(rows[0]) <= watermark:
            del rows[0]  # it waits to be closed
        at = bisect(rows, time, key=itemgetter(OPENED))
        found, low, high = None, time, time
        for each in rows[max(at - 1, 0) : at + 1]:
            opened, touched = min(low, each[OPENED]), max(high, each[TOUCHED])
            is_near = each[OPENED] - self._gap <= time <= each[TOUCHED] + self._gap
            if is_near and touched - opened < self._timespan and (found is None or self._join(found, each)):
                if found is not None:
                    del rows[at]
                found, low, high = found or each, opened, touched
        if found is None:
            end = time + min(self._gap, self._timespan)
            if end > watermark:
                rows.insert(at, self._open(key, event, time, time))
            else:
                self._refuse(event, LateError(end, watermark, self.latest - time))
        elif low < found[OPENED]:
            found[OPENED], found[TOUCHED] = low, high
            self._watch((found,))  # it may end earlier
        else:
            found[TOUCHED] = high
        if rows:
            self.table[key] = rows[-1]
        if len(rows) > 1:
            self._sessions[key] = rows
        return found

    def _join(self, row: Row, other: Row) -> bool:
        """Add a session to one before it; return whether that can be done."""
        if callable(self._keep) and row[COUNT] and other[COUNT]:
            try:
                row[EVENT] = self._keep(row[EVENT], other[EVENT])
            except BaseException as error:  # noqa: BLE001 - the caller's function may raise anything
                return not contained(error)
        elif not row[COUNT]:
            row[EVENT] = other[EVENT]
        self._held -= bool(row[COUNT] and other[COUNT])
        self._known -= 1
        row[COUNT] += other[COUNT]
        row[LAST] = max(row[LAST], other[LAST])
        self._row_acks[id(row)] += self._row_acks.pop(id(other), [])
        other[OPEN] = False
        self.size -= other[SIZE]
        self._measure((row,))
        return True

    def _open(self, key: Hashable, event: Any, time: float, now: float) -> Row:
        """Return the row of a key's first event."""
        row = [None, 0, time, time, key, now, now, True, 0]
        self._known += 1
        self._watch((row,))
        if self._leading:
            self.leads.append((key, event, time))
        else:
            self._start(row, event, time)
        return row

    def _start(self, row: Row, event: Any, time: float) -> None:
        """Take an event as the first that is counted."""
        if not self._trailing:
            return
        if self._seed is not None:
            try:
                event = self._seed(event)
            except BaseException as cause:  # noqa: BLE001 - the caller's function may raise anything
                self._refuse(event, AccumulatorError.of(cause))
                return
        row[EVENT], row[COUNT], row[LAST] = event, 1, max(row[LAST], time)
        self._held += 1
        self._measure((row,))
        self._hold(row)

    def _hold(self, row: Row) -> None:
        """Have the chunk's ack wait for a row."""
        if self.ack is not None and self._row_acks[id(row)][-1:] != [self.ack]:
            self.ack.retain()
            self._row_acks[id(row)].append(self.ack)

    # ── the end of windows ────────────────────────────────────────────────────────────────────────────────────────

    def end(self, row: Row) -> float:
        """Return when a row is to be closed, unless more events come."""
        return min(row[TOUCHED] + self._gap, row[OPENED] + self._timespan)  # type: ignore[no-any-return]

    def due(self) -> float:
        """Return when to look at rows again."""
        return min(self._instants[:1], default=INFINITY)

    def _watch(self, rows: Sequence[Row]) -> None:
        """Look at rows that end at the same instant when they do."""
        end = self.end(rows[0])
        found = self._queue.get(end)
        if found is None:
            self._queue[end] = list(rows)  # few wait for the same event time, and a deque takes 10 times as much memory
            heappush(self._instants, end)
            return
        if isinstance(found, list):
            found = self._queue[end] = deque(found)
        found.extend(rows)

    def pop_due(self, until: float) -> list[Row]:
        """Remove the rows that end until an instant."""
        found: list[Row] = []
        while self._instants and self._instants[0] <= until:
            for row in self._queue.pop(heappop(self._instants)):
                if row[OPEN] and self.end(row) > until:
                    self._watch((row,))  # it was touched since
                elif row[OPEN]:
                    self._remove(row)
                    found.append(row)
        return found

    def pop_all(self) -> list[Row]:
        """Remove all rows."""
        found: list[Row] = []
        for instant in sorted(self._queue):
            for row in self._queue[instant]:
                if row[OPEN]:
                    row[OPEN] = False
                    found.append(row)
        for each in (self.table, self._sessions, self._queue, self._instants):
            each.clear()
        self._held = self._known = self.size = 0
        return found

    def _remove(self, row: Row) -> None:
        key = row[KEY]
        row[OPEN] = False
        self._known -= 1
        self._held -= row[COUNT] > 0
        self.size -= row[SIZE]
        if rows := self._sessions.get(key):
            if rows[0] is row:
                del rows[0]
            else:
                rows[:] = [each for each in rows if each is not row]
            self.table[key] = rows[-1]
            if len(rows) == 1:
                del self._sessions[key]
        elif self.table.get(key) is row:
            del self.table[key]

    def forget(self, *, held: bool) -> Row:
        """Remove the row that is looked at next; where it is to be one that has something to emit, those before too."""
        while True:
            rows = self._queue[self._instants[0]]
            row = rows.pop(0) if isinstance(rows, list) else rows.popleft()
            if not rows:
                del self._queue[heappop(self._instants)]
            if row[OPEN]:
                self._remove(row)
                if row[COUNT] or not held:
                    return row

    # ── what is emitted ───────────────────────────────────────────────────────────────────────────────────────────

    def oldest(self) -> float | None:
        return min((row[FIRST] for row in self.table.values() if row[COUNT]), default=None)

    def close(self, bounds: Bounds) -> Window:
        return self.window({row[KEY]: row for row in self.pop_all()}, bounds)

    def window(self, rows: dict[Hashable, Row], bounds: Bounds, own: Own | None = None) -> Window:
        """Return a window of rows that were removed, by their keys; each may have bounds of its own."""
        closed = copy(self)
        closed.table = {key: row for key, row in rows.items() if row[COUNT]} if self._leading or self._seed else rows
        closed._held = len(closed.table)
        closed._bounds, closed._own = bounds, own
        acks: list[tuple[Ack, Iterable[Hashable]]] = []
        if self._row_acks:
            acks = [(ack, (key,)) for key, row in closed.table.items() for ack in self._row_acks.pop(id(row), ())]
        return Window(bounds, sum(map(itemgetter(COUNT), closed.table.values())), closed, acks=acks)

    def __iter__(self) -> Iterator[Compacted]:
        bounds, own, gap, timespan = self._bounds, self._own, self._gap, self._timespan
        counted, first, last = self._kept
        for event, count, first_seen, last_seen, key, opened, touched, _, _ in self.table.values():
            if own is not None:
                trigger, offset, now = own
                bounds = Bounds(opened + offset, min(touched + gap, opened + timespan, now) + offset, trigger)
            first_at, last_at = first_seen if first else None, last_seen if last else None
            yield Compacted(key, event, count if counted else None, first_at, last_at, bounds)

    def dropped(self, row: Row) -> tuple[Compacted, list[Ack]]:
        """Return a row that was removed and is not emitted, and what waits for it."""
        window = copy(self)
        window.table, window._bounds = {row[KEY]: row}, None
        return next(iter(window)), self._row_acks.pop(id(row), [])

    def take_leads(self, bounds: Bounds) -> Window:
        """Return a window of the first events that are to leave at once."""
        leads, self.leads = self.leads, []
        window = copy(self)
        window._gap, window.table = 0.0, {}
        for number, (key, event, time) in enumerate(leads):
            window.table[number] = [event, 1, time, time, key, time, time, True, 0]
        window._bounds, window._own = bounds, None if self._lateness is None else ("leading", 0.0, INFINITY)
        items = tuple(window)
        acks: list[tuple[Ack, Iterable[Hashable]]] = []
        if self.ack is not None:
            self.ack.retain()
            acks.append((self.ack, [key for key, _, _ in leads]))
        return Window(bounds, len(items), items, acks=acks)
