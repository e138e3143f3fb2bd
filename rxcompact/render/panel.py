"""The picture of a snapshot: headline numbers, rates of the last minute, ages against their limit, outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rxcompact.render.paper import WIDTH, document, element
from rxcompact.render.words import duration

MARGIN = 20.0
HALF = 440.0
"""Width of each of two charts."""
BAR = 72.0
LOW = 28.0
"""Heights of bars."""
MINUTE = 60.0
BIG = "font-size:21px;font-weight:600"
HOLDERS = ("compact", "enrich", "publish")
OUTCOMES = ("published", "expired", "rejected", "dropped", "abandoned", "in_flight")


def panel(now: Any, title: str, ages: str) -> str:
    """Return a picture of a snapshot."""
    parts = [
        element("text", title, x=MARGIN, y=27, kind="title"),
        element("text", _held(now), x=WIDTH - MARGIN, y=27, kind="quiet end"),
        *_tiles(_headlines(now), 44),
        *_rates(now, MARGIN, 128),
        *_ages(now, WIDTH - MARGIN - HALF, 128, ages),
        *_outcomes(now, 258),
    ]
    errors = [f"{name}: {stage.error}" for name, stage in now.stages.items() if stage.error]
    if now.failures:
        errors.append(f"source failed {now.failures:,} times: {now.failure}")
    if errors:
        parts.append(element("text", f"last errors: {' · '.join(errors)}", x=MARGIN, y=322, kind="quiet"))
    return document(parts, 334 if errors else 312, title)


def _held(now: Any) -> str:
    return " · ".join(f"{name} {now.stages[name].held:,}" for name in HOLDERS if name in now.stages)


def _headlines(now: Any) -> list[tuple[str, str, str]]:
    account, ratio = now.account, now.dedup_ratio
    over = ", on average" if now.state in ("stopped", "failed") else ""
    return [
        (f"{now.rate.received:,.0f}/s", f"in{over}", f"{account.received:,} received"),
        (f"{now.rate.published:,.0f}/s", f"out{over}", f"{account.published:,} published"),
        ("-" if ratio is None else f"{ratio:,.1f} : 1", "dedup", f"{account.distinct:,} distinct"),
        (f"{account.in_flight:,}", "in flight", f"of {now.max_in_flight:,}"),
        (f"{now.waiting:,}", "retries waiting", f"{now.retries:,} in all"),
        ("-" if now.oldest is None else duration(now.oldest), "oldest", f"max_age {duration(now.max_age)}"),
    ]


def _tiles(tiles: Sequence[tuple[str, str, str]], y: float) -> Iterable[str]:
    width = (WIDTH - 2 * MARGIN) / len(tiles)
    for index, (number, name, note) in enumerate(tiles):
        x = MARGIN + index * width
        yield element("text", name, x=x, y=y + 12, kind="quiet")
        yield element("text", number, x=x, y=y + 36, style=BIG)
        yield element("text", note, x=x, y=y + 53, kind="quiet")


def _rates(now: Any, x: float, y: float) -> Iterable[str]:
    """Draw what came and what went, each by a scale of its own: it is the point that they differ."""
    end = now.rates[-1].end if now.rates else now.uptime
    for top, name, kind in ((y, "received", "bar"), (y + 52, "published", "published")):
        base = top + 12 + LOW
        rates = [(rate.start, rate.end, getattr(rate, name)) for rate in now.rates if rate.end > end - MINUTE]
        most = max((amount for *_, amount in rates), default=0.0)
        yield element("text", f"{name}, at most {most:,.0f}/s in the last minute", x=x, y=top + 5, kind="quiet")
        yield element("line", x1=x, x2=x + HALF, y1=base, y2=base, kind="lane")
        for start, stop, amount in rates:
            left = HALF * max(0.0, 1 - (end - start) / MINUTE)
            right = HALF * (1 - (end - stop) / MINUTE)
            if amount > 0:
                tall = max(1.0, LOW * amount / most)
                width = max(0.8, right - left - 0.8)
                yield element("rect", x=x + left, y=base - tall, width=width, height=tall, kind=kind)


def _ages(now: Any, x: float, y: float, ages: str) -> Iterable[str]:
    """Draw how old events were when published; beyond the limit, what expired."""
    bounds, counts = list(now.histogram), list(now.histogram.values())
    late = counts[-1] + now.account.expired
    base, most = y + 14 + BAR, max(*counts[:-1], late) or 1
    width = HALF / (len(counts) + 1)
    limit = x + width * (len(counts) - 1) + width / 2
    yield element("text", f"age when published: {ages}", x=x, y=y + 5, kind="quiet")
    yield element("line", x1=x, x2=x + HALF, y1=base, y2=base, kind="lane")
    yield element("line", x1=limit, x2=limit, y1=y + 14, y2=base, kind="state")
    for index, amount in enumerate([*counts[:-1], late]):
        beyond = index == len(counts) - 1
        if amount:
            tall = max(1.5, (BAR - 4) * amount / most)
            left = x + index * width + (width if beyond else 0)
            kind = "expired" if beyond else "bar"
            yield element("rect", x=left, y=base - tall, width=width - 1.5, height=tall, kind=kind)
    for index in range(1, len(bounds) - 1, 6):
        middle = x + (index + 1) * width
        yield element("text", duration(bounds[index]), x=middle, y=base + 13, kind="small middle")
    yield element("text", f"max_age {duration(now.max_age)}", x=x + HALF, y=base + 13, kind="small end")


def _outcomes(now: Any, y: float) -> Iterable[str]:
    account = now.account
    counts = {name: getattr(account, name) for name in OUTCOMES}
    whole, x = account.distinct or 1, MARGIN
    for index, (name, count) in enumerate(counts.items()):
        kind = "faded" if name == "in_flight" else name
        if count:
            width = (WIDTH - 2 * MARGIN) * count / whole
            yield element("rect", x=x, y=y, width=width, height=12, kind=kind)
            x += width
        left = MARGIN + index * 152
        yield element("rect", x=left, y=y + 23, width=10, height=10, rx=2, kind=kind)
        yield element("text", f"{name.replace('_', ' ')} {count:,}", x=left + 15, y=y + 32)
