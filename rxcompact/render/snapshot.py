"""A snapshot of a run: a few lines of text, and a picture with the last dead letters below it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from math import inf, isfinite, log2
from typing import Any

from rxcompact.format import OUTCOMES, counted, duration, error_name, service_name, short
from rxcompact.render.svg import WIDTH, bars, document, element, image
from rxcompact.render.tables import table

UNKNOWN = "\N{EN DASH}"
LAST = 5  # dead letters that are listed
BINS = 24  # bars of ages, each √2 times as old as the one before; the last ends at ``max_age``
LONGEST = 3600.0  # where they end if there is no ``max_age``, seconds
LETTER_COLUMNS = ("outcome", "stage", "key", "reason", "error", "attempts", "age")

MARGIN = 20.0
HALF = 440.0  # width of each of two charts
BAR, LOW = 68.0, 28.0  # heights of bars
BASE = 214.0  # of the bars of ages
TICKS = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 21600)  # ages that are labelled
MINUTE = 60.0
CAUSES = 12  # of dead letters that a page lists


def snapshot_text(now: Any) -> str:
    """Return a snapshot as text."""
    view = snapshot_numbers(now)
    lines = [(name, f"{number}, {note}") for number, name, note in view["tiles"]]
    lines.append(("age", view["age"]))
    lines.append(("held", " · ".join(label for label, _ in view["stages"])))
    outcomes = [*view["outcomes"], ("rejected", now.account.rejected)]
    lines.append(("outcomes", " · ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in outcomes if count)))
    lines.append(("last errors", view["errors"]))
    lines += [("✗", " · ".join(row)) for row in _letters(now)]
    return "\n".join([view["title"], *(f"  {name:<15}  {text}" for name, text in lines if text)])


def snapshot_html(now: Any) -> str:
    """Return a snapshot as HTML; a notebook that is not trusted shows it too."""
    view = snapshot_numbers(now)
    alternative = "; ".join([view["title"], *(f"{name} {number}, {note}" for number, name, note in view["tiles"])])
    letters = table(LETTER_COLUMNS, _letters(now), title="Dead letters", note="the latest first")
    return f"{image(snapshot_svg(now), alternative)}{letters if now.letters else ''}"


def _letters(now: Any) -> list[tuple[str, ...]]:
    """Return the last dead letters as rows of text, of `LETTER_COLUMNS`."""
    return [
        (
            *(each.outcome, each.stage, each.key or UNKNOWN, each.reason, each.error or UNKNOWN),
            *(f"{each.attempts:,}", UNKNOWN if each.age is None else duration(each.age)),
        )
        for each in now.letters[:LAST]
    ]


def snapshot_numbers(now: Any) -> dict[str, Any]:
    """Return what is drawn of a snapshot, here and in the page of a dashboard: numbers, and short texts."""
    keys = defaultdict[tuple[str, str, str], dict[str, None]](dict)
    for each in now.letters:
        keys[each.outcome, each.stage, each.reason][each.key or each.error or UNKNOWN] = None
    stages = {name: stage for name, stage in now.stages.items() if name not in ("source", "decode")}
    held = [[f"{name} {stage.held:,}{' ⚠' * bool(stage.error)}", _stage(name, stage)] for name, stage in stages.items()]
    if now.bytes_held:
        held.append([f"{now.bytes_held:,} of {now.max_bytes:,} bytes", "bytes of JSON that are held, of those allowed"])
    again = f", {counted(now.restarts, 'restart')}" if now.restarts else ""
    limit, bins, ages = _limit(now), _age_bins(now), now.ages.get("published")
    percentiles = [f"p{percent} {duration(ages.percentile(percent))}" for percent in (50, 90, 99)] if ages else []
    return {
        "title": f"{now.state}, {duration(now.uptime)}" + again,
        "tiles": _tiles(now),
        "stages": held,
        "rates": [[each.start, each.end, each.received, each.published] for each in now.rates],
        "ages": [[duration(bound), count] for bound, count in bins[:-1]],
        "too_old": bins[-1][1] + now.account.expired,
        "age_ticks": [[duration(age), BINS + 2 * log2(age / limit)] for age in TICKS if limit / 2100 < age < limit / 4],
        "age": ", ".join([*percentiles, f"most {duration(ages.most)}"]) if ages else UNKNOWN,
        "max_age": duration(now.max_age),
        "outcomes": [[name, getattr(now.account, name)] for name in (*OUTCOMES, "in_flight")],
        "causes": [
            [*cause, count, list(keys[cause[0], cause[1], short(cause[2], 40)])]
            for cause, count in now.dead_letters.most_common(CAUSES)
        ],
        "errors": _problems(now),
    }


def _tiles(now: Any) -> list[tuple[str, str, str]]:
    """Return the headline numbers, their names, and a note to each."""
    account, ratio, rate = now.account, now.dedup_ratio, now.rate
    over = ", on average" if now.state in ("stopped", "failed") else ""
    return [
        (UNKNOWN if rate is None else f"{rate.received:,.0f}/s", f"in{over}", f"{account.received:,} received"),
        (UNKNOWN if rate is None else f"{rate.published:,.0f}/s", f"out{over}", f"{account.published:,} published"),
        (UNKNOWN if ratio is None else f"{ratio:,.1f} : 1", "dedup", f"{account.distinct:,} distinct"),
        (f"{account.in_flight:,}", "in flight", f"of {now.max_in_flight:,}"),
        (f"{now.waiting:,}", "retries waiting", f"{now.retried:,} in all"),
        (UNKNOWN if now.oldest is None else duration(now.oldest), "oldest", f"max_age {duration(now.max_age)}"),
    ]


def _problems(now: Any) -> str:
    """Return which services are down, and the last errors, on a line."""
    stages = {name: stage for name, stage in now.stages.items() if name != "source"}
    found = [f"{service_name(name, target)} is down" for name, stage in stages.items() for target in stage.failing]
    found += [f"{name}: {error_name(stage.error)}" for name, stage in stages.items() if stage.error]
    failures = sum(number for (part, _), number in now.failures.items() if part == "source")
    found += [f"source failed {counted(failures, 'time')}: {now.failure}"] * bool(failures)
    return short(" · ".join(found), 140) if found else ""


def _stage(name: str, stage: Any) -> str:
    """Return all of a stage in a line."""
    oldest = "" if stage.oldest is None else f", oldest {duration(stage.oldest)}"
    error = f", last error {error_name(stage.error)}" if stage.error else ""
    down = "".join(f", {target or 'its service'} is down: probes alone are sent" for target in stage.failing)
    return f"{name}: {stage.waiting:,} waiting{oldest}, {stage.dead_letters:,} dead letters{error}{down}"


def _limit(now: Any) -> float:
    limit: float = now.max_age
    return limit if isfinite(limit) else LONGEST


def _age_bins(now: Any) -> list[tuple[float, int]]:
    """Return how many events were published up to each age that none before has; the last is beyond ``max_age``."""
    bounds = [*(_limit(now) * 2 ** ((index - BINS + 1) / 2) for index in range(BINS)), inf]
    ages = now.ages.get("published")
    totals = [(0.0, 0), *(ages.cumulative(bounds) if ages else [(bound, 0) for bound in bounds])]
    return [(bound, total - before) for (_, before), (bound, total) in pairwise(totals)]


def snapshot_svg(now: Any) -> str:
    """Return a picture: headline numbers, rates of the last minute, ages against their limit, outcomes."""
    view = snapshot_numbers(now)
    errors = [("last errors: " + view["errors"], MARGIN, 322, "quiet")] if view["errors"] else []
    names = " · ".join(label for label, _ in view["stages"])
    texts = [(view["title"], MARGIN, 27, "title"), (names, WIDTH - MARGIN, 27, "quiet end"), *errors]
    for index, (number, name, note) in enumerate(view["tiles"]):
        x = MARGIN + index * (WIDTH - 2 * MARGIN) / len(view["tiles"])
        texts += [(name, x, 56, "quiet"), (number, x, 80, "number"), (note, x, 97, "quiet")]
    parts = [element("text", text, x=x, y=y, kind=kind) for text, x, y, kind in texts]
    parts += [*_rates(view, "received", "bar", 128), *_rates(view, "published", "published", 180)]
    parts += [*_age_bars(view, WIDTH - MARGIN - HALF), *_outcomes(view)]
    return document(parts, 334 if errors else 312, view["title"])


def _rates(view: dict[str, Any], name: str, kind: str, y: float) -> Iterator[str]:
    """Draw what came in, or what went out, each by its own scale: they differ on purpose."""
    end, base = view["rates"][-1][1] if view["rates"] else 0.0, y + 12 + LOW
    spans = list[tuple[float, float, float, str]]()
    for start, stop, received, published in view["rates"]:
        if stop > end - MINUTE:
            left, right = (MARGIN + HALF * max(0.0, 1 - (end - at) / MINUTE) for at in (start, stop))
            spans.append((left, max(0.8, right - left - 0.8), received if name == "received" else published, kind))
    most = max((amount for _, _, amount, _ in spans), default=0.0)
    yield element("text", f"{name}, at most {most:,.0f}/s in the last minute", x=MARGIN, y=y + 5, kind="quiet")
    yield element("line", x1=MARGIN, x2=MARGIN + HALF, y1=base, y2=base, kind="lane")
    yield from bars(spans, base, LOW)


def _age_bars(view: dict[str, Any], x: float) -> Iterator[str]:
    """Draw how old events were when published; beyond the limit, what expired."""
    width = HALF / (BINS + 2)
    counts = [*((index, count, "bar") for index, (_, count) in enumerate(view["ages"]))]
    counts.append((BINS + 1, view["too_old"], "expired"))
    yield element("text", f"age when published: {view['age']}", x=x, y=133, kind="quiet")
    yield element("line", x1=x, x2=x + HALF, y1=BASE, y2=BASE, kind="lane")
    yield element("line", x1=x + width * (BINS + 0.5), x2=x + width * (BINS + 0.5), y1=142, y2=BASE, kind="state")
    yield from bars([(x + place * width, width - 1.5, count, kind) for place, count, kind in counts], BASE, BAR)
    for label, place in view["age_ticks"]:
        yield element("text", label, x=x + place * width, y=BASE + 13, kind="small middle")
    yield element("text", f"max_age {view['max_age']}", x=x + HALF, y=BASE + 13, kind="small end")


def _outcomes(view: dict[str, Any]) -> Iterator[str]:
    x, distinct = MARGIN, max(1, sum(count for _, count in view["outcomes"]))
    for index, (name, count) in enumerate(view["outcomes"]):
        kind, left = "faded" if name == "in_flight" else name, MARGIN + index * 152
        width = (WIDTH - 2 * MARGIN) * count / distinct
        if count:
            yield element("rect", x=x, y=258, width=width, height=12, kind=kind)
        x += width
        yield element("rect", x=left, y=281, width=10, height=10, rx=2, kind=kind)
        yield element("text", f"{name.replace('_', ' ')} {count:,}", x=left + 15, y=290)
