"""The lanes of a picture: circles on a line, bars, brackets, waits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rxcompact.render.axis import Axis
from rxcompact.render.marks import RetryMark, WindowMark
from rxcompact.render.paper import LEFT, RIGHT, WIDTH, element

RADIUS = 10.0
ROW = 24.0
ROWS = 4
"""Circles at one instant that are drawn on top of each other; more are but counted."""
CROWD = 0.2
"""Share of the circles that may be but counted."""
WAITS = 7
"""Waits under each other."""
BINS = 120
BAR = 46.0
WAIT_ROW = 17.0
LETTER = 6.6
"""Width of a letter, more or less."""


class Lane(NamedTuple):
    """What to draw, and how much of the paper's height it took."""

    parts: list[str]
    height: float


class Dot(NamedTuple):
    """A circle to be drawn; without a colour a ring of that class."""

    at: float
    letter: str
    colour: str = ""
    ring: str = ""
    faded: bool = False
    badge: str = ""


def x_of(axis: Axis, at: float) -> float:
    """Return where an instant is on the paper."""
    return LEFT + (RIGHT - LEFT) * axis.share(at)


def rows(spans: Iterable[tuple[float, float]], most: int) -> list[int]:
    """Return a row for each span, sorted by its start, so that no two overlap; ``most`` where no row has room."""
    ends = [float("-inf")] * most
    chosen: list[int] = []
    for left, right in spans:
        row = next((index for index, end in enumerate(ends) if end <= left), most)
        chosen.append(row)
        if row < most:
            ends[row] = right
    return chosen


def circles(axis: Axis, dots: Iterable[Dot], y: float) -> Lane | None:
    """Draw a circle for each, those of one instant on top of each other; None where many would find no room."""
    ordered = sorted(dots, key=lambda dot: dot.at)
    xs = [x_of(axis, dot.at) for dot in ordered]
    spans = [(x - RADIUS, x + RADIUS + 1 + (14 if dot.badge else 0)) for x, dot in zip(xs, ordered, strict=True)]
    chosen = rows(spans, ROWS)
    shown = min(ROWS, max(chosen, default=0) + 1)
    crowd = [x for x, row in zip(xs, chosen, strict=True) if row == ROWS]
    if len(crowd) > len(xs) * CROWD:
        return None
    height = shown * ROW + 8 + (12 if crowd else 0)
    base = y + height - ROW / 2 - 2
    parts = [element("line", x1=LEFT, x2=RIGHT, y1=base, y2=base, kind="lane")]
    for x, row, dot in zip(xs, chosen, ordered, strict=True):
        if row < ROWS:
            parts += _circle(x, base - row * ROW, dot)
    parts += [
        element("text", f"+{many}", x=x, y=y + 11, kind="small middle") for x, many in _clusters(crowd, 3 * RADIUS)
    ]
    return Lane(parts, height)


def _circle(x: float, y: float, dot: Dot) -> list[str]:
    if dot.ring:
        parts = [element("circle", cx=x, cy=y, r=RADIUS - 1, kind=f"ring {dot.ring}")]
    elif dot.faded:
        parts = [element("circle", cx=x, cy=y, r=RADIUS, fill=dot.colour, kind="duplicate")]
    else:
        parts = [element("circle", cx=x, cy=y, r=RADIUS, fill=dot.colour)]
    if dot.letter:
        kind = "middle" if dot.ring or dot.faded else "letter middle"
        parts.append(element("text", dot.letter, x=x, y=y + 4, kind=kind))
    if dot.badge:
        fits = x + RADIUS + len(dot.badge) * LETTER < WIDTH
        parts.append(
            element(
                "text",
                dot.badge,
                x=x + (RADIUS + 1) * (1 if fits else -1),
                y=y - 3,
                kind="small" if fits else "small end",
            )
        )
    return parts


def _clusters(xs: Sequence[float], width: float) -> list[tuple[float, int]]:
    found: list[tuple[float, int]] = []
    for x in xs:
        if found and x - found[-1][0] < width:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((x, 1))
    return found


def bars(layers: Sequence[tuple[str, Sequence[float]]], y: float) -> Lane:
    """Draw bars of one scale, each layer over the one before, from the same line."""
    most = max((amount for _, amounts in layers for amount in amounts), default=0.0) or 1.0
    base = y + BAR + 6
    width = (RIGHT - LEFT) / BINS
    parts = [element("line", x1=LEFT, x2=RIGHT, y1=base, y2=base, kind="lane")]
    for kind, amounts in layers:
        for index, amount in enumerate(amounts):
            if amount > 0:
                # what there is must be seen, be it one of a million
                tall = max(1.0, BAR * amount / most)
                x = LEFT + index * width
                parts.append(element("rect", x=x, y=base - tall, width=width - 0.8, height=tall, kind=kind))
    return Lane(parts, BAR + 12)


def brackets(axis: Axis, windows: Sequence[WindowMark], top: float, y: float) -> tuple[list[str], Lane]:
    """Draw a bracket under each window, what came and what was left of it, and a shade behind from the top down."""
    behind: list[str] = []
    parts: list[str] = []
    for window in windows:
        left, right = x_of(axis, window.opened), x_of(axis, window.closed)
        width = max(2.0, right - left - 2)
        behind.append(element("rect", x=left + 1, y=top, width=width, height=y - top, kind="window"))
        path = f"M{left + 1:.1f},{y:.1f} v7 h{width:.1f} v-7"
        parts.append(element("path", d=path, kind="bracket"))
        counts = f"{window.received:,} → {window.distinct:,}"
        whole = counts if window.trigger == "time" else f"{counts}, {window.trigger}"
        said = next((text for text in (whole, counts) if len(text) * LETTER < width), "")
        if said:
            parts.append(element("text", said, x=left + 1 + width / 2, y=y + 20, kind="middle"))
    return behind, Lane(parts, 28)


def waits(axis: Axis, retries: Sequence[RetryMark], y: float) -> Lane | None:
    """Draw a cross for each failure, a wait, a ring for the next attempt; None where many would find no room."""
    ordered = sorted(retries)
    spans = [(x_of(axis, mark.at), x_of(axis, mark.at + mark.wait)) for mark in ordered]
    chosen = rows(((left - 6, max(right, left + 12) + 10) for left, right in spans), WAITS)
    if max(chosen, default=0) == WAITS:
        return None
    parts: list[str] = []
    for (left, right), row, mark in zip(spans, chosen, ordered, strict=True):
        middle = y + 14 + row * WAIT_ROW
        cross = f"M{left - 4:.1f},{middle - 4:.1f} l8,8 m0,-8 l-8,8"
        parts.append(element("path", d=cross, kind="retry"))
        parts.append(element("line", x1=left + 5, x2=max(right - 4, left + 5), y1=middle, y2=middle, kind="wait"))
        if mark.at + mark.wait <= axis.end:
            parts.append(element("circle", cx=right, cy=middle, r=3.5, kind="retry"))
        if right - left > 30:  # noqa: PLR2004 - room for it
            text = f"{mark.stage[:1]}{mark.attempt}"
            parts.append(element("text", text, x=left + 8, y=middle - 3, kind="small"))
    return Lane(parts, 10 + (max(chosen, default=0) + 1) * WAIT_ROW)
