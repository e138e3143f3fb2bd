"""A recording as a Vega-Lite specification: hover a circle and follow its key through every lane, zoom in time."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rxcompact.format import OUTCOMES, duration, instant, short
from rxcompact.render.chart import SCHEMA, labels
from rxcompact.render.marble import Axis, axes, symbols, within
from rxcompact.render.marble_svg import COLOURS, rows_of
from rxcompact.render.svg import OUTCOME_COLOURS, QUIET, RETRY

if TYPE_CHECKING:
    from rxcompact.observers.recorder import Recording, WindowMark

MOST = 1500  # distinct events that are drawn, the latest: each has up to four marks
KEYS = 20  # of a retried batch, each with a mark
WIDTH, ROW, ROWS, RADIUS = 680, 18, 6, 8.0
SIZES = {"windows": 36, "retries": 90}


class _Mark(NamedTuple):
    """A point of a lane."""

    lane: str
    at: float
    key: Hashable
    trail: int
    """How many windows with its key closed before: what belongs together has the same number."""
    look: dict[str, str]
    about: dict[str, str]


def marble_spec(recording: Recording) -> dict[str, Any]:
    """Return the specification of a picture of the latest events: their arrivals, windows, retries and outcomes.

    A time is the true one: of the first event of a key in its window, of the last, of each failed call, of the outcome.
    """
    upper, lower = axes(recording)
    marks = list(_marks(recording))
    if len(recording.events) > MOST or not recording.are_all("distinct", recording.events):
        # only the last of the time is drawn
        upper = upper._replace(start=min(mark.at for mark in marks if mark.lane == "events"))
        lower = upper if lower.end == upper.end else lower
    losses = [name for name in (*OUTCOMES, "rejected") if any(mark.lane == name for mark in marks)]
    first, then = ["events", "windows"], ["retries"] * bool(recording.retries) + losses
    parts = [(upper, [*first, *then])] if upper == lower else [(upper, first), (lower, then)]
    views = [_view(recording, axis, lanes, marks, index) for index, (axis, lanes) in enumerate(parts) if lanes]
    hover = {"type": "point", "fields": ["key"], "on": "symbol:mouseover", "clear": "symbol:mouseout"}
    spec: dict[str, Any] = {
        "$schema": SCHEMA,
        "description": f"Marble diagram: {recording.summary}.",
        "title": {"text": _title(recording), "anchor": "start"},
        "params": [{"name": "key", "select": hover, "views": [f"marks{index}" for index in range(len(views))]}],
    }
    return spec | {"vconcat": views}


def _title(recording: Recording) -> str:
    names = ["received", "distinct"] + ["published"] * bool(recording.outcomes or recording.states)
    title = " → ".join(f"{recording.totals.get(name, 0):,} {name}" for name in names)
    total = recording.totals.get("distinct", 0)
    return title if total <= MOST else f"{title}; the last {min(MOST, len(recording.events)):,} distinct events"


def _marks(recording: Recording) -> Iterator[_Mark]:
    """Yield what is drawn: of the latest events, and nothing that was before them."""
    letters = symbols(recording)
    colours = {key: COLOURS[index % len(COLOURS)] for index, key in enumerate(letters)}
    events = recording.events[-MOST:]
    since = events[0].window.at if len(events) < len(recording.events) else 0.0
    closed: defaultdict[Hashable, list[float]] = defaultdict(list)
    for event in events:
        key, window, count = event.key, event.window, event.count or 1
        look, trail = {"fill": colours.get(key, COLOURS[-1]), "letter": letters.get(key, "")}, len(closed[key])
        closed[key].append(window.at)
        yield _Mark("events", within(window, event.first_seen), key, trail, look, {"event": f"the first of {count:,}"})
        if count > 1:
            faded = {"fill": f"{look['fill']}60", "letter": f"×{count - 1}" if count > 2 else ""}  # noqa: PLR2004, RUF001
            last = {"event": f"the last of {count:,}"}
            yield _Mark("events", within(window, event.last_seen), key, trail, faded, last)
        length = duration(window.closed - window.opened)
        merged = {"count": f"{count:,}", "window": f"{length}, closed by {window.trigger}"}
        yield _Mark("windows", window.closed, key, trail, look | {"letter": ""}, merged)

    def trail_of(key: Hashable, at: float) -> int:
        return max(0, bisect_right(closed[key], at) - 1)

    cross = {"fill": "transparent", "stroke": RETRY, "shape": "cross"}
    for retry in (each for each in recording.retries[-MOST:] if each.at >= since):
        failed = {"failed": f"{retry.stage}, attempt {retry.attempt}", "error": retry.error}
        failed["retried"] = f"after {duration(retry.wait)}"
        for key in retry.keys[:KEYS] or (None,):
            yield _Mark("retries", retry.at, key, trail_of(key, retry.at), cross, failed)
    for outcome in (each for each in recording.outcomes[-MOST:] if each.at >= since):
        key, name = outcome.key, outcome.outcome
        look = {"fill": colours.get(key, COLOURS[-1]), "letter": letters.get(key, "")}
        if name != "published":
            look = {"fill": "transparent", "stroke": OUTCOME_COLOURS[name][1]}
        about = {"outcome": name, "attempts": f"{outcome.attempts:,}", "reason": outcome.reason}
        about["age"] = "" if outcome.age is None else duration(outcome.age)
        yield _Mark(name, outcome.at, key, trail_of(key, outcome.at), look, about)


def _view(recording: Recording, axis: Axis, lanes: Sequence[str], marks: Sequence[_Mark], index: int) -> dict[str, Any]:
    """Return a layer of windows, one of trails, one of marks, one of letters."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(mark.key for mark in marks))} | {None: None}
    points, bases, height = list[dict[str, Any]](), dict[str, float](), 4.0
    for lane in lanes:
        own = sorted((mark for mark in marks if mark.lane == lane), key=lambda mark: mark.at)
        radius = RADIUS / (2 if lane == "windows" else 1)
        places = [axis.share(mark.at) * WIDTH for mark in own]
        free = rows_of(((x - radius, x + radius) for x in places), ROWS)
        rows = [row if row < ROWS else number % ROWS for number, row in enumerate(free)]
        height += (max(rows, default=0) + 1) * ROW + 6
        bases[lane] = height - ROW / 2
        for mark, row in zip(own, rows, strict=True):
            points.append(_row(mark) | {"y": bases[lane] - row * ROW, "key": numbers[mark.key], "order": len(points)})
    windows = [_window_row(window) for window in recording.windows[-MOST:]] if "windows" in bases else []
    lane_of = labels({base: lane for lane, base in bases.items()})
    lane_axis = {"values": list(bases.values()), "labelExpr": lane_of, "domain": False, "ticks": False, "title": None}
    clock = "replace(utcFormat(datum.value, '%H:%M:%S.%L'), '.000', '')"
    time_axis = {"labelExpr": clock, "tickCount": 8, "labelOverlap": True}
    margin = 0.02 * axis.length
    ends = [1000 * (axis.start - margin), 1000 * (axis.start + axis.length + margin)]
    # scales of one layer are those of all
    y: dict[str, Any] = {"field": "y", "type": "quantitative", "axis": lane_axis | {"labelFontSize": 12}}
    y_scale = {"domain": [0, height], "reverse": True, "zero": False, "nice": False}
    x: dict[str, Any] = {"field": "at", "type": "temporal", "title": None, "axis": time_axis}
    x_scale = {"type": "utc", "domain": ends, "nice": False}
    tooltip, dimmed = {"field": "about"}, {"condition": {"param": "key", "value": 1}, "value": 0.1}
    shown = {"condition": {"param": "key", "empty": False, "value": 0.9}, "value": 0}
    looks = {name: {"field": name, "type": "nominal", "scale": None} for name in ("fill", "stroke", "shape")}
    looks["size"] = {"field": "size", "type": "quantitative", "scale": None}
    zoom = {"name": f"zoom{index}", "select": {"type": "interval", "encodings": ["x"]}, "bind": "scales"}
    spans = {
        "x": x | {"field": "from"},
        "x2": {"field": "to"},
        "y": {"value": 0},
        "y2": {"value": bases.get("windows")},
    }
    layers: list[dict[str, Any]] = [
        # an interval of the first layer alone zooms them all
        {
            "params": [zoom],
            "data": {"values": windows},
            "encoding": spans | {"tooltip": tooltip},
            "mark": {"type": "rect", "color": "#0969da", "opacity": 0.12, "stroke": "#0969da", "clip": True},
        },
        {
            "mark": {"type": "line", "strokeWidth": 1.5, "color": QUIET, "clip": True},
            "transform": [{"filter": "datum.key != null"}],
            "encoding": {"x": x | {"scale": x_scale}, "y": y | {"scale": y_scale}, "opacity": shown}
            | {"detail": [{"field": "trail"}, {"field": "key"}], "order": {"field": "order"}},
        },
        {
            "name": f"marks{index}",
            "mark": {"type": "point", "clip": True, "strokeWidth": 2},
            "encoding": {"x": x, "y": y, "opacity": dimmed, "tooltip": tooltip} | looks,
        },
        {
            "mark": {"type": "text", "color": "#ffffff", "fontSize": 9, "fontWeight": 600, "clip": True},
            "encoding": {"x": x, "y": y, "opacity": dimmed, "text": {"field": "letter"}},
        },
    ]
    return {"width": WIDTH, "height": height, "data": {"values": points}, "layer": layers}


def _window_row(window: WindowMark) -> dict[str, Any]:
    about = {
        "window": f"{instant(window.opened)} UTC, {duration(window.closed - window.opened)}",
        "events": f"{window.received:,} received, {window.distinct:,} distinct",
    }
    ends = {"from": 1000 * window.opened, "to": 1000 * window.closed}
    return ends | {"about": about | {"closed by": window.trigger}}


def _row(mark: _Mark) -> dict[str, Any]:
    about = {} if mark.key is None else {"key": short(mark.key, 60)}
    about |= {"time": f"{instant(mark.at)} UTC"} | {name: text for name, text in mark.about.items() if text}
    plain = {"stroke": "transparent", "shape": "circle", "letter": ""}
    more = {"at": 1000 * mark.at, "trail": mark.trail, "size": SIZES.get(mark.lane, 230), "about": about}
    return plain | mark.look | more
