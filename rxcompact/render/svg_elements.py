"""The parts of SVG pictures: elements, lanes of circles, bars, brackets and waits, one style for light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rxcompact.format import escape
from rxcompact.render.axis import Axis

if TYPE_CHECKING:
    from rxcompact.observers.recording import RetryMark, WindowMark

WIDTH = 960
LEFT, RIGHT = 128, 932
"""Where time starts and ends."""
COLOURS = ("#2f6fd6", "#c2571a", "#1f8a5b", "#8a4fc4", "#b8324f", "#0f7f95", "#8a6d0b", "#5b6b7d")
"""Of keys, in turn: each is a contrast to white text, to white paper and to black paper."""

RADIUS = 10.0
ROW = 24.0
ROWS = 4
"""Circles at one instant that are drawn on top of each other; the rest is counted."""
CROWD = 0.2
"""Share of the circles that may be counted instead of drawn."""
WAITS = 7
"""Rows of waits."""
BINS = 120
BAR = 46.0
WAIT_ROW = 17.0
LETTER = 6.6
"""Width of a letter, about."""

# the picture brings its paper: a notebook's theme is not known to an image
_STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #24292f }
.paper { fill: #ffffff; stroke: #d0d7de }
.title { font-size: 14px; font-weight: 600 }
.quiet { fill: #57606a; font-size: 11px }
.small { font-size: 10.5px }
.letter { fill: #ffffff; font-size: 12px; font-weight: 600 }
.middle { text-anchor: middle }
.end { text-anchor: end }
.lane, .tick { stroke: #8c959f; fill: none }
.grid { stroke: #d8dee4; stroke-dasharray: 2 3 }
.state { stroke: #8c959f; stroke-dasharray: 5 3 }
.window { fill: #ddf4ff; opacity: 0.6 }
.bracket { stroke: #0969da; stroke-width: 1.5; fill: none }
.duplicate { opacity: 0.38 }
.retry { stroke: #bc4c00; stroke-width: 1.6; fill: none }
.wait { stroke: #bc4c00; stroke-dasharray: 3 3; fill: none }
.bar { fill: #0969da }
.faded { fill: #0969da; opacity: 0.28 }
.published { fill: #1a7f37 }
.expired { fill: #bf8700 }
.rejected, .failed { fill: #cf222e }
.dropped { fill: #6e7781 }
.abandoned { fill: #8250df }
.retried { fill: #bc4c00 }
.ring { stroke-width: 2 }
.ring, .ring.expired, .ring.rejected, .ring.failed, .ring.dropped, .ring.abandoned { fill: #ffffff }
.ring.expired { stroke: #bf8700 }
.ring.rejected, .ring.failed { stroke: #cf222e }
.ring.dropped { stroke: #6e7781 }
.ring.abandoned { stroke: #8250df }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .paper { fill: #0d1117; stroke: #30363d }
  .quiet { fill: #9da7b3 }
  .letter { fill: #ffffff }
  .grid { stroke: #2b323b }
  .window { fill: #12345a }
  .bracket { stroke: #58a6ff }
  .retry, .wait { stroke: #f0883e }
  .bar, .faded { fill: #58a6ff }
  .published { fill: #7ee787 }
  .expired { fill: #d29922 }
  .rejected, .failed { fill: #da3633 }
  .abandoned { fill: #a371f7 }
  .retried { fill: #f0883e }
  .ring, .ring.expired, .ring.rejected, .ring.failed, .ring.dropped, .ring.abandoned { fill: #0d1117 }
  .ring.expired { stroke: #d29922 }
  .ring.rejected, .ring.failed { stroke: #da3633 }
  .ring.abandoned { stroke: #a371f7 }
}
"""


def element(name: str, text: str | None = None, **attributes: str | float) -> str:
    """Return an element; the attribute ``kind`` is its class, and an underscore in a name becomes a hyphen.

    >>> element("text", "a < b", x=1.5, kind="quiet")
    '<text x="1.5" class="quiet">a &lt; b</text>'
    """
    parts = [name]
    for key, value in attributes.items():
        quoted = escape(value if isinstance(value, str) else number(value))
        parts.append(f'{"class" if key == "kind" else key.replace("_", "-")}="{quoted}"')
    return f"<{' '.join(parts)}/>" if text is None else f"<{' '.join(parts)}>{escape(text)}</{name}>"


def number(value: float) -> str:
    """Return a number with the digits that can be seen."""
    return f"{value:.1f}".removesuffix(".0")


def document(parts: list[str], height: float, label: str) -> str:
    """Return a picture."""
    tall = number(height)
    paper = element("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=8, kind="paper")
    size = f'width="{WIDTH}" height="{tall}" viewBox="0 0 {WIDTH} {tall}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(label)}">'
    return "\n".join([opening, f"<style>{_STYLE}</style>", paper, *parts, "</svg>"])


# ── lanes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Lane(NamedTuple):
    """The parts of a lane, and its height."""

    parts: list[str]
    height: float


class Dot(NamedTuple):
    """A circle to draw; one without a colour is a ring of the class ``ring``."""

    at: float
    letter: str
    colour: str = ""
    ring: str = ""
    faded: bool = False
    badge: str = ""


def x_of(axis: Axis, at: float) -> float:
    """Return the x of an instant."""
    return LEFT + (RIGHT - LEFT) * axis.share(at)


def rows(spans: Iterable[tuple[float, float]], most: int) -> list[int]:
    """Return a row for each of the sorted spans so that no two overlap; ``most`` where no row is free."""
    ends = [float("-inf")] * most
    chosen: list[int] = []
    for left, right in spans:
        row = next((index for index, end in enumerate(ends) if end <= left), most)
        chosen.append(row)
        if row < most:
            ends[row] = right
    return chosen


def circles(axis: Axis, dots: Iterable[Dot], y: float) -> Lane | None:
    """Draw a circle for each dot, those of one instant on top of each other; None for too many."""
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
    """Draw bars of one scale, each layer over the one before."""
    most = max((amount for _, amounts in layers for amount in amounts), default=0.0) or 1.0
    base = y + BAR + 6
    width = (RIGHT - LEFT) / BINS
    parts = [element("line", x1=LEFT, x2=RIGHT, y1=base, y2=base, kind="lane")]
    for kind, amounts in layers:
        for index, amount in enumerate(amounts):
            if amount > 0:
                # one of a million can be seen too
                tall = max(1.0, BAR * amount / most)
                x = LEFT + index * width
                parts.append(element("rect", x=x, y=base - tall, width=width - 0.8, height=tall, kind=kind))
    return Lane(parts, BAR + 12)


def brackets(axis: Axis, windows: Sequence[WindowMark], top: float, y: float) -> tuple[list[str], Lane]:
    """Draw a bracket with counts under each window, and a shade behind it from ``top`` to ``y``."""
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
        label = next((text for text in (whole, counts) if len(text) * LETTER < width), "")
        if label:
            parts.append(element("text", label, x=left + 1 + width / 2, y=y + 20, kind="middle"))
    return behind, Lane(parts, 28)


def waits(axis: Axis, retries: Sequence[RetryMark], y: float) -> Lane | None:
    """Draw a cross for each failed call, its wait, and a ring for the next attempt; None for too many."""
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
