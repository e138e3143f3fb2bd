"""How a pipeline is doing: a few lines of text, and a picture with its last dead letters below."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from rxcompact.render.panel import panel
from rxcompact.render.table import table
from rxcompact.render.words import duration, escape

BLOCKS = " ▁▂▃▄▅▆▇█"
OUTCOMES = ("published", "expired", "rejected", "dropped", "abandoned")


def vitals_lines(now: Any) -> list[tuple[str, str]]:
    """Return what there is to say of a snapshot, each with a name."""
    account, ages, rate = now.account, now.ages, now.rate
    held = ", ".join(f"{name} {stage.held:,}" for name, stage in now.stages.items() if stage.held)
    oldest = f"; oldest {duration(now.oldest)}" if now.oldest is not None else ""
    ends = [f"{name} {getattr(account, name):,}" for name in OUTCOMES if name == "published" or getattr(account, name)]
    ratio = "-" if now.dedup_ratio is None else f"{now.dedup_ratio:,.1f} events for each distinct one"
    lines = [
        ("in", f"{rate.received:,.0f}/s; {account.received:,} received, {account.refused:,} refused"),
        ("dedup", ratio),
        ("out", f"{rate.published:,.0f}/s; {', '.join(ends)}"),
        ("in flight", f"{account.in_flight:,} of {now.max_in_flight:,}{': ' if held else ''}{held}{oldest}"),
        ("retries", f"{now.waiting:,} waiting, {now.retries:,} in all"),
        ("age", f"{ages_text(ages)}; max_age {duration(now.max_age)}"),
        ("ages", f"{duration(min(now.histogram))} ┤{_blocks(list(now.histogram.values()))}"),
    ]
    errors = [f"{name} {stage.error}" for name, stage in now.stages.items() if stage.error]
    if errors:
        lines.append(("last errors", ", ".join(errors)))
    if now.failures:
        lines.append(("source", f"failed {now.failures:,} times, at last with {now.failure}"))
    return lines


def ages_text(ages: Any) -> str:
    """Return percentiles on one line."""
    return f"p50 {duration(ages.p50)}, p90 {duration(ages.p90)}, p99 {duration(ages.p99)}, most {duration(ages.most)}"


def vitals_title(now: Any) -> str:
    """Return what it is doing, and since when."""
    restarts = f", {now.restarts} restart{'s' * (now.restarts != 1)}" if now.restarts else ""
    return f"{now.state}, {duration(now.uptime)}{restarts}"


def vitals_text(now: Any) -> str:
    """Return a snapshot as text."""
    lines = [vitals_title(now)]
    lines += [f"  {name:<11}  {said}" for name, said in vitals_lines(now)]
    lines += [f"  {'✗':>11}  {' · '.join(map(str, row))}" for row in letter_rows(now)]
    return "\n".join(lines)


def vitals_html(now: Any) -> str:
    """Return a snapshot as HTML that shows in a notebook that is not trusted too."""
    picture = f'<img src="{vitals_picture(now)}" alt="{escape(vitals_title(now))}" style="max-width:100%">'
    return picture + letters_html(now)


def vitals_picture(now: Any) -> str:
    """Return the picture of a snapshot as a data URI."""
    svg = panel(now, vitals_title(now), ages_text(now.ages))
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"


def letters_html(now: Any) -> str:
    """Return the last dead letters as a table; nothing where there are none."""
    if not now.letters:
        return ""
    head = ("outcome", "stage", "reason", "error", "attempts", "age")
    return table(head, letter_rows(now), title="Dead letters", note="the latest first")


def letter_rows(now: Any) -> list[tuple[str, ...]]:
    """Return the last dead letters as rows of text."""
    return [
        (each.outcome, each.stage, each.reason, each.error or "-", f"{each.attempts:,}", _age(each.age))
        for each in now.letters
    ]


def _age(age: float | None) -> str:
    return "-" if age is None else duration(age)


def _blocks(amounts: list[int]) -> str:
    """Return bars one line high; before the last, which is beyond the limit, a line."""
    most = max(amounts) or 1
    bars = "".join(BLOCKS[-(-amount * (len(BLOCKS) - 1) // most)] for amount in amounts)
    return f"{bars[:-1]}│{bars[-1]}"
