"""A snapshot of a run: a few lines of text, and a picture with the last dead letters below it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import inf, isfinite
from typing import Any

from rxcompact.format import OUTCOMES, duration, error_name, restarts, short
from rxcompact.render.svg import WIDTH, document, element, image
from rxcompact.render.tables import table

UNKNOWN = "\N{EN DASH}"
LAST = 5  # dead letters that are listed
BINS = 24  # bars of ages, each √2 times as old as the one before; the last ends at ``max_age``
LONGEST = 3600.0  # where they end if there is no ``max_age``, seconds
BLOCKS = " ▁▂▃▄▅▆▇█"
LETTER_COLUMNS = ("outcome", "stage", "key", "reason", "error", "attempts", "age")

MARGIN = 20.0
HALF = 440.0  # width of each of two charts
BAR = 72.0
LOW = 28.0  # heights of bars
MINUTE = 60.0
CAUSES = 12  # of dead letters that a page lists


def snapshot_title(now: Any) -> str:
    """Return the state, and for how long it has run."""
    return f"{now.state}, {duration(now.uptime)}{restarts(now.restarts)}"


def snapshot_lines(now: Any) -> list[tuple[str, str]]:
    """Return the lines of a snapshot, each with its name."""
    account = now.account
    held = ", ".join(f"{name} {stage.held:,}" for name, stage in now.stages.items() if stage.held)
    oldest = f"; oldest {duration(now.oldest)}" if now.oldest is not None else ""
    size = f"; {now.bytes_held:,} of {now.max_bytes:,} bytes" if now.bytes_held else ""
    ends = [f"{name} {getattr(account, name):,}" for name in OUTCOMES if name == "published" or getattr(account, name)]
    ratio = UNKNOWN if now.dedup_ratio is None else f"{now.dedup_ratio:,.1f} events for each distinct one"
    lines = [
        ("in", f"{_rate(now, 'received')}; {account.received:,} received, {account.rejected:,} rejected"),
        ("dedup", ratio),
        ("out", f"{_rate(now, 'published')}; {', '.join(ends)}"),
        ("in flight", f"{account.in_flight:,} of {now.max_in_flight:,}{': ' if held else ''}{held}{oldest}{size}"),
        ("retries", f"{now.waiting:,} waiting, {now.retried:,} in all"),
        ("age", f"{_ages(now)}; max_age {duration(now.max_age)}"),
        ("ages", _blocks(_age_bins(now))),
    ]
    if down := _down(now):
        lines.append(("down", ", ".join(down)))
    if errors := _errors(now):
        lines.append(("last errors", ", ".join(errors)))
    return lines


def snapshot_text(now: Any) -> str:
    """Return a snapshot as text."""
    lines = [snapshot_title(now)]
    lines += [f"  {name:<11}  {text}" for name, text in snapshot_lines(now)]
    lines += [f"  {'✗':>11}  {' · '.join(row)}" for row in letter_rows(now)]
    return "\n".join(lines)


def letter_rows(now: Any) -> list[tuple[str, ...]]:
    """Return the last dead letters as rows of text, of `LETTER_COLUMNS`."""
    return [
        (
            *(each.outcome, each.stage, each.key or UNKNOWN, each.reason, each.error or UNKNOWN),
            *(f"{each.attempts:,}", UNKNOWN if each.age is None else duration(each.age)),
        )
        for each in now.letters[:LAST]
    ]


def _rate(now: Any, name: str) -> str:
    return UNKNOWN if now.rate is None else f"{getattr(now.rate, name):,.0f}/s"


def _ages(now: Any) -> str:
    ages = now.ages.get("published")
    if not ages:
        return UNKNOWN
    percentiles = [f"p{percent} {duration(ages.percentile(percent))}" for percent in (50, 90, 99)]
    return ", ".join([*percentiles, f"most {duration(ages.most)}"])


def _down(now: Any) -> list[str]:
    return [f"{name} {target}".rstrip() for name, stage in now.stages.items() for target in stage.failing]


def _errors(now: Any) -> list[str]:
    last = {name: error_name(stage.error) for name, stage in now.stages.items() if name != "source"}
    errors = [f"{name}: {error}" for name, error in last.items() if error]
    return errors + ([f"source failed {now.source_failures:,} times: {now.failure}"] if now.source_failures else [])


def _problems(now: Any) -> list[str]:
    """Return what is down, and the last errors: the line at the foot of a picture."""
    return [*(f"{name} is down" for name in _down(now)), *_errors(now)]


def _age_bins(now: Any) -> list[tuple[float, int]]:
    """Return how many events were published up to each age that none before has; the last is beyond ``max_age``."""
    limit = now.max_age if isfinite(now.max_age) else LONGEST
    bounds = [*(limit * 2 ** ((index - BINS + 1) / 2) for index in range(BINS)), inf]
    ages = now.ages.get("published")
    totals = [(0.0, 0), *(ages.cumulative(bounds) if ages else [(bound, 0) for bound in bounds])]
    return [(bound, total - before) for (_, before), (bound, total) in pairwise(totals)]


def _blocks(bins: list[tuple[float, int]]) -> str:
    """Return bars one line high after the first bound; before the last, which is beyond the limit, a line."""
    most = max(count for _, count in bins) or 1
    bars = "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // most)] for _, count in bins)
    return f"{duration(bins[0][0])} ┤{bars[:-1]}│{bars[-1]}"


def snapshot_html(now: Any) -> str:
    """Return a snapshot as HTML; a notebook that is not trusted shows it too."""
    alternative = "; ".join([snapshot_title(now), *(f"{name} {text}" for name, text in snapshot_lines(now)[:6])])
    letters = table(LETTER_COLUMNS, letter_rows(now), title="Dead letters", note="the latest first")
    return f"{image(snapshot_svg(now), alternative)}{letters if now.letters else ''}"


def snapshot_svg(now: Any) -> str:
    """Return a picture: headline numbers, rates of the last minute, ages against their limit, outcomes."""
    title, errors = snapshot_title(now), _problems(now)
    held = " · ".join(
        f"{name} {stage.held:,}" for name, stage in now.stages.items() if name not in ("source", "decode")
    )
    parts = [
        element("text", title, x=MARGIN, y=27, kind="title"),
        element("text", held, x=WIDTH - MARGIN, y=27, kind="quiet end"),
        *_headlines(now, 44),
        *_rate_bars(now, "received", "bar", 128),
        *_rate_bars(now, "published", "published", 180),
        *_age_bars(now, WIDTH - MARGIN - HALF, 128),
        *_outcome_bar(now, 258),
    ]
    if errors:
        parts.append(element("text", f"last errors: {' · '.join(errors)}", x=MARGIN, y=322, kind="quiet"))
    return document(parts, 334 if errors else 312, title)


def _tiles(now: Any) -> list[tuple[str, str, str]]:
    """Return the headline numbers, their names, and a note to each."""
    account, ratio = now.account, now.dedup_ratio
    over = ", on average" if now.state in ("stopped", "failed") else ""
    return [
        (_rate(now, "received"), f"in{over}", f"{account.received:,} received"),
        (_rate(now, "published"), f"out{over}", f"{account.published:,} published"),
        (UNKNOWN if ratio is None else f"{ratio:,.1f} : 1", "dedup", f"{account.distinct:,} distinct"),
        (f"{account.in_flight:,}", "in flight", f"of {now.max_in_flight:,}"),
        (f"{now.waiting:,}", "retries waiting", f"{now.retried:,} in all"),
        (UNKNOWN if now.oldest is None else duration(now.oldest), "oldest", f"max_age {duration(now.max_age)}"),
    ]


def _headlines(now: Any, y: float) -> Iterator[str]:
    tiles = _tiles(now)
    for index, (number, name, note) in enumerate(tiles):
        x = MARGIN + index * (WIDTH - 2 * MARGIN) / len(tiles)
        yield element("text", name, x=x, y=y + 12, kind="quiet")
        yield element("text", number, x=x, y=y + 36, kind="number")
        yield element("text", note, x=x, y=y + 53, kind="quiet")


def snapshot_numbers(now: Any) -> dict[str, Any]:
    """Return what a page draws of a snapshot: numbers, and short texts."""
    keys = {(each.outcome, each.stage, each.reason): dict[str, None]() for each in now.letters}
    for each in now.letters:
        keys[each.outcome, each.stage, each.reason][each.key or each.error or UNKNOWN] = None
    stages = [
        [name, f"{name} {stage.held:,}", error_name(stage.error), f"{stage.waiting:,} waiting",
         UNKNOWN if stage.oldest is None else duration(stage.oldest), stage.dead_letters]
        for name, stage in now.stages.items()
    ]  # fmt: skip
    return {
        "title": snapshot_title(now),
        "tiles": _tiles(now),
        "stages": stages,
        "rates": [[each.start, each.end, each.received, each.published] for each in now.rates],
        "ages": [[duration(bound), count] for bound, count in _age_bins(now)],
        "age": _ages(now),
        "max_age": duration(now.max_age),
        "outcomes": [[name, getattr(now.account, name)] for name in (*OUTCOMES, "in_flight")],
        "causes": [
            [*cause, count, list(keys.get((cause[0], cause[1], short(cause[2], 40)), ()))]
            for cause, count in now.dead_letters.most_common(CAUSES)
        ],
        "errors": _problems(now),
    }


def _rate_bars(now: Any, name: str, kind: str, y: float) -> Iterator[str]:
    """Draw what came in, or what went out, each by its own scale: they differ on purpose."""
    end, base = now.rates[-1].end if now.rates else now.uptime, y + 12 + LOW
    rates = [(rate.start, rate.end, getattr(rate, name)) for rate in now.rates if rate.end > end - MINUTE]
    most = max((amount for *_, amount in rates), default=0.0)
    yield element("text", f"{name}, at most {most:,.0f}/s in the last minute", x=MARGIN, y=y + 5, kind="quiet")
    yield element("line", x1=MARGIN, x2=MARGIN + HALF, y1=base, y2=base, kind="lane")
    for start, stop, amount in rates:
        if amount > 0:
            left, right = (HALF * max(0.0, 1 - (end - at) / MINUTE) for at in (start, stop))
            tall, width = max(1.0, LOW * amount / most), max(0.8, right - left - 0.8)
            yield element("rect", x=MARGIN + left, y=base - tall, width=width, height=tall, kind=kind)


def _age_bars(now: Any, x: float, y: float) -> Iterator[str]:
    """Draw how old events were when published; beyond the limit, what expired."""
    bounds, counts = zip(*_age_bins(now), strict=True)
    counts = (*counts[:-1], counts[-1] + now.account.expired)
    base, most, width = y + 14 + BAR, max(counts) or 1, HALF / (len(counts) + 1)
    limit = x + width * (len(counts) - 0.5)
    yield element("text", f"age when published: {_ages(now)}", x=x, y=y + 5, kind="quiet")
    yield element("line", x1=x, x2=x + HALF, y1=base, y2=base, kind="lane")
    yield element("line", x1=limit, x2=limit, y1=y + 14, y2=base, kind="state")
    for index, amount in enumerate(counts):
        if amount:
            tall, beyond = max(1.5, (BAR - 4) * amount / most), index == len(counts) - 1
            left, kind = x + (index + beyond) * width, "expired" if beyond else "bar"
            yield element("rect", x=left, y=base - tall, width=width - 1.5, height=tall, kind=kind)
    for index in range(1, len(bounds) - 1, 6):
        yield element("text", duration(bounds[index]), x=x + (index + 1) * width, y=base + 13, kind="small middle")
    yield element("text", f"max_age {duration(now.max_age)}", x=x + HALF, y=base + 13, kind="small end")


def _outcome_bar(now: Any, y: float) -> Iterator[str]:
    x = MARGIN
    for index, name in enumerate((*OUTCOMES, "in_flight")):
        kind, count = "faded" if name == "in_flight" else name, getattr(now.account, name)
        if count:
            width = (WIDTH - 2 * MARGIN) * count / now.account.distinct
            yield element("rect", x=x, y=y, width=width, height=12, kind=kind)
            x += width
        left = MARGIN + index * 152
        yield element("rect", x=left, y=y + 23, width=10, height=10, rx=2, kind=kind)
        yield element("text", f"{name.replace('_', ' ')} {count:,}", x=left + 15, y=y + 32)
