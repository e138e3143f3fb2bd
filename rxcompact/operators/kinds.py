"""The kinds of windows: tumbling, of event time, and per key in either time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property, partial
from itertools import accumulate, compress, groupby, repeat
from operator import floordiv, ge, itemgetter, sub
from typing import TYPE_CHECKING, Any, cast

from reactivex.abc import ObserverBase, SchedulerBase

from rxcompact.clock import INFINITY, TICK
from rxcompact.errors import LateError
from rxcompact.events import Bounds, Trigger, Window
from rxcompact.operators.bucket import Row
from rxcompact.operators.keyed import COUNT, KEY, OPENED, TOUCHED, KeyedBucket, SessionBucket
from rxcompact.operators.turns import Gather
from rxcompact.operators.windows import FAR, Windows

if TYPE_CHECKING:
    from rxcompact.operators.compact import Compact

MICRO = 1_000_000
_key, _opened, _touched = map(itemgetter, (KEY, OPENED, TOUCHED))


class TumblingWindows(Windows):
    """Cuts time as `buffer_with_time` does; a window that closes on its count starts the timespan anew.

    Single events may be gathered for the scheduler's next turn: `held` counts them from then on.
    """

    _gather: Gather | None = None

    def __init__(self, options: Compact, scheduler: SchedulerBase, observer: ObserverBase[Window]) -> None:
        super().__init__(options, scheduler, observer)
        self._opened = self.clock.monotonic()
        self._due = self._opened + options.timespan
        self.run(self._arm)

    def _event_handler(self) -> Callable[[Any], None]:
        options = self._options
        # where the clock alone closes windows it makes no difference if an event is added a turn later
        if self.clock.call_soon is None or (options.count, options.max_keys, options.time_mapper) != (None, None, None):
            return super()._event_handler()
        self._gather = Gather(self.clock.call_soon, partial(self.run, self._add_gathered))
        return self._gather.add

    def _add_gathered(self) -> None:
        if self._gather is not None:
            self._add(self._gather.take())

    def new_keys(self, chunk: Sequence[Any], before: set[Any]) -> int:
        if self._options.count is not None:  # the open window, whose keys need none, may close before they come
            return super().new_keys(chunk, before)
        bucket, leading = self._bucket(0), self._options.leading
        column = self._options.key_mapper.many(chunk)
        for at, key in enumerate(column):
            if at not in column.errors and not bucket.absorbs(key):  # an event without a key needs none
                # with a leading edge a key makes two: its first event, and its repeats
                before.add((key, key in bucket.table or (key, False) in before) if leading else key)
        return len(before)

    def _add_part(self, chunk: Sequence[Any]) -> None:
        options, bucket, added = self._options, self._bucket(0), 0
        is_plain = bucket.texts and options.count is None and not options.raw and self._chunk is None
        if is_plain and self._fits(len(chunk)) and (keys := self.mapper.values(chunk)) is not None:
            held = len(bucket.table)
            added = bucket.add_texts(keys, chunk, self.clock.wall())
            self._held += len(bucket.table) - held
            self.mapper.read += added
        if added < len(chunk):
            super()._add_part(chunk[added:] if added else chunk)

    def _absorb(self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]) -> None:
        self._put(0, keys, events, times or self.clock.wall())

    def due(self) -> float:
        return self._due  # where nothing is open too: an event that comes then is of the next window

    def close_due(self) -> None:
        self._add_gathered()
        due, overdue = self._due, self.clock.monotonic() - self._due
        if overdue > -TICK:
            self._close(0, "time")
            # on the grid, so that late timers do not add up; a machine that slept skips what it missed
            self._due = due + self._options.timespan * (1 + max(0, overdue) // self._options.timespan)

    def _bounds(self, index: int, trigger: Trigger) -> Bounds:  # noqa: ARG002 - it has one bucket
        return Bounds(self._opened + self.clock.wall.offset, self.clock.wall(), trigger)

    def _close_all(self, trigger: Trigger) -> None:
        self._add_gathered()
        self._close(0, trigger)

    def _close(self, index: int, trigger: Trigger) -> None:
        self._bucket(index)  # none is open where nothing came
        super()._close(index, trigger)
        self._opened = self.clock.monotonic()
        self._due = self._opened + self._options.timespan
        self._follow_wall_clock()


class EventTimeWindows(Windows):
    """Buckets aligned to the epoch; one closes when the watermark or, on an idle source, the clock passes its end.

    The watermark is the largest event time so far less the lateness. On an idle source event time goes on with the
    clock, from the arrival of that largest time. Buckets are numbered from the epoch.
    """

    def __init__(self, options: Compact, scheduler: SchedulerBase, observer: ObserverBase[Window]) -> None:
        super().__init__(options, scheduler, observer)
        self._lateness = options.lateness or 0.0
        self._latest = -FAR  # event time
        self._latest_arrived = self._last_arrived = 0.0  # the monotonic instants of that event, and of the last one
        self._idle_watermark = -FAR  # end of the last bucket that the clock closed
        # whole seconds divide floats exactly; fractions of one would not, hence microseconds
        whole = options.timespan.is_integer()
        self._unit = 1 if whole else MICRO
        self._span = int(options.timespan) if whole else round(options.timespan * MICRO)

    def _absorb(self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]) -> None:
        if not times:
            return
        newest = max(times)
        latest = max(self._latest, newest)
        first, last, first_open = self._index(min(times)), self._index(newest), self._index(self._watermark(latest))
        if first == last and first >= first_open:
            self._put(first, keys, events, times)
        else:
            self._put_by_window(keys, events, times, some_late=first < first_open)
        self._advance(latest)
        if first_open > self._first:
            self._close_before(first_open)

    def _close_before(self, first_open: int) -> None:
        for index in sorted(index for index in self._buckets if index < first_open):
            self._close(index, "time")
        self._first = min(self._buckets, default=INFINITY)

    def _advance(self, latest: float) -> None:
        if self._options.idle:
            self._last_arrived = self.clock.monotonic()
        if latest > self._latest:
            self._latest, self._latest_arrived = latest, self.clock.monotonic()

    def _put_by_window(
        self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float], *, some_late: bool
    ) -> None:
        """Reject what is late, cut the rest by window, and add each part at once."""
        columns: list[Sequence[Any]] = [keys, events, times]
        indexes = list(self._indexes(times))
        if some_late:
            latest = accumulate(times, max, initial=self._latest)  # as each event finds it
            watermarks = list(map(max, map(sub, latest, repeat(self._lateness)), repeat(self._idle_watermark)))
            on_time = list(map(ge, indexes, self._indexes(watermarks)))
            for position in [at for at, good in enumerate(on_time) if not good]:
                watermark, end = watermarks[position], self._end(int(indexes[position]))
                self._reject(events[position], LateError(end, watermark, watermark + self._lateness - times[position]))
            columns = [list(compress(column, on_time)) for column in columns]
            indexes = list(compress(indexes, on_time))
        if (in_order := sorted(indexes)) != indexes:
            order = sorted(range(len(indexes)), key=indexes.__getitem__)
            columns = [list(map(column.__getitem__, order)) for column in columns]
        start = 0
        for index, part in groupby(in_order):
            end = start + len(list(part))
            self._put(int(index), *(column[start:end] for column in columns))
            start = end

    def _index(self, time: float) -> int:
        return int((time if self._unit == 1 else round(time * MICRO)) // self._span)

    def _indexes(self, times: Iterable[float]) -> Iterable[float]:
        return map(floordiv, times, repeat(self._span)) if self._unit == 1 else map(self._index, times)

    def _end(self, index: float) -> float:
        return (index + 1) * self._span / self._unit

    def _watermark(self, latest: float) -> float:
        return max(latest - self._lateness, self._idle_watermark)

    def _bounds(self, index: int, trigger: Trigger) -> Bounds:
        return Bounds(self._end(index - 1), self._end(index), trigger)

    def _closed_at(self, end: float) -> float:
        # the monotonic instant at which the clock closes a window, unless events do before
        due = self._latest_arrived + end + self._lateness - self._latest
        return max(due, self._last_arrived + self._options.idle)

    def close_due(self) -> None:
        self._follow_wall_clock()
        now = self.clock.monotonic() + TICK
        for index in sorted(index for index in self._buckets if self._closed_at(self._end(index)) <= now):
            self._idle_watermark = self._end(index)
            self._close(index, "time")
        self._first = min(self._buckets, default=INFINITY)  # one may have closed on its count

    def due(self) -> float:
        return self._closed_at(self._end(self._first))


class PerKey(Windows):
    """One bucket, of which rows are closed. Those that are due together leave in one window, each with its own bounds.

    The bounds of that window span theirs.
    """

    @cached_property
    def _keyed(self) -> KeyedBucket:
        return cast(KeyedBucket, self._bucket(0))

    def _close_until(self, end: float) -> list[Row]:
        bucket = self._keyed
        if bucket.due() > end:
            return []
        with self._counting(bucket):
            rows = bucket.pop_due(end)
        self._emit_rows(0, bucket, rows, "time")
        return rows

    def _emit_rows(self, index: int, bucket: KeyedBucket, rows: list[Row], trigger: Trigger) -> None:  # noqa: ARG002
        gap, timespan, now, offset = bucket.gap, bucket.timespan, *self._now()
        shorter = gap if trigger == "time" else INFINITY
        parts: defaultdict[Trigger, list[Row]] = defaultdict(list)
        for row in rows:
            if row[COUNT]:  # else there is nothing to emit
                parts["gap" if row[TOUCHED] + shorter < row[OPENED] + timespan else trigger].append(row)
        for by, part in parts.items():

            def own(row: Row, by: Trigger = by) -> Bounds:
                opened = row[OPENED]
                return Bounds(opened + offset, min(row[TOUCHED] + gap, opened + timespan, now) + offset, by)

            for different in self._different(part):
                closed = min(max(map(_touched, different)) + gap, max(map(_opened, different)) + timespan, now)
                bounds = Bounds(min(map(_opened, different)) + offset, closed + offset, by)
                self._emit(bucket.window(different, bounds, own))

    def _different(self, rows: list[Row]) -> Iterable[list[Row]]:
        """Return rows in parts in which no key is twice, as one that has several sessions would be."""
        if self._options.lateness is None or len(set(map(_key, rows))) == len(rows):
            return (rows,)
        parts: defaultdict[int, list[Row]] = defaultdict(list)
        seen: Counter[Hashable] = Counter()
        for row in rows:
            parts[seen[row[KEY]]].append(row)
            seen[row[KEY]] += 1
        return parts.values()

    def _bounds(self, index: int, trigger: Trigger) -> Bounds:  # noqa: ARG002 - it has one bucket
        times, offset = list(map(_opened, self._keyed.leads)), self._now()[1]
        return Bounds(min(times) + offset, max(times) + offset, trigger)

    def _now(self) -> tuple[float, float]:
        """Return when what is closed now ends at the latest, and what makes POSIX seconds of the instants of rows."""
        return INFINITY, 0.0


class KeyedWindows(PerKey, TumblingWindows):
    """Windows per key in processing time."""

    def _absorb(self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]) -> None:
        now = self._keyed.now = self.clock.monotonic()
        self._close_until(now + TICK)
        self._put(0, keys, events, times or self.clock.wall())

    def _now(self) -> tuple[float, float]:
        return self.clock.monotonic(), self.clock.wall.offset

    def due(self) -> float:
        return self._keyed.due()

    def close_due(self) -> None:
        self._add_gathered()
        self._follow_wall_clock()
        self._close_until(self.clock.monotonic() + TICK)


class SessionWindows(PerKey, EventTimeWindows):
    """Windows per key in event time: a late event may join two."""

    _keyed_class = SessionBucket

    def _absorb(self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]) -> None:
        if times:
            bucket = cast(SessionBucket, self._keyed)
            bucket.latest, bucket.idle_watermark = self._latest, self._idle_watermark
            self._put(0, keys, events, times)
            self._advance(max(self._latest, *times))
            self._close_until(self._watermark(self._latest))

    def due(self) -> float:
        return self._closed_at(self._keyed.due())

    def close_due(self) -> None:
        self._follow_wall_clock()
        now = self.clock.monotonic() + TICK
        if now >= self._last_arrived + self._options.idle and self._lateness < INFINITY:
            rows = self._close_until(self._latest - self._lateness + now - self._latest_arrived)
            self._idle_watermark = max(self._idle_watermark, *map(self._keyed.end, rows), -INFINITY)
