"""HTML tables of events, windows, dead letters, accounts, pipelines and orchestrators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, TypeAlias

from rxcompact.format import duration, error_name, escape, instant, short

# styled in place: a notebook that is not trusted strips style sheets; colours by transparency, to suit every theme
_TABLE = "border-collapse:collapse;font-size:13px;margin:4px 0"
_CAPTION = "caption-side:top;text-align:left;padding:2px 0 6px;color:inherit;white-space:nowrap"
_CELL = "padding:3px 10px;border-bottom:1px solid rgba(128,128,128,0.3)"
_LEFT = f"{_CELL};text-align:left"
_RIGHT = f"{_CELL};text-align:right"
_QUIET = "opacity:0.7"
MAX_ROWS = 10
"""Events of a window that are shown."""
EVENT_COLUMNS = ("key", "count", "first seen", "last seen", "event")
STAGE_COLUMNS = ("stage", "what", "in", "out", "in flight", "oldest", "dead letters", "last error")
Cell: TypeAlias = str | int | float | None


def table(
    head: Sequence[str], rows: Iterable[Sequence[Cell]], *, title: str = "", note: str = "", more: str = ""
) -> str:
    """Return a table; numbers are on the right, and None is a dash.

    Args:
        head: Titles of the columns; empty ones make no row.
        rows: Cells.
        title: The caption.
        note: The rest of the caption, less prominent.
        more: A line below.
    """
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    titles = "".join(f'<th style="{_LEFT}">{escape(name)}</th>' for name in head) if any(head) else ""
    caption = (
        f'<caption style="{_CAPTION}"><b>{escape(title)}</b> <span style="{_QUIET}">{escape(note)}</span></caption>'
    )
    below = f'<div style="{_QUIET};font-size:12px">{escape(more)}</div>' if more else ""
    top = f"<thead><tr>{titles}</tr></thead>" if titles else ""
    return f'<table style="{_TABLE}">{caption}{top}<tbody>{body}</tbody></table>{below}'


def _cell(value: Cell) -> str:
    if value is None:
        return f'<td style="{_RIGHT};{_QUIET}">-</td>'
    if isinstance(value, str):
        return f'<td style="{_LEFT}">{escape(value)}</td>'
    return f'<td style="{_RIGHT}">{value:,}</td>'


# ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def compacted_html(compacted: Any) -> str:
    """Return one distinct event as a table."""
    return table(EVENT_COLUMNS, [_event_row(compacted)], title="Compacted")


def window_html(window: Any) -> str:
    """Return a window as a table of its first events."""
    left = len(window) - MAX_ROWS
    return table(
        EVENT_COLUMNS,
        map(_event_row, islice(window, MAX_ROWS)),
        title=f"Window: {window.received:,} received, {len(window):,} distinct",
        note=f"{instant(window.opened)} UTC, {duration(window.closed - window.opened)}, closed by {window.trigger}",
        more=f"and {left:,} more" if left > 0 else "",
    )


def _event_row(compacted: Any) -> tuple[Cell, ...]:
    first_seen, last_seen = instant(compacted.first_seen), instant(compacted.last_seen)
    return short(compacted.key, 60), compacted.count, first_seen, last_seen, short(compacted.event, 120)


def dead_letter_html(letter: Any) -> str:
    """Return a dead letter as a table."""
    cause = letter.error.__cause__ if letter.error is not None else None
    error = "-" if letter.error is None else short(letter.error, 160)
    key = [("key", short(letter.event.key, 60))] if hasattr(letter.event, "first_seen") else []
    rows = [
        *key,
        ("reason", letter.reason),
        ("stage", letter.stage),
        ("attempts", f"{letter.attempts:,}"),
        ("age", "-" if letter.age is None else duration(letter.age)),
        ("error", error if cause is None else f"{error}, after {error_name(cause)}"),
        ("event", short(letter.event, 200)),
    ]
    return table(("", ""), rows, title=f"DeadLetter: {letter.outcome}")


def account_html(account: Any) -> str:
    """Return an account as a table, with each part's share of what was received or distinct."""
    numbers = dict(account._asdict())
    rows: list[tuple[Cell, ...]] = []
    for name, number in numbers.items():
        whole = "received" if name in ("duplicates", "distinct", "rejected") else "distinct"
        share = f"{number / numbers[whole]:.1%} of {whole}" if name != "received" and numbers.get(whole) else ""
        rows.append((name.replace("_", " "), number, share))
    return table(("", "", ""), rows, title="Account")


# ── pipelines ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def pipeline_text(pipeline: Any) -> str:
    """Return the stages of a pipeline on one line."""
    return f"<Pipeline {' → '.join(_descriptions(pipeline).values())}; {_limits(pipeline)}>"


def pipeline_html(pipeline: Any) -> str:
    """Return the stages of a pipeline as a table."""
    return table(STAGE_COLUMNS, _stage_rows(pipeline, None), title="Pipeline", note=_limits(pipeline))


def orchestrator_html(pipeline: Any, run: Any) -> str:
    """Return an orchestrator as a table: its state, and what is in each stage of its pipeline."""
    restarts = f", {run.restarts} restart{'s' * (run.restarts != 1)}" if run.restarts else ""
    return table(
        STAGE_COLUMNS,
        _stage_rows(pipeline, run),
        title=f"Orchestrator: {run.state}",
        note=f"{duration(run.uptime)}{restarts}" if run.stages else "not started yet",
        more=", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in run.account._asdict().items()),
    )


def _stage_rows(pipeline: Any, run: Any) -> list[tuple[Cell, ...]]:
    descriptions = _descriptions(pipeline)
    if run is None or not run.stages:
        return [(name, what, None, None, None, None, None, "") for name, what in descriptions.items()]
    rows: list[tuple[Cell, ...]] = []
    # from the end: what a stage let through is what the next one took
    out = run.account.published
    for name, what in reversed(descriptions.items()):
        now = run.stages[name]
        taken = {"source": None, "compact": run.account.received}.get(name, out + now.held + now.dead_letters)
        oldest = None if now.oldest is None else duration(now.oldest)
        rows.append((name, what, taken, out, now.held, oldest, now.dead_letters, error_name(now.error)))
        out = taken or 0
    return rows[::-1]


def _descriptions(pipeline: Any) -> dict[str, str]:
    """Return the name of each stage, and what it is."""
    reducer = pipeline.reducer
    whats = {"source": _name(pipeline.source), "compact": _name(reducer)}
    if hasattr(reducer, "timespan"):
        whats["compact"] = f"{duration(reducer.timespan)} by {reducer.key_mapper}"
    if pipeline.raw:
        whats["decode"] = "JSON"
    for enrich in pipeline.enrichments:
        whats[enrich.stage] = f"{_name(enrich.enricher)}, {enrich.max_concurrent:,} at once"
    publish = pipeline.publication
    return whats | {"publish": f"{_name(publish.sink)}, by {publish.count:,} or {duration(publish.linger)}"}


def _limits(pipeline: Any) -> str:
    return f"max_age {duration(pipeline.max_age)}, max_in_flight {pipeline.max_in_flight:,}"


def _name(part: Any) -> str:
    """Return a function's name, a method's object's class, or an object's class."""
    owner = getattr(part, "__self__", None)
    name = getattr(part, "__name__", None) if owner is None else None
    return short(name or type(part if owner is None else owner).__name__, 40)
