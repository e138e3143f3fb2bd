"""A recording as an SVG marble diagram, with bars in place of circles for many events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING

from rxcompact.format import OUTCOMES, duration, instant, short
from rxcompact.render.axis import LETTERS, Axis, axes, spread, symbols, within
from rxcompact.render.svg_elements import (
    BINS,
    COLOURS,
    LEFT,
    RIGHT,
    Dot,
    Lane,
    bars,
    brackets,
    circles,
    document,
    element,
    waits,
    x_of,
)

if TYPE_CHECKING:
    from rxcompact.observers.recording import Recording, StateMark

MOST_CIRCLES = 160
"""Events, or outcomes of a kind, that are drawn one by one."""
MOST_WINDOWS = 100
MOST_RETRIES = 60
MOST_STATES = 60
TIMES = "\N{MULTIPLICATION SIGN}"
TICKS = 8
LEGEND = 12
"""Keys that are listed."""
STATES = {"restarting": "restart", "draining": "drain", "source failed": "source failed", "failed": "failed"}
"""States that are labelled, and their labels."""


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
        self._y = 0.0

    def draw(self) -> str:
        names = ("received", "distinct", "published")
        title = " → ".join(f"{self._recording.totals.get(name, 0):,} {name}" for name in names)
        axis = self._lower
        when = f"{instant(axis.start)} UTC, {duration(axis.end - axis.start)}"
        self._text(title, 16, 26, "title")
        self._text(when, RIGHT, 26, "quiet end")
        self._y = 36.0
        one_axis = self._upper == self._lower
        states = self._states() if one_axis else []
        top = self._y
        self._events()
        if not one_axis:
            self._axis(self._upper, "event time", top, f"from {instant(self._upper.start)} UTC")
            states = self._states()
            top = self._y
        self._retries()
        self._outcomes()
        for mark in states:
            x = x_of(self._lower, mark.at)
            self._behind.append(element("line", x1=x, x2=x, y1=top - 4, y2=self._y, kind="state"))
        self._axis(self._lower, "time" if one_axis else "clock", top)
        self._legend()
        return document([*self._behind, *self._parts], self._y + 6, title)

    def _text(self, text: str, x: float, y: float, kind: str) -> None:
        self._parts.append(element("text", text, x=x, y=y, kind=kind))

    def _lane(self, name: str, lane: Lane, note: str = "", at: float = -9) -> None:
        self._parts += lane.parts
        self._y += lane.height
        self._text(name, 16, self._y + at - (7 if note else 0), "name")
        if note:
            self._text(note, 16, self._y + at + 7, "quiet")

    # ── events and windows ────────────────────────────────────────────────────────────────────────────────────────────

    def _events(self) -> None:
        top, axis, recording = self._y, self._upper, self._recording
        lane = None
        if recording.are_all("distinct", recording.events[:MOST_CIRCLES]) and len(self._letters) < LETTERS:
            lane = circles(axis, self._dots(), top)
        if lane is not None:
            self._keys = True
            self._lane("events", lane)
        else:
            self._bars("events", axis, {"faded": "received", "bar": "distinct"})
            self._hints.append("pale bars: received; full bars: distinct")
        if recording.are_all("windows", recording.windows[:MOST_WINDOWS]):
            behind, lane = brackets(axis, recording.windows, top, self._y)
            self._behind += behind
            self._lane("windows", lane)
            return
        triggers = Counter(window.trigger for window in recording.windows)
        by = ", ".join(f"{many:,} by {trigger}" for trigger, many in triggers.most_common())
        length = median(window.closed - window.opened for window in recording.windows)
        self._text(f"{recording.totals['windows']:,}, mostly of {duration(length)}; {by}", LEFT, self._y + 19, "small")
        self._lane("windows", Lane([], 28))

    def _dots(self) -> Iterator[Dot]:
        for event in self._recording.events:
            letter, colour = self._letters[event.key], self._colours[event.key]
            yield Dot(within(event.window, event.first_seen), letter, colour)
            more = (event.count or 1) - 1
            if more:
                badge = f"{TIMES}{more:,}" if more > 1 else ""
                yield Dot(within(event.window, event.last_seen), letter, colour, faded=True, badge=badge)

    # ── retries and outcomes ──────────────────────────────────────────────────────────────────────────────────────────

    def _retries(self) -> None:
        recording = self._recording
        if not recording.totals.get("retries"):
            return
        lane = None
        if recording.are_all("retries", recording.retries[:MOST_RETRIES]):
            lane = waits(self._lower, recording.retries, self._y)
        if lane is None:
            self._bars("retries", self._lower, {"retried": "retries"})
            return
        self._lane("retries", lane)
        self._hints.append("✕ a call failed, ○ it is made again (e1: enrich, after its first attempt)")

    def _outcomes(self) -> None:
        for outcome in (*OUTCOMES, "rejected"):
            if outcome != "published" and not self._recording.totals.get(outcome):
                continue
            found = self._recording.of_outcome(outcome)
            ring = "" if outcome == "published" else outcome
            # an event that was rejected has no key
            dots = [
                Dot(mark.at, self._letters.get(mark.key, "?"), self._colours.get(mark.key, COLOURS[-1]), ring)
                for mark in found[:MOST_CIRCLES]
            ]
            few = self._recording.are_all(outcome, dots) and (self._keys or not dots)
            lane = circles(self._lower, dots, self._y) if few else None
            reasons = Counter(mark.reason for mark in found if mark.reason).most_common(1)
            if lane is not None:
                self._lane(outcome, lane, short(reasons[0][0], 16) if reasons else "")
            else:
                self._bars(outcome, self._lower, {outcome: outcome})

    def _bars(self, name: str, axis: Axis, kinds: Mapping[str, str]) -> None:
        layers = {kind: spread(axis, BINS, self._recording.rates.get(what, ())) for kind, what in kinds.items()}
        rate = max(max(amounts) for amounts in layers.values()) * BINS / axis.length
        self._lane(name, bars(list(layers.items()), self._y), f"≤ {rate:,.0f}/s" if rate >= 10 else f"≤ {rate:.2g}/s")  # noqa: PLR2004

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _states(self) -> list[StateMark]:
        """Label the changes of state, as far as labels fit; return them."""
        changes = [mark for mark in self._recording.states if mark.state in STATES][-MOST_STATES:]
        free = 0.0
        for mark in changes:
            x, text = x_of(self._lower, mark.at), STATES[mark.state]
            left = min(x - len(text) * 3, RIGHT - len(text) * 6)
            if left > free:
                self._text(text, left, self._y + 12, "small")
                free = left + len(text) * 6 + 8
        self._y += 18 if changes else 0
        return changes

    def _axis(self, axis: Axis, name: str, top: float, note: str = "") -> None:
        y = self._y + 14
        self._parts.append(element("line", x1=LEFT, x2=RIGHT, y1=y, y2=y, kind="tick"))
        for seconds in axis.ticks(TICKS):
            x = x_of(axis, axis.start + seconds)
            self._behind.append(element("line", x1=x, x2=x, y1=top, y2=y, kind="grid"))
            self._parts.append(element("line", x1=x, x2=x, y1=y, y2=y + 4, kind="tick"))
            self._text(duration(seconds), x, y + 17, "quiet middle")
        self._text(name, 16, y + 4, "name")
        self._y = y + 26
        if note:
            self._text(note, LEFT, self._y + 8, "quiet")
            self._y += 16

    # ── legend ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _legend(self) -> None:
        if self._keys:
            for index, (key, letter) in enumerate(islice(self._letters.items(), LEGEND)):
                x, y = LEFT + 10 + index % 4 * 204, self._y + 14 + index // 4 * 24
                self._parts.append(element("circle", cx=x, cy=y, r=8, fill=self._colours[key]))
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
