"""Pictures that can be touched, by Vega-Lite; a recording as one: follow a key through every lane, zoom in time."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rxcompact.format import duration, instant, short
from rxcompact.render.marble import OTHER, Axis, axes, marble, outcomes, points, symbols, title
from rxcompact.render.marble_svg import marble_svg, rows_of
from rxcompact.render.svg import OUTCOME_COLOURS

if TYPE_CHECKING:
    from rxcompact.observers.recorder import Recording

MIME = "application/vnd.vegalite.v5+json"
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
MOST = 1500  # distinct events that are drawn, the latest: each has up to four marks
KEYS = 20  # of a retried batch, each with a mark
WIDTH, ROW, ROWS, RADIUS = 680, 18, 6, 8.0
NO_LOOK = {"stroke": "transparent", "shape": "circle", "size": 230}
LOOKS: dict[str, dict[str, Any]] = {
    "retry": {"shape": "M-.5,-.5L.5,.5M.5,-.5L-.5,.5", "stroke": "#d9601a", "letter": "", "size": 150},
    "window": {"letter": "", "size": 36},
}


@dataclass(frozen=True, slots=True, repr=False)
class Chart:
    """A picture that shows itself: to be touched in a notebook, a still one elsewhere, and text in a console."""

    spec: dict[str, Any]
    """Of Vega-Lite 5."""
    svg: str
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        # no text/html: JupyterLab prefers it to a chart
        return {MIME: self.spec, "image/svg+xml": self.svg, "text/plain": self.text}


def filled(document: Path, **values: Any) -> dict[str, Any]:
    """Return a document of Vega-Lite in which values take the places that are named after them: "$name"."""

    def fill(part: dict[str, Any]) -> dict[str, Any]:
        return {key: values[each[1:]] if str(each).startswith("$") else each for key, each in part.items()}

    return json.loads(document.read_text(encoding="utf-8"), object_hook=fill)  # type: ignore[no-any-return]


def labels(words: Mapping[float, str]) -> str:
    """Return the expression of an axis whose values have these labels."""
    return "".join(f"datum.value == {value} ? '{word}' : " for value, word in words.items()) + "''"


def marble_chart(recording: Recording) -> Chart:
    """Return a picture of the latest events: their arrivals, windows, retries and outcomes.

    A time is the true one: of the first event of a key in its window, of the last, of each failed call, of the outcome.
    """
    svg, text = marble_svg(recording), marble(recording)
    recording = recording.latest(MOST)
    upper, lower = axes(recording)
    shown = sorted(_points(recording), key=lambda point: point["at"])
    lanes = ["retries"] * bool(recording.retries) + outcomes(recording)
    parts = [(upper, ["events", "windows", *lanes])] if upper == lower else [(upper, ["events", "windows"])]
    parts += [(lower, lanes)] * (upper != lower and bool(lanes))
    views = [_view(recording, axis, names, shown, index) for index, (axis, names) in enumerate(parts)]
    hover = {"type": "point", "fields": ["key"], "on": "symbol:mouseover", "clear": "symbol:mouseout"}
    spec = {
        "$schema": SCHEMA,
        "description": f"Marble diagram: {recording.summary}.",
        "title": {"text": title(recording), "anchor": "start"},
        "params": [{"name": "key", "select": hover, "views": [f"marks{index}" for index in range(len(views))]}],
        "vconcat": views,
    }
    return Chart(spec, svg, text)


def _points(recording: Recording) -> Iterator[dict[str, Any]]:
    """Yield what is drawn; what belongs together has one key and one trail: how many windows closed before."""
    known, numbers, closed = symbols(recording), dict[Hashable, int](), defaultdict[Hashable, list[float]](list)
    for event in recording.events:
        closed[event.key].append(event.window.at)
    for lane, kind, at, key, about, recorded, _, many in points(recording, KEYS):
        letter, colour = known.get(key, ("", OTHER[1]))
        shown = {} if key is None else {"key": short(key, 60)}
        shown |= {"time": f"{instant(at)} UTC"} | {name: text for name, text in about.items() if text}
        number = None if key is None else numbers.setdefault(key, len(numbers))
        trail = max(0, bisect_right(closed[key], recorded) - 1)
        place = {"lane": lane, "at": 1000 * at, "key": number, "trail": trail, "about": shown}
        look = {"letter": letter if many == 1 else f"×{many}", "fill": f"{colour}60" if kind == "more" else colour}  # noqa: RUF001
        if kind in OUTCOME_COLOURS and kind != "published":
            look["stroke"] = OUTCOME_COLOURS[kind][1]
        yield place | NO_LOOK | look | LOOKS.get(kind, {})


def _view(
    recording: Recording, axis: Axis, lanes: Sequence[str], shown: Sequence[dict[str, Any]], index: int
) -> dict[str, Any]:
    """Return the lanes of an axis: windows, trails, marks and letters."""
    values, bases, height = list[dict[str, Any]](), dict[str, float](), 4.0
    for lane in lanes:
        own = [point for point in shown if point["lane"] == lane]
        radius = RADIUS / (2 if lane == "windows" else 1)
        places = [axis.share(point["at"] / 1000) * WIDTH for point in own]
        free = rows_of([(x - radius, x + radius) for x in places], ROWS)
        rows = [row if row < ROWS else number % ROWS for number, row in enumerate(free)]
        height += (max(rows, default=0) + 1) * ROW + 6
        bases[lane] = height - ROW / 2
        values += [point | {"y": bases[lane] - row * ROW} for point, row in zip(own, rows, strict=True)]
    values = [point | {"order": order} for order, point in enumerate(values)]
    windows = [
        {"from": 1000 * window.opened, "to": 1000 * window.closed, "about": {
            "window": f"{instant(window.opened)} UTC, {duration(window.closed - window.opened)}",
            "events": f"{window.received:,} received, {window.distinct:,} distinct", "closed by": window.trigger,
        }}
        for window in (recording.windows if "windows" in bases else ())
    ]  # fmt: skip
    margin, start, end = 0.02 * axis.length, axis.start, axis.start + axis.length
    return filled(
        Path(__file__).with_name("marble.json"),
        width=WIDTH,
        height=height,
        values=values,
        windows=windows,
        base=bases.get("windows"),
        zoom=f"zoom{index}",
        marks=f"marks{index}",
        span=[1000 * (start - margin), 1000 * (end + margin)],
        heights=[0, height],
        bases=list(bases.values()),
        lanes=labels({y: lane for lane, y in bases.items()}),
    )
