"""Windows of processing time: one bucket, closed by the clock."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reactivex.abc import ObserverBase

from rxcompact.clock import Clock
from rxcompact.events import DeadLetter, Trigger, Window
from rxcompact.operators.bucket import Bucket
from rxcompact.operators.gather import Gather
from rxcompact.operators.windows import TICK, Windows

if TYPE_CHECKING:
    from rxcompact.operators.compact import Compact


class TumblingWindows(Windows):
    """Cuts time as `buffer_with_time` does; a window that closes on its count starts the timespan anew."""

    def __init__(
        self, options: Compact, clock: Clock, observer: ObserverBase[Window], reject: Callable[[DeadLetter], object]
    ) -> None:
        super().__init__(options, clock, observer, reject)
        self._due = clock.monotonic() + options.timespan
        self._opened = clock.wall()
        self._open = self._new_bucket()
        # where the clock alone closes windows it makes no difference if an event is looked at a turn later
        by_clock_alone = (options.count, options.max_keys, options.time_mapper) == (None, None, None)
        self._gather = Gather(clock.soon, self._look) if clock.soon is not None and by_clock_alone else None

    def taker(self) -> Callable[[Any], None]:
        return self._gather.add if self._gather is not None else super().taker()

    def _look(self) -> None:
        self._hand.do(self._absorb_gathered)

    def _absorb_gathered(self) -> None:
        if self._gather is not None:
            self._add(self._gather.take())

    def held(self) -> int:
        if self._gather is not None:
            self._look()
        return self._held

    def new_keys(self, chunk: Sequence[Any]) -> int:
        """Return how many keys a chunk has at most that need room: of those held none, but for windows cut by count."""
        if self._options.count is not None:
            return len(chunk)
        keys: set[Hashable] = set()
        for event in chunk:
            with suppress(Exception):  # what has no key needs no room
                keys.add(self._key_of(event))
        return len(keys.difference(self._open.events))

    def due(self) -> float:
        return self._due

    def _absorb(self, keys: Sequence[Hashable], events: Sequence[Any], times: Sequence[float]) -> None:
        self._put(0, keys, events, times or self.clock.wall())

    def _bucket(self, index: int) -> Bucket:
        del index  # there is but one
        return self._open

    def _oldest(self) -> Bucket | None:
        return self._open if self._open.events else None

    def _close_due(self) -> None:
        self._absorb_gathered()
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
        self._absorb_gathered()
        self._close(0, trigger)

    def _cut(self, trigger: Trigger) -> None:
        bucket, opened = self._open, self._opened
        self._open, self._opened = self._new_bucket(), self.clock.wall()
        self._emit(bucket, opened, self._opened, trigger)
