"""Axes of time: their ticks, symbols for keys, counts in bins."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import ceil, floor, log10
from string import ascii_letters
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rxcompact.observers.recorder import Recording, WindowMark

ROUND = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
"""Round numbers of seconds."""


class Axis(NamedTuple):
    """A span of time."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """Seconds; never zero."""
        return (self.end - self.start) or 1.0

    def share(self, at: float) -> float:
        """Return where an instant lies between start and end, 0 to 1; one outside lies at the nearer of them."""
        return min(1.0, max(0.0, (at - self.start) / self.length))

    def ticks(self, most: int) -> list[float]:
        """Return round numbers of seconds since the start, in at most so many steps."""
        least = self.length / most
        power = 10.0 ** floor(log10(least))
        steps: Iterable[float] = ROUND if least > 1 else (power, 2 * power, 5 * power, 10 * power)
        step = next((step for step in steps if step >= least), 86_400.0 * ceil(least / 86_400))
        return [number * step for number in range(floor(self.length / step + 1e-9) + 1)]

    def spread(self, size: int, amounts: Iterable[tuple[float, float, float]]) -> list[float]:
        """Return the sums in bins of equal length of amounts that are spread evenly over their time."""
        bins = [0.0] * size
        for start, end, amount in amounts:
            left, right = self.share(start) * size, self.share(end) * size
            first, last = min(size - 1, int(left)), min(size - 1, ceil(right) - 1)
            if last <= first or right <= left:
                bins[first] += amount
                continue
            for index in range(first, last + 1):
                bins[index] += amount * (min(right, index + 1) - max(left, index)) / (right - left)
        return bins


def axes(recording: Recording) -> tuple[Axis, Axis]:
    """Return the axis of events and windows, and the axis of everything else.

    They are the same, unless event times have nothing to do with the clock, as in a replay.
    """
    (start, end), opened = recording.clock, recording.opened
    if not recording.windows:
        return Axis(start, end), Axis(start, end)
    if any(
        abs(each.at - each.closed) > max(end - start, 10 * (each.closed - each.opened)) for each in recording.windows
    ):
        return Axis(*opened), Axis(start, end)
    both = Axis(min(start, opened[0]), max(end, opened[1]))
    return both, both


def within(window: WindowMark, at: float | None) -> float:
    """Return an instant, moved into the window's span: an event's own time may lie outside."""
    return min(window.closed, max(window.opened, window.opened if at is None else at))


def symbols(recording: Recording) -> dict[Hashable, str]:
    """Return a letter for each of the first keys, in their order."""
    keys = dict.fromkeys(event.key for event in recording.events)
    keys.update(dict.fromkeys(outcome.key for outcome in recording.outcomes if outcome.key is not None))
    return dict(zip(keys, ascii_letters, strict=False))
