"""Marble diagrams: what is in which lane, axes of time, and the diagram as text, in the syntax of `from_marbles`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, cycle, islice
from math import ceil, floor, log10
from operator import attrgetter
from string import ascii_letters
from typing import TYPE_CHECKING, Any, NamedTuple

from rxcompact.format import OUTCOMES, counted, duration, instant, short
from rxcompact.render.svg import COLOURS

if TYPE_CHECKING:
    from rxcompact.observers.recorder import Recording
    from rxcompact.signals import WindowClosed

COLUMNS = 88
GROUP = 4  # elements of a group that are listed; of a larger group the number is
STEPS = 8  # instants at which an amount that was spread over time is counted
NAME = 8  # distinct events of a window that are listed
LEGEND = 12  # keys that are listed
ROUND = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
"""Round numbers of seconds."""
OTHER = ("?", COLOURS[-1])
"""Letter and colour of what has no key, and of keys beyond the letters."""


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

    def spread(self, size: int, amounts: Iterable[tuple[float, float, int]]) -> list[float]:
        """Return the sums in bins of equal length of amounts that are spread over their time."""
        bins = [0.0] * size
        for start, end, amount in amounts:
            steps = min(amount, STEPS) if end > start else 1
            for step in range(1, steps + 1):
                place = int(self.share(start + (end - start) * step / steps) * size)
                bins[min(size - 1, place)] += amount / steps
        return bins


def axes(recording: Recording) -> tuple[Axis, Axis]:
    """Return the axis of events and windows, and the axis of everything else.

    They are the same, unless event times have nothing to do with the clock, as in a replay.
    """
    windows = recording.windows
    marks: Iterable[Any] = chain(windows, recording.retries, recording.outcomes)
    instants = [mark.at for mark in marks] or [0.0]
    clock = Axis(min(instants), max(instants))
    start = min((window.opened for window in windows), default=clock.start)
    end = max((window.closed for window in windows), default=clock.end)
    for window in windows:
        if abs(window.at - window.closed) > max(clock.end - clock.start, 10 * (window.closed - window.opened)):
            return Axis(start, end), clock
    both = Axis(min(clock.start, start), max(clock.end, end))
    return both, both


class Point(NamedTuple):
    """The first event of a key in a window, the last of them, its window, a failed call for it, or its outcome."""

    lane: str
    kind: str
    """"first", "more", "window", "retry", or the outcome."""
    at: float
    key: Hashable
    about: dict[str, str]
    """What is known of it, in words."""
    recorded: float
    """When it was."""
    since: float
    """When the first of so many may have been."""
    many: int = 1


def points(recording: Recording, keys: int | None = None) -> Iterator[Point]:
    """Yield all that is drawn; of a failed call for several events at most so many keys."""
    for window, key, count, *seen in recording.events:
        opened, closed, at = window.opened, window.closed, window.at
        # an event's own time may lie outside its window
        first, last = (min(closed, max(opened, closed if each is None else each)) for each in seen)
        number = "an unknown number" if count is None else f"{count:,}"
        yield Point("events", "first", first, key, {"event": f"the first of {number}"}, at, first)
        if more := (count or 1) - 1:
            yield Point("events", "more", last, key, {"event": f"the last of {number}"}, at, first, more)
        about = {"count": number, "window": f"{duration(closed - opened)}, closed by {window.trigger}"}
        yield Point("windows", "window", closed, key, about, at, opened)
    for retry in recording.retries:
        about = {"failed": f"{retry.stage}, attempt {retry.attempt}", "error": retry.error}
        about["retried"] = f"after {duration(retry.wait)}"
        for key in retry.keys[:keys] or (None,):
            yield Point("retries", "retry", retry.at, key, about, retry.at, retry.at)
    for mark in recording.outcomes:
        about = {"outcome": mark.outcome, "stage": mark.stage, "attempts": f"{mark.attempts:,}", "reason": mark.reason}
        about["age"] = "" if mark.age is None else duration(mark.age)
        yield Point(mark.outcome, mark.outcome, mark.at, mark.key, about, mark.at, mark.at)


def symbols(recording: Recording) -> dict[Hashable, tuple[str, str]]:
    """Return a letter and a colour for each of the first keys, in their order."""
    keys = dict.fromkeys(event.key for event in recording.events)
    keys.update(dict.fromkeys(outcome.key for outcome in recording.outcomes if outcome.key is not None))
    return dict(zip(keys, zip(ascii_letters, cycle(COLOURS), strict=False), strict=False))


def outcomes(recording: Recording) -> list[str]:
    """Return the outcomes that have a lane: those that there were."""
    return [name for name in (*OUTCOMES, "rejected") if recording.totals.get(name)]


def title(recording: Recording) -> str:
    """Return how many events there were, before and after."""
    numbers = {"received": recording.totals.get("received", 0) + recording.totals.get("rejected", 0)}
    numbers |= {name: recording.totals.get(name, 0) for name in ("distinct", *outcomes(recording)[:1])}
    kept = "" if recording.complete else f"; the last {len(recording.events):,} distinct events"
    return " → ".join(f"{number:,} {name}" for name, number in numbers.items()) + kept


class Element(NamedTuple):
    """Something at an instant that stands for so many."""

    at: float
    text: str
    many: int = 1


def marble(recording: Recording) -> str:
    """Return a recording as marble diagrams, one a line.

    ::

        events     -a-b-(a,c)---2b--    a letter is an event; 2b: two more of b by then
        windows    -----[ab]----[bc]    a window of these distinct events
        retries    ------e1---------    the first attempt of enrich for some event failed
        published  -------a------b--    and so on for each outcome

    Elements that would overlap are a group at the time of the first: ``(a,b)``, or ``9x`` for many.
    """
    known, (upper, lower) = symbols(recording), axes(recording)
    letters = defaultdict[str, list[Element]](list)
    for point in points(recording, 0):
        text = f"{point.many if point.many > 1 else ''}{known.get(point.key, OTHER)[0]}"
        letters[point.lane].append(Element(point.at, text, point.many))
    names = defaultdict["WindowClosed", str](str)
    for event in recording.events:
        names[event.window] += known.get(event.key, OTHER)[0]
    windows = [
        Element(window.at if upper == lower else window.closed, f"[{name if len(name) <= NAME else len(name)}]")
        for window, name in names.items()
    ]
    retries = [Element(mark.at, f"{mark.stage[:1]}{mark.attempt}") for mark in recording.retries]
    lanes = [("events", upper, letters["events"]), ("windows", upper, windows)]
    lanes += [("retries", lower, retries)] * bool(retries)
    lanes += [(lane, lower, letters[lane]) for lane in outcomes(recording)]
    lines = [(lane, line(axis, elements)) for lane, axis, elements in lanes]
    for name, axis in (("time", upper),) if upper == lower else (("event time", upper), ("clock", lower)):
        scale = f"a column is {duration(axis.length / COLUMNS)}, the first is at {instant(axis.start)} UTC"
        lines.append((name, scale))
    if known:
        keys = [f"{letter} = {short(key, 30)}" for key, (letter, _) in islice(known.items(), LEGEND)]
        lines.append(("keys", ", ".join(keys + ["…"] * (len(known) > LEGEND))))
    lines.append(("in all", recording.summary + ("" if recording.complete else "; the latest are shown")))
    return "\n".join(f"{name:<10} {text}" for name, text in lines)


def line(axis: Axis, elements: Iterable[Element]) -> str:
    """Return one stream as a marble diagram of `COLUMNS` columns of equal length."""
    groups: list[tuple[int, list[Element]]] = []
    for element in sorted(elements):
        column = int(axis.share(element.at) * COLUMNS + 1e-6)
        # without a hyphen between them two elements would be read as one
        if groups and column <= groups[-1][0] + len(_token(groups[-1][1])):
            groups[-1][1].append(element)
        else:
            groups.append((column, [element]))
    text = ""
    for column, group in groups:
        text = text.ljust(column, "-") + _token(group)
    return text.ljust(COLUMNS, "-")


def _token(group: Sequence[Element]) -> str:
    texts = [element.text for element in group]
    if len(group) > GROUP:
        return f"{sum(element.many for element in group)}x"
    return f"({','.join(texts)})" if len(group) > 1 else texts[0]


def explanation(recording: Recording, wanted: Hashable) -> str:
    """Return what happened to a key, a line each, in the order of time."""
    own: dict[str, Any] = {
        name: [mark for mark in getattr(recording, name) if mark.key == wanted] for name in ("events", "outcomes")
    }
    own["retries"] = [mark for mark in recording.retries if wanted in mark.keys]
    found = sorted((each for each in points(replace(recording, **own)) if each.key == wanted), key=attrgetter("at"))
    many, windows = (sum(each.many for each in found if each.lane == lane) for lane in ("events", "windows"))
    title = f"{short(wanted, 60)}: {counted(many, 'event') if many else 'no events'} in {counted(windows, 'window')}"
    if not recording.complete:
        title += ", of those that are kept: the oldest are not"
    texts = (", ".join(f"{name} {text}" for name, text in each.about.items() if text) for each in found)
    return "\n".join([title, *(f"  {instant(each.at)}  {text}" for each, text in zip(found, texts, strict=True))])
