"""The picture of a tuning: compaction against latency, and what is lost, with sliders over the rows that were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import log10
from pathlib import Path
from typing import Any

from rxcompact.format import duration
from rxcompact.render.chart import Chart, filled, labels
from rxcompact.render.marble import ROUND
from rxcompact.render.svg import COLOURS, document, element

TICKS = (*(unit * step for unit in (0.001, 0.01, 0.1) for step in (1, 2, 5)), *ROUND)  # round numbers of seconds
LEFT, RIGHT, TOP, BOTTOM = 90, 760, 60, 300  # of the picture without scripts
FIELDS = {"window": "timespan", "kind": "windows", "age": "max_age", "calls": "max_concurrent"}
"""Choices that have a slider, and the fields of a row."""
PARTS = {"window": "window", "kind": "windows", "age": "max age", "calls": "calls at once", "outage": "outage"}
PARTS["latency"] = "latency up to"


def picture(rows: Sequence[Any], text: str) -> Chart:
    """Return what `Tuning.plot` shows."""
    shown = [row for row in rows if row.p99 is not None]
    ends = [at for row in shown for at in (max(row.p50, 0.001), max(row.p99, 0.001))] or [1.0]
    span = min(ends) / 1.3, max(ends) * 1.3
    ticks = {tick: duration(tick) for tick in TICKS if span[0] <= tick <= span[1]}
    lengths = [0.0, *rows[0].in_outage]
    choices = {name: sorted({getattr(row, field) for row in rows}) for name, field in FIELDS.items()}
    choices["kind"] = list(dict.fromkeys(row.windows for row in rows))
    words = {name: [f"{each:,}" if name == "calls" else each for each in found] for name, found in choices.items()}
    words |= {name: list(map(duration, choices[name])) for name in ("window", "age")}
    words |= {"outage": ["none", *map(duration, lengths[1:])], "latency": list(ticks.values())}
    sentence = " + ', ' + ".join(f"'{PARTS[name]} ' + {found}[{name}]" for name, found in words.items())
    values = [
        {name: choices[name].index(getattr(row, field)) for name, field in FIELDS.items()}
        | {"outage": index, "key": row.key, "timespan": duration(row.timespan), "p50": row.p50, "p99": row.p99}
        | {"ratio": row.ratio, "distinct": row.distinct, "lost": row.in_outage[length] if length else row.expired}
        | {"least": row.expired, "pipeline": row.pipeline}
        for row in rows
        for index, length in enumerate(lengths)
    ]
    keys = list(dict.fromkeys(row.key for row in rows))
    spec = filled(
        Path(__file__).with_name("tuning.json"),
        values=values,
        sliders=[_slider(name, found, last=name == "latency") for name, found in words.items()],
        sentence=sentence,
        windows=words["window"],
        span=span,
        ticks=list(ticks),
        labels=labels(ticks),
        colours={"domain": keys, "range": [colour for colour, _ in zip(cycle(COLOURS), keys)]},
        fits=f"datum.p99 <= {list(ticks)}[latency] && datum.least == 0 && datum.lost == 0",
        # of fewer than five some versions label fractions, as whole numbers
        lost=[0, max([5, *(value["lost"] for value in values)])],
    )
    return Chart(spec, _svg(shown, ticks, span), text)


def _slider(name: str, words: Sequence[str], *, last: bool) -> dict[str, Any]:
    parameter = {"name": name, "value": max(0, len(words) - 1) if last else 0}
    if len(words) < 2:  # noqa: PLR2004 - nothing to choose
        return parameter
    bind = {"input": "range", "min": 0, "max": len(words) - 1, "step": 1}
    return parameter | {"bind": bind | {"name": f"{name} ({words[0]} to {words[-1]}) "}}


def _svg(rows: Sequence[Any], ticks: Mapping[float, str], span: tuple[float, float]) -> str:
    """Return the frontier of the longest age and the most calls at once, for where no script runs."""
    low, high = map(log10, span)

    def x(at: float) -> float:
        return LEFT + (RIGHT - LEFT) * (log10(max(at, 0.001)) - low) / (high - low)

    def y(share: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * share / 1.05

    title = "Duplicates removed against latency (median to 99th percentile), by window"
    parts = [element("text", title, x=16, y=26, kind="title")]
    for percent in range(0, 101, 20):
        height = y(percent / 100)
        parts.append(element("line", x1=LEFT, x2=RIGHT, y1=height, y2=height, kind="grid"))
        parts.append(element("text", f"{percent}%", x=LEFT - 8, y=height + 4, kind="quiet end"))
    for tick, word in ticks.items():
        parts.append(element("text", word, x=x(tick), y=BOTTOM + 18, kind="quiet middle"))
    keys = list(dict.fromkeys(row.key for row in rows))
    for index, key in enumerate(keys):
        own = [row for row in rows if row.key == key]
        # "tumbling" is the last of the kinds
        choice = max((row.windows, row.max_age, row.max_concurrent) for row in own)
        line = [row for row in own if (row.windows, row.max_age, row.max_concurrent) == choice]
        colour = COLOURS[index % len(COLOURS)]
        for row in line:
            height, bar = y(row.ratio), {"stroke": colour, "stroke-width": "4", "opacity": "0.35"}
            parts.append(element("line", x1=x(row.p50), x2=x(row.p99), y1=height, y2=height, **bar))
            parts.append(element("circle", cx=x(row.p99), cy=height, r=5, fill=colour))
            if not index:
                parts.append(element("text", duration(row.timespan), x=x(row.p99) + 9, y=height + 4, kind="small"))
        parts.append(element("circle", cx=RIGHT + 24, cy=TOP + 20 * index, r=5, fill=colour))
        parts.append(element("text", key, x=RIGHT + 34, y=TOP + 4 + 20 * index))
    return document(parts, max(BOTTOM + 32, TOP + 20 * len(keys)), title)
