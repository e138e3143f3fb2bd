"""Windows of event time: buckets aligned to the epoch, closed by a watermark."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import accumulate, compress, groupby, repeat
from operator import floordiv, ge, sub
from typing import TYPE_CHECKING, Any

from reactivex.abc import ObserverBase, SchedulerBase

from rxcompact.clock import INFINITY, TICK
from rxcompact.errors import LateError
from rxcompact.events import Bounds, Trigger, Window
from rxcompact.operators.windows import FAR, Windows

if TYPE_CHECKING:
    from rxcompact.operators.compact import Compact

MICRO = 1_000_000


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
        if due := [index for index in self._buckets if self._closed_at(self._end(index)) <= now]:
            self._idle_watermark = self._end(max(due))
            self._close_before(max(due) + 1)

    def due(self) -> float:
        return self._closed_at(self._end(self._first))
