"""Windows of processing time: one bucket, closed by the clock."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from reactivex.abc import ObserverBase

from rxcompact.clock import Clock
from rxcompact.events import Bounds, DeadLetter, Trigger, Window
from rxcompact.operators.bucket import Bucket
from rxcompact.operators.emitter import Gather
from rxcompact.operators.windows import TICK, Windows

if TYPE_CHECKING:
    from rxcompact.operators.compact import Compact


class TumblingWindows(Windows):
    """Cuts time as `buffer_with_time` does; a window that closes on its count starts the timespan anew.

    Single events may be gathered for the scheduler's next turn: `held` counts them from then on.
    """

    def __init__(
        self, options: Compact, clock: Clock, observer: ObserverBase[Window], dead_letters: Callable[[DeadLetter], Any]
    ) -> None:
        super().__init__(options, clock, observer, dead_letters)
        self._due = clock.monotonic() + options.timespan
        self._opened = clock.wall()
        self._open = self._new_bucket()
        self._gather: Gather | None = None

    def event_handler(self) -> Callable[[Any], None]:
        options = self._options
        # where the clock alone closes windows it makes no difference if an event is added a turn later
        if self.clock.call_soon is None or (options.count, options.max_keys, options.time_mapper) != (None, None, None):
            return super().event_handler()
        self._gather = Gather(self.clock.call_soon, partial(self._emitter.run, self._add_gathered))
        return self._gather.add

    def _add_gathered(self) -> None:
        if self._gather is not None:
            self._add(self._gather.take())

    def new_keys(self, chunk: Sequence[Any]) -> int:
        """Return how many keys a chunk has at most that need capacity; those of an open window need none."""
        if self._options.count is not None:  # it may close before they come
            return len(chunk)
        keys: set[Hashable] = set()
        column = self._options.key_mapper.many(chunk)
        for at, key in enumerate(column):
            if at not in column.errors:  # an event without a key needs none
                with suppress(Exception):
                    keys.add(key)
        return len(keys.difference(self._open.table))

    def due(self) -> float:
        return self._due

    def _absorb(self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]) -> None:
        self._put(0, keys, events, times or self.clock.wall())

    def _bucket(self, index: int) -> Bucket:
        del index  # there is but one
        return self._open

    def _oldest(self) -> Bucket | None:
        return self._open or None

    def _close_due(self) -> None:
        self._add_gathered()
        overdue = self.clock.monotonic() - self._due
        if overdue > -TICK:
            self._cut("time")
            # on the grid, so that late timers do not add up; a machine that slept skips what it missed
            self._due += self._options.timespan * (1 + max(0, overdue) // self._options.timespan)

    def _close(self, index: int, trigger: Trigger) -> None:
        del index
        self._cut(trigger)
        self._due = self.clock.monotonic() + self._options.timespan

    def _close_all(self, trigger: Trigger) -> None:
        self._add_gathered()
        self._close(0, trigger)

    def _cut(self, trigger: Trigger) -> None:
        bucket, bounds = self._open, Bounds(self._opened, self.clock.wall(), trigger)
        self._open, self._opened = self._new_bucket(), bounds.closed
        self._follow_wall_clock()
        self._emit(bucket, bounds)

    def _follow_wall_clock(self) -> float:
        step = super()._follow_wall_clock()
        self._opened += step
        return step
