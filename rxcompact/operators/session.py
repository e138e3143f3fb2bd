"""Windows per key: opened by the key's first event, closed by inactivity or when they are as long as they may be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, cast

from rxcompact.clock import INFINITY, TICK
from rxcompact.events import Bounds, Trigger
from rxcompact.operators.bucket import Row
from rxcompact.operators.eventtime import EventTimeWindows
from rxcompact.operators.keyed import COUNT, KEY, OPENED, TOUCHED, KeyedBucket, SessionBucket
from rxcompact.operators.windows import TumblingWindows, Windows

_key, _opened, _touched = map(itemgetter, (KEY, OPENED, TOUCHED))


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
