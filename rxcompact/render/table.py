"""HTML tables, styled in place: a notebook that is not trusted strips style sheets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rxcompact.render.words import escape

# colours by transparency alone, so that it is readable on whatever the theme's paper is
_TABLE = "border-collapse:collapse;font-size:13px;margin:4px 0"
_CAPTION = "caption-side:top;text-align:left;padding:2px 0 6px;color:inherit;white-space:nowrap"
_CELL = "padding:3px 10px;border-bottom:1px solid rgba(128,128,128,0.3)"
_LEFT = f"{_CELL};text-align:left"
_RIGHT = f"{_CELL};text-align:right"
_QUIET = "opacity:0.7"
Cell = str | int | float | None


def table(
    head: Sequence[str], rows: Iterable[Sequence[Cell]], *, title: str = "", note: str = "", more: str = ""
) -> str:
    """Return a table; numbers are on the right, and None is a dash.

    Args:
        head: Titles of the columns; if all are empty there is none.
        rows: Cells.
        title: What it is.
        note: What else is to be said of it, less loud.
        more: What is said below.
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
