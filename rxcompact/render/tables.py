"""HTML tables of events, windows, dead letters and pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from types import ModuleType
from typing import Any, TypeAlias

from rxcompact.format import duration, error_name, escape, instant, short

# styled in place: a notebook that is not trusted strips style sheets; colours by transparency, to suit every theme
_TABLE = "border-collapse:collapse;font-size:13px;margin:4px 0"
_CAPTION = "caption-side:top;text-align:left;padding:2px 0 6px;color:inherit;white-space:nowrap"
_CELL = "padding:3px 10px;border-bottom:1px solid rgba(128,128,128,0.3);text-align:"
_QUIET = "opacity:0.7"
MAX_ROWS = 10  # events of a window that are shown
NARROW = 24  # letters that stay on one line
EVENT_COLUMNS = ("key", "count", "first seen", "last seen", "event")
Cell: TypeAlias = str | int | float | None


def table(
    head: Sequence[str], rows: Iterable[Sequence[Cell]], *, title: str = "", note: str = "", more: str = ""
) -> str:
    """Return a table with a caption and a line below; numbers are on the right, and None is a dash.

    Titles of columns that are all empty make no row.
    """
    titles = "".join(f'<th style="{_CELL}left">{escape(name)}</th>' for name in head)
    top = f"<thead><tr>{titles}</tr></thead>" if any(head) else ""
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    quiet = f'<span style="{_QUIET}">{escape(note)}</span>'
    below = f'<div style="{_QUIET};font-size:12px">{escape(more)}</div>' if more else ""
    caption = f'<caption style="{_CAPTION}"><b>{escape(title)}</b> {quiet}</caption>'
    return f'<table style="{_TABLE}">{caption}{top}<tbody>{body}</tbody></table>{below}'


def _cell(value: Cell) -> str:
    if isinstance(value, str):
        whole = ";white-space:nowrap" * (len(value) <= NARROW)
        return f'<td style="{_CELL}left{whole}">{escape(value)}</td>'
    return f'<td style="{_CELL}right;{_QUIET}">-</td>' if value is None else f'<td style="{_CELL}right">{value:,}</td>'


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
    key, event, count, first_seen, last_seen = compacted
    return short(key, 60), count, instant(first_seen), instant(last_seen), short(event, 120)


def dead_letter_html(letter: Any) -> str:
    """Return a dead letter as a table."""
    error = "-" if letter.error is None else short(letter.error, 160)
    if letter.error is not None and letter.error.__cause__ is not None:
        error += f", after {error_name(letter.error.__cause__)}"
    rows = [("key", short(letter.event.key, 60))] if hasattr(letter.event, "first_seen") else []
    rows += [("reason", letter.reason), ("stage", letter.stage), ("attempts", f"{letter.attempts:,}")]
    rows += [("age", "-" if letter.age is None else duration(letter.age)), ("error", error)]
    rows.append(("event", short(letter.event, 200)))
    return table(("", ""), rows, title=f"DeadLetter: {letter.outcome}")


def pipeline_text(pipeline: Any) -> str:
    """Return the stages of a pipeline on one line."""
    return f"<Pipeline {' → '.join(_descriptions(pipeline).values())}; {_limits(pipeline)}>"


def pipeline_html(pipeline: Any) -> str:
    """Return the stages of a pipeline as a table."""
    return table(("stage", "what"), _descriptions(pipeline).items(), title="Pipeline", note=_limits(pipeline))


def _descriptions(pipeline: Any) -> dict[str, str]:
    """Return the name of each stage, and what it is."""
    reducer, publish = pipeline.reducer, pipeline.publication
    whats = {"source": _name(pipeline.source), "compact": _name(reducer)}
    if hasattr(reducer, "timespan"):
        whats["compact"] = f"{duration(reducer.timespan)} by {reducer.key_mapper}"
    if pipeline.raw:
        whats["decode"] = "JSON"
    for enrich in pipeline.enrichments:
        whats[enrich.stage] = f"{_name(enrich.enricher)}, {enrich.max_concurrent:,} at once"
    return whats | {"publish": f"{_name(publish.sink)}, by {publish.count:,} or {duration(publish.linger)}"}


def _limits(pipeline: Any) -> str:
    return f"max_age {duration(pipeline.max_age)}, max_in_flight {pipeline.max_in_flight:,}"


def _name(part: Any) -> str:
    """Return a function's name, a method's object's class, or an object's class."""
    owner = getattr(part, "__self__", None)
    is_function = owner is None or isinstance(owner, ModuleType)  # which a built-in function has for an owner
    name = getattr(part, "__name__", None) if is_function else None
    return short(name or type(part if is_function else owner).__name__, 40)
