"""A recording as an SVG marble diagram, with bars in place of circles for many events."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, islice
from string import ascii_letters
from typing import TYPE_CHECKING

from rxcompact.format import duration, instant, short
from rxcompact.render.marble import LEGEND, OTHER, Axis, Point, axes, outcomes, points, symbols, title
from rxcompact.render.svg import WIDTH, bars, document, element, image

if TYPE_CHECKING:
    from rxcompact.observers.recorder import Recording

LEFT, RIGHT = 128, 932  # where time starts and ends
MOST_CIRCLES, MOST_WINDOWS, MOST_RETRIES = 160, 100, 60
"""What is drawn one by one; of outcomes, each kind."""
RADIUS = 10.0
ROW, ROWS = 24.0, 4  # circles at one instant are drawn on top of each other, so many; the rest is counted
CROWD = 0.2  # share of the circles that may be counted instead of drawn
WAIT_ROW, WAIT_ROWS = 17.0, 7
BAR, BINS = 46.0, 120
LETTER = 6.6  # width of a letter, about
TICKS = 8
TIMES = "\N{MULTIPLICATION SIGN}"


def marble_svg(recording: Recording) -> str:
    """Return a picture of a recording: events, windows, retries and outcomes over time.

    A circle is an event; a letter and a colour are a key; a faded circle stands for duplicates. Of more than
    `MOST_CIRCLES` events, bars show the numbers. The size of the picture is bounded.
    """
    return _Picture(recording).draw()


def marble_html(recording: Recording) -> str:
    """Return it as an image."""
    return image(marble_svg(recording), f"marble diagram: {recording.summary}")


class _Picture:
    """A picture that is drawn from the top down."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._upper, self._lower = axes(recording)
        self._known = symbols(recording)
        self._points = defaultdict[str, list[Point]](list)
        for point in points(recording, 0):
            self._points[point.lane].append(point)
        self._parts: list[str] = []
        self._behind: list[str] = []
        self._hints: list[str] = []
        self._keys = False  # whether letters are explained
        self._y = 36.0

    def draw(self) -> str:
        upper, lower, label = self._upper, self._lower, title(self._recording)
        self._text(label, 16, 26, "title")
        self._text(f"{instant(lower.start)} UTC, {duration(lower.end - lower.start)}", RIGHT, 26, "quiet end")
        if upper != lower:
            top = self._y
            self._events()
            self._axis(upper, "event time", top)
            self._text(f"from {instant(upper.start)} UTC", LEFT, self._y + 8, "quiet")
            self._y += 16
        top = self._y
        if upper == lower:
            self._events()
        self._retries()
        for outcome in outcomes(self._recording):
            dots = self._points[outcome]
            if not ((self._keys or not dots) and self._circles(outcome, lower, dots)):
                self._bars(outcome, lower, {outcome: dots})
        self._axis(lower, "time" if upper == lower else "clock", top)
        self._legend()
        return document([*self._behind, *self._parts], self._y + 6, label)

    def _draw(self, name: str, text: str | None = None, **attributes: str | float) -> None:
        self._parts.append(element(name, text, **attributes))

    def _text(self, text: str, x: float, y: float, kind: str) -> None:
        if text:
            self._draw("text", text, x=x, y=y, kind=kind)

    def _base(self, y: float, kind: str = "lane") -> None:
        self._draw("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, kind=kind)

    def _lane(self, name: str, height: float, note: str = "") -> None:
        """End a lane: its name, and under it a note."""
        self._y += height
        self._text(name, 16, self._y - (16 if note else 9), "name")
        self._text(note, 16, self._y - 2, "quiet small")

    def _circles(self, lane: str, axis: Axis, dots: Sequence[Point]) -> bool:
        """Draw a lane of circles, those of one instant on top of each other; return false, and draw none, of many."""
        if sum(dot.kind != "more" for dot in dots) > MOST_CIRCLES:
            return False
        placed = sorted([(_x(axis, dot.at), dot) for dot in dots], key=lambda each: each[0])
        rows = rows_of([(x - RADIUS, x + RADIUS + (15 if dot.many > 1 else 1)) for x, dot in placed], ROWS)
        crowd = [x for (x, _), row in zip(placed, rows, strict=True) if row == ROWS]
        if len(crowd) > len(placed) * CROWD:
            return False
        height = min(ROWS, max(rows, default=0) + 1) * ROW + (20 if crowd else 8)
        base = self._y + height - ROW / 2 - 2
        self._base(base)
        for (x, dot), row in zip(placed, rows, strict=True):
            if row < ROWS:
                (letter, colour), y = self._known.get(dot.key, OTHER), base - row * ROW
                look = {"first": "", "published": "", "more": "duplicate"}.get(dot.kind, f"ring {dot.kind}")
                self._draw("circle", cx=x, cy=y, r=RADIUS, fill=colour, **({"kind": look} if look else {}))
                self._text(letter, x, y + 4, "middle" if look == "duplicate" else "letter middle")
                badge = f"{TIMES}{dot.many:,}" if dot.many > 1 else ""
                inside = x + RADIUS + len(badge) * LETTER < WIDTH - 8
                self._text(badge, x + (RADIUS + 1) * (1 if inside else -1), y - 3, "small" if inside else "small end")
        for _, near in groupby(crowd, lambda x: x // (3 * RADIUS)):
            x, *others = near
            self._text(f"+{1 + len(others)}", x, self._y + 11, "small middle")
        reasons = Counter(reason for dot in dots if (reason := dot.about.get("reason"))).most_common(1)
        self._lane(lane, height, short(reasons[0][0], 20) if reasons else "")
        return True

    def _bars(self, name: str, axis: Axis, kinds: Mapping[str, Iterable[Point]]) -> None:
        """Draw a lane of bars of one scale, each kind over the one before: what it stands for, by its class."""
        width = (RIGHT - LEFT) / BINS
        amounts = [
            (LEFT + index * width, width - 0.8, amount, kind)
            for kind, dots in kinds.items()
            for index, amount in enumerate(axis.spread(BINS, [(dot.since, dot.at, dot.many) for dot in dots]))
        ]
        most, base = max(amount for _, _, amount, _ in amounts), self._y + BAR + 6
        self._base(base)
        self._parts += bars(amounts, base, BAR)
        rate = most * BINS / axis.length
        self._lane(name, BAR + 12, f"≤ {rate:,.0f}/s" if rate >= 10 else f"≤ {rate:.2g}/s")  # noqa: PLR2004

    def _events(self) -> None:
        top, recording = self._y, self._recording
        dots = self._points["events"]
        self._keys = len(self._known) < len(ascii_letters) and self._circles("events", self._upper, dots)
        if not self._keys:
            firsts = [dot for dot in dots if dot.kind == "first"]
            self._bars("events", self._upper, {"faded": dots, "bar": firsts})
            self._hints.append("pale bars: received; full bars: distinct")
        y, windows = self._y, recording.windows
        if len(windows) <= MOST_WINDOWS:
            for window in windows:  # a bracket with counts, and a shade behind it from the top
                left = _x(self._upper, window.opened) + 1
                width = max(2.0, _x(self._upper, window.closed) - left - 1)
                self._behind.append(element("rect", x=left, y=top, width=width, height=y - top, kind="window"))
                self._draw("path", d=f"M{left:.1f},{y:.1f} v7 h{width:.1f} v-7", kind="bracket")
                counts = f"{window.received:,} → {window.distinct:,}"
                whole = counts if window.trigger == "time" else f"{counts}, {window.trigger}"
                label = next((text for text in (whole, counts) if len(text) * LETTER < width), "")
                self._text(label, left + width / 2, y + 20, "middle")
        else:
            self._text(f"{len(windows):,}", LEFT, y + 19, "small")
        self._lane("windows", 28)

    def _retries(self) -> None:
        """Draw a cross for each failed call, its wait, and a ring for the next attempt; bars of too many."""
        axis, recording = self._lower, self._recording
        if not recording.retries:
            return
        marks = sorted(recording.retries)
        spans = [(_x(axis, mark.at), _x(axis, mark.at + mark.wait)) for mark in marks]
        rows = rows_of([(left - 6, max(right, left + 12) + 10) for left, right in spans], WAIT_ROWS)
        if max(rows) == WAIT_ROWS or len(marks) > MOST_RETRIES:
            self._bars("retries", axis, {"retried": self._points["retries"]})
            return
        for (left, right), row, mark in zip(spans, rows, marks, strict=True):
            y = self._y + 14 + row * WAIT_ROW
            self._draw("path", d=f"M{left - 4:.1f},{y - 4:.1f} l8,8 m0,-8 l-8,8", kind="retry")
            self._draw("line", x1=left + 5, x2=max(right - 4, left + 5), y1=y, y2=y, kind="wait")
            if mark.at + mark.wait <= axis.end:
                self._draw("circle", cx=right, cy=y, r=3.5, kind="retry")
            if right - left > 30:  # noqa: PLR2004 - room for it
                self._text(f"{mark.stage[:1]}{mark.attempt}", left + 8, y - 3, "small")
        self._hints.append("✕ a call failed, ○ it is made again (e1: enrich, after its first attempt)")
        self._lane("retries", 10 + (max(rows) + 1) * WAIT_ROW)

    def _axis(self, axis: Axis, name: str, top: float) -> None:
        """Draw an axis, and what is behind the lanes above it."""
        y = self._y + 14
        self._base(y, "tick")
        for seconds in axis.ticks(TICKS):
            x = _x(axis, axis.start + seconds)
            self._behind.append(element("line", x1=x, x2=x, y1=top, y2=y, kind="grid"))
            self._draw("line", x1=x, x2=x, y1=y, y2=y + 4, kind="tick")
            self._text(duration(seconds), x, y + 17, "quiet middle")
        self._text(name, 16, y + 4, "name")
        self._y = y + 26

    def _legend(self) -> None:
        if self._keys:
            for index, (key, (letter, colour)) in enumerate(islice(self._known.items(), LEGEND)):
                x, y = LEFT + 10 + index % 4 * 204, self._y + 14 + index // 4 * 24
                self._draw("circle", cx=x, cy=y, r=8, fill=colour)
                self._text(letter, x, y + 4, "letter middle")
                self._text(short(key, 26), x + 14, y + 4, "key")
            self._y += 24 * -(-min(LEGEND, len(self._known)) // 4) + 4
            if any((event.count or 1) > 1 for event in self._recording.events):
                self._hints.insert(0, f"faded: duplicates by then, {TIMES}n: n of them")
            if len(self._known) > LEGEND:
                self._hints.append(f"{len(self._known) - LEGEND} more keys")
        if self._hints:
            self._text(" · ".join(self._hints), LEFT, self._y + 12, "quiet")
            self._y += 20


def _x(axis: Axis, at: float) -> float:
    return LEFT + (RIGHT - LEFT) * axis.share(at)


def rows_of(spans: Iterable[tuple[float, float]], most: int) -> list[int]:
    """Return a row for each of the sorted spans so that no two overlap; ``most`` where no row is free."""
    ends = [float("-inf")] * most
    chosen: list[int] = []
    for left, right in spans:
        row = next((index for index, end in enumerate(ends) if end <= left), most)
        chosen.append(row)
        if row < most:
            ends[row] = right
    return chosen
