"""A recording as an SVG marble diagram, with bars in place of circles for many events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from operator import itemgetter
from statistics import median
from string import ascii_letters
from typing import TYPE_CHECKING, NamedTuple

from rxcompact.format import OUTCOMES, duration, instant, short
from rxcompact.render.marble import Axis, axes, symbols, within
from rxcompact.render.svg import WIDTH, document, element

if TYPE_CHECKING:
    from rxcompact.observers.recorder import Recording, StateMark

LEFT, RIGHT = 128, 932  # where time starts and ends
COLOURS = ("#2f6fd6", "#c2571a", "#1f8a5b", "#8a4fc4", "#b8324f", "#0f7f95", "#8a6d0b", "#5b6b7d")
"""Of keys, in turn: each is a contrast to white text, to white paper and to black paper."""
MOST_CIRCLES, MOST_WINDOWS, MOST_RETRIES, MOST_STATES = 160, 100, 60, 60
"""What is drawn one by one; of outcomes, each kind."""
RADIUS = 10.0
ROW, ROWS = 24.0, 4  # circles at one instant are drawn on top of each other, so many; the rest is counted
CROWD = 0.2  # share of the circles that may be counted instead of drawn
WAIT_ROW, WAIT_ROWS = 17.0, 7
BAR, BINS = 46.0, 120
LETTER = 6.6  # width of a letter, about
TICKS = 8
TIMES = "\N{MULTIPLICATION SIGN}"
LEGEND = 12  # keys that are listed
STATES = {"restarting": "restart", "draining": "drain", "source failed": "source failed", "failed": "failed"}
"""States that are labelled, and their labels."""


class _Dot(NamedTuple):
    at: float
    letter: str
    colour: str
    kind: str = ""  # the class of the circle
    badge: str = ""


def marble_svg(recording: Recording) -> str:
    """Return a picture of a recording: events, windows, retries and outcomes over time.

    A circle is an event; a letter and a colour are a key; a faded circle stands for duplicates. Of more than
    `MOST_CIRCLES` events, bars show the numbers. The size of the picture is bounded.
    """
    return _Picture(recording).draw()


class _Picture:
    """A picture that is drawn from the top down."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._upper, self._lower = axes(recording)
        self._letters = symbols(recording)
        self._colours = {key: COLOURS[index % len(COLOURS)] for index, key in enumerate(self._letters)}
        self._parts: list[str] = []
        self._behind: list[str] = []
        self._hints: list[str] = []
        self._keys = False  # whether letters are explained
        self._y = 36.0

    def draw(self) -> str:
        totals, upper, lower = self._recording.totals, self._upper, self._lower
        title = " → ".join(f"{totals.get(name, 0):,} {name}" for name in ("received", "distinct", "published"))
        self._text(title, 16, 26, "title")
        self._text(f"{instant(lower.start)} UTC, {duration(lower.end - lower.start)}", RIGHT, 26, "quiet end")
        if upper != lower:
            top = self._y
            self._events()
            self._axis(upper, "event time", top)
            self._text(f"from {instant(upper.start)} UTC", LEFT, self._y + 8, "quiet")
            self._y += 16
        states = self._states()
        top = self._y
        if upper == lower:
            self._events()
        self._retries()
        self._outcomes()
        for mark in states:
            self._line(lower, mark.at, top - 4, self._y, "state")
        self._axis(lower, "time" if upper == lower else "clock", top)
        self._legend()
        return document([*self._behind, *self._parts], self._y + 6, title)

    def _draw(self, name: str, text: str | None = None, **attributes: str | float) -> None:
        self._parts.append(element(name, text, **attributes))

    def _text(self, text: str, x: float, y: float, kind: str) -> None:
        if text:
            self._draw("text", text, x=x, y=y, kind=kind)

    def _line(self, axis: Axis, at: float, top: float, bottom: float, kind: str) -> None:
        """Draw an upright line behind everything."""
        x = _x(axis, at)
        self._behind.append(element("line", x1=x, x2=x, y1=top, y2=bottom, kind=kind))

    def _base(self, y: float, kind: str = "lane") -> None:
        self._draw("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, kind=kind)

    def _lane(self, name: str, height: float, note: str = "") -> None:
        """End a lane: its name, and under it a note."""
        self._y += height
        self._text(name, 16, self._y - (16 if note else 9), "name")
        self._text(note, 16, self._y - 2, "quiet")

    def _circles(self, name: str, axis: Axis, dots: Iterable[_Dot], note: str = "") -> bool:
        """Draw a lane of circles, those of one instant on top of each other; return false, and draw none, of many."""
        placed = sorted(((_x(axis, dot.at), dot) for dot in dots), key=itemgetter(0))
        rows = rows_of(((x - RADIUS, x + RADIUS + (15 if dot.badge else 1)) for x, dot in placed), ROWS)
        crowd = [x for (x, _), row in zip(placed, rows, strict=True) if row == ROWS]
        if len(crowd) > len(placed) * CROWD:
            return False
        height = min(ROWS, max(rows, default=0) + 1) * ROW + (20 if crowd else 8)
        base = self._y + height - ROW / 2 - 2
        self._base(base)
        for (x, dot), row in zip(placed, rows, strict=True):
            if row < ROWS:
                self._circle(x, base - row * ROW, dot)
        for _, near in groupby(crowd, lambda x: x // (3 * RADIUS)):
            x, *others = near
            self._text(f"+{1 + len(others)}", x, self._y + 11, "small middle")
        self._lane(name, height, note)
        return True

    def _circle(self, x: float, y: float, dot: _Dot) -> None:
        ring = "ring" in dot.kind
        look = ({} if ring else {"fill": dot.colour}) | ({"kind": dot.kind} if dot.kind else {})
        self._draw("circle", cx=x, cy=y, r=RADIUS - ring, **look)
        self._text(dot.letter, x, y + 4, "middle" if dot.kind else "letter middle")
        if x + RADIUS + len(dot.badge) * LETTER < WIDTH:
            self._text(dot.badge, x + RADIUS + 1, y - 3, "small")
        else:
            self._text(dot.badge, x - RADIUS - 1, y - 3, "small end")

    def _bars(self, name: str, axis: Axis, kinds: Mapping[str, str]) -> None:
        """Draw a lane of bars of one scale, each kind over the one before: what it stands for, by its class."""
        layers = {kind: axis.spread(BINS, self._recording.rates.get(what, ())) for kind, what in kinds.items()}
        most, width = max(map(max, layers.values())), (RIGHT - LEFT) / BINS
        base = self._y + BAR + 6
        self._base(base)
        for kind, amounts in layers.items():
            for index, amount in enumerate(amounts):
                if amount > 0:
                    tall = max(1.0, BAR * amount / most)  # one of a million can be seen too
                    x = LEFT + index * width
                    self._draw("rect", x=x, y=base - tall, width=width - 0.8, height=tall, kind=kind)
        rate = most * BINS / axis.length
        self._lane(name, BAR + 12, f"≤ {rate:,.0f}/s" if rate >= 10 else f"≤ {rate:.2g}/s")  # noqa: PLR2004

    def _events(self) -> None:
        top, recording = self._y, self._recording
        few = recording.are_all("distinct", recording.events[:MOST_CIRCLES]) and len(self._letters) < len(ascii_letters)
        self._keys = few and self._circles("events", self._upper, self._dots())
        if not self._keys:
            self._bars("events", self._upper, {"faded": "received", "bar": "distinct"})
            self._hints.append("pale bars: received; full bars: distinct")
        if recording.are_all("windows", recording.windows[:MOST_WINDOWS]):
            self._brackets(top)
        else:
            triggers = Counter(window.trigger for window in recording.windows)
            by = ", ".join(f"{many:,} by {trigger}" for trigger, many in triggers.most_common())
            length = median(window.closed - window.opened for window in recording.windows)
            whole = f"{recording.totals['windows']:,}, mostly of {duration(length)}; {by}"
            self._text(whole, LEFT, self._y + 19, "small")
        self._lane("windows", 28)

    def _dots(self) -> Iterator[_Dot]:
        for event in self._recording.events:
            letter, colour = self._letters[event.key], self._colours[event.key]
            yield _Dot(within(event.window, event.first_seen), letter, colour)
            if more := (event.count or 1) - 1:
                badge = f"{TIMES}{more:,}" if more > 1 else ""
                yield _Dot(within(event.window, event.last_seen), letter, colour, "duplicate", badge)

    def _brackets(self, top: float) -> None:
        """Draw a bracket with counts under each window, and a shade behind it from the top."""
        y = self._y
        for window in self._recording.windows:
            left = _x(self._upper, window.opened) + 1
            width = max(2.0, _x(self._upper, window.closed) - left - 1)
            self._behind.append(element("rect", x=left, y=top, width=width, height=y - top, kind="window"))
            self._draw("path", d=f"M{left:.1f},{y:.1f} v7 h{width:.1f} v-7", kind="bracket")
            counts = f"{window.received:,} → {window.distinct:,}"
            whole = counts if window.trigger == "time" else f"{counts}, {window.trigger}"
            label = next((text for text in (whole, counts) if len(text) * LETTER < width), "")
            self._text(label, left + width / 2, y + 20, "middle")

    def _retries(self) -> None:
        recording = self._recording
        if not recording.totals.get("retries"):
            return
        if recording.are_all("retries", recording.retries[:MOST_RETRIES]) and self._waits():
            self._hints.append("✕ a call failed, ○ it is made again (e1: enrich, after its first attempt)")
        else:
            self._bars("retries", self._lower, {"retried": "retries"})

    def _waits(self) -> bool:
        """Draw a cross for each failed call, its wait, and a ring for the next attempt; return false of too many."""
        axis, marks = self._lower, sorted(self._recording.retries)
        spans = [(_x(axis, mark.at), _x(axis, mark.at + mark.wait)) for mark in marks]
        rows = rows_of(((left - 6, max(right, left + 12) + 10) for left, right in spans), WAIT_ROWS)
        if max(rows) == WAIT_ROWS:
            return False
        for (left, right), row, mark in zip(spans, rows, marks, strict=True):
            y = self._y + 14 + row * WAIT_ROW
            self._draw("path", d=f"M{left - 4:.1f},{y - 4:.1f} l8,8 m0,-8 l-8,8", kind="retry")
            self._draw("line", x1=left + 5, x2=max(right - 4, left + 5), y1=y, y2=y, kind="wait")
            if mark.at + mark.wait <= axis.end:
                self._draw("circle", cx=right, cy=y, r=3.5, kind="retry")
            if right - left > 30:  # noqa: PLR2004 - room for it
                self._text(f"{mark.stage[:1]}{mark.attempt}", left + 8, y - 3, "small")
        self._lane("retries", 10 + (max(rows) + 1) * WAIT_ROW)
        return True

    def _outcomes(self) -> None:
        recording = self._recording
        for outcome in (*OUTCOMES, "rejected"):
            if outcome != "published" and not recording.totals.get(outcome):
                continue
            found = [mark for mark in recording.outcomes if mark.outcome == outcome]
            kind = "" if outcome == "published" else f"ring {outcome}"
            # an event that was rejected has no key
            dots = [
                _Dot(mark.at, self._letters.get(mark.key, "?"), self._colours.get(mark.key, COLOURS[-1]), kind)
                for mark in found[:MOST_CIRCLES]
            ]
            few = recording.are_all(outcome, dots) and (self._keys or not dots)
            reasons = Counter(mark.reason for mark in found if mark.reason).most_common(1)
            if not (few and self._circles(outcome, self._lower, dots, short(reasons[0][0], 16) if reasons else "")):
                self._bars(outcome, self._lower, {outcome: outcome})

    def _states(self) -> list[StateMark]:
        """Label the changes of state, as far as labels fit; return them."""
        changes = [mark for mark in self._recording.states if mark.state in STATES][-MOST_STATES:]
        free = 0.0
        for mark in changes:
            text = STATES[mark.state]
            left = min(_x(self._lower, mark.at) - len(text) * 3, RIGHT - len(text) * 6)
            if left > free:
                self._text(text, left, self._y + 12, "small")
                free = left + len(text) * 6 + 8
        self._y += 18 if changes else 0
        return changes

    def _axis(self, axis: Axis, name: str, top: float) -> None:
        y = self._y + 14
        self._base(y, "tick")
        for seconds in axis.ticks(TICKS):
            x = _x(axis, axis.start + seconds)
            self._line(axis, axis.start + seconds, top, y, "grid")
            self._draw("line", x1=x, x2=x, y1=y, y2=y + 4, kind="tick")
            self._text(duration(seconds), x, y + 17, "quiet middle")
        self._text(name, 16, y + 4, "name")
        self._y = y + 26

    def _legend(self) -> None:
        if self._keys:
            for index, (key, letter) in enumerate(islice(self._letters.items(), LEGEND)):
                x, y = LEFT + 10 + index % 4 * 204, self._y + 14 + index // 4 * 24
                self._draw("circle", cx=x, cy=y, r=8, fill=self._colours[key])
                self._text(letter, x, y + 4, "letter middle")
                self._text(short(key, 26), x + 14, y + 4, "key")
            self._y += 24 * -(-min(LEGEND, len(self._letters)) // 4) + 4
            if any((event.count or 1) > 1 for event in self._recording.events):
                self._hints.insert(0, f"faded: duplicates by then, {TIMES}n: n of them")
            if len(self._letters) > LEGEND:
                self._hints.append(f"{len(self._letters) - LEGEND} more keys")
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
