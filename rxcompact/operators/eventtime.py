"""Windows of event time: buckets aligned to the epoch, closed by a watermark."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import repeat
from operator import floordiv
from typing import TYPE_CHECKING, Any

from reactivex.abc import ObserverBase

from rxcompact.clock import Clock
from rxcompact.errors import FutureError, LateError
from rxcompact.events import Bounds, DeadLetter, Trigger, Window
from rxcompact.operators.bucket import Bucket
from rxcompact.operators.windows import TICK, Windows

if TYPE_CHECKING:
    from rxcompact.operators.compact import Compact

MICRO = 1_000_000


class EventTimeWindows(Windows):
    """Several buckets may be open; one closes when the watermark or, on an idle source, the clock passes its end.

    The watermark is the largest event time so far less the lateness. The clock carries on from where the events
    stopped: a bucket is over when as many seconds have gone by since the largest event time came as it then lacked.
    """

    def __init__(
        self, options: Compact, clock: Clock, observer: ObserverBase[Window], dead_letters: Callable[[DeadLetter], Any]
    ) -> None:
        super().__init__(options, clock, observer, dead_letters)
        self._lateness = options.lateness or 0.0
        self._tolerance = options.tolerance
        self._open: dict[int, Bucket] = {}
        self._latest = float("-inf")  # event time
        self._next_end = float("inf")  # no open bucket ends before
        self._arrived = 0.0  # monotonic instant at which it came
        self._over = float("-inf")  # end of the last bucket closed by the clock
        self._believable = clock.wall() + options.tolerance
        # whole seconds divide floats exactly; fractions of one would not, hence microseconds
        whole = options.timespan.is_integer()
        self._unit = 1 if whole else MICRO
        self._span = int(options.timespan) if whole else round(options.timespan * MICRO)

    # ── events ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _absorb(self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]) -> None:
        if times and max(times) > self._believable:
            keys, events, times = self._refuse_future(keys, events, times)
        if not times:
            return
        first, last = self._index(min(times)), self._index(max(times))
        latest = max(self._latest, *times)
        if first == last and self._end(first) > self._watermark(latest):
            self._put(first, keys, events, times)
        else:
            self._sort_out(keys, events, times)
        if latest > self._latest:
            self._latest, self._arrived = latest, self.clock.monotonic()
            self._close_until(self._watermark(latest), "time")

    def _sort_out(self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]) -> None:
        groups: dict[int, tuple[list[Hashable], list[Any], list[float]]] = {}
        latest = self._latest
        for index, key, event, time in zip(self._indexes(times), keys, events, times, strict=True):
            end, watermark = self._end(index), self._watermark(latest)
            if end <= watermark:
                self._reject(event, LateError(end, watermark, watermark + self._lateness - time))
            else:
                group = groups.get(index) or groups.setdefault(index, ([], [], []))
                group[0].append(key)
                group[1].append(event)
                group[2].append(time)
            latest = max(latest, time)
        for index in sorted(groups):
            self._put(index, *groups[index])

    def _refuse_future(
        self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]
    ) -> tuple[list[Hashable], list[Any], list[float]]:
        now = self.clock.wall()
        self._believable = now + self._tolerance
        kept: list[tuple[Hashable, Any, float]] = []
        for key, event, time in zip(keys, events, times, strict=True):
            if time > self._believable:
                self._reject(event, FutureError(time, now, self._tolerance))
            else:
                kept.append((key, event, time))
        return [key for key, _, _ in kept], [event for _, event, _ in kept], [time for _, _, time in kept]

    # ── buckets ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _index(self, time: float) -> int:
        return int((time if self._unit == 1 else round(time * MICRO)) // self._span)

    def _indexes(self, times: Sequence[float]) -> map[int]:
        if self._unit == 1:
            return map(int, map(floordiv, times, repeat(self._span)))
        return map(self._index, times)

    def _end(self, index: int) -> float:
        return (index + 1) * self._span / self._unit

    def _watermark(self, latest: float) -> float:
        return max(latest - self._lateness, self._over)

    def _bucket(self, index: int) -> Bucket:
        if index not in self._open:
            self._open[index] = self._new_bucket()
            self._next_end = min(self._next_end, self._end(index))
        return self._open[index]

    def _oldest(self) -> Bucket | None:
        filled = (index for index, bucket in self._open.items() if bucket)
        return self._open[found] if (found := min(filled, default=None)) is not None else None

    # ── closing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _close(self, index: int, trigger: Trigger) -> None:
        self._emit(self._open.pop(index), Bounds(self._end(index - 1), self._end(index), trigger))

    def _close_until(self, watermark: float, trigger: Trigger) -> None:
        if watermark < self._next_end:
            return
        for index in sorted(self._open):
            if self._end(index) > watermark:
                break
            self._close(index, trigger)
        self._next_end = self._end(min(self._open)) if self._open else float("inf")

    def _close_all(self, trigger: Trigger) -> None:
        self._close_until(float("inf"), trigger)

    def _lacks(self, index: int) -> float:
        """Return the monotonic instant at which the clock closes a bucket, unless events do before."""
        return self._arrived + self._end(index) + self._lateness - self._latest

    def _close_due(self) -> None:
        now = self.clock.monotonic() + TICK
        for index in sorted(self._open):
            if self._lacks(index) > now:
                break
            self._over = self._end(index)
            self._close(index, "time")

    def due(self) -> float:
        # where nothing is open yet: when the bucket of an event of now would close
        span, now = self._options.timespan, self.clock.wall()
        if self._lateness == float("inf"):
            return self.clock.monotonic() + span  # nothing is ever due
        wait = span - (now - self._lateness) % span
        grid = self.clock.monotonic() + (wait if wait > TICK else wait + span)
        return min([grid, *map(self._lacks, self._open)])
