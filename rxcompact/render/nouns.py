"""Windows, their events, dead letters and accounts as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

from rxcompact.render.table import Cell, table
from rxcompact.render.words import duration, error_name, instant, short

SHOWN = 10
"""Events of a window."""


class _Window(Protocol):
    opened: float
    closed: float
    received: int

    @property
    def trigger(self) -> str: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


class _Letter(Protocol):
    @property
    def outcome(self) -> str: ...
    @property
    def stage(self) -> str: ...
    @property
    def event(self) -> Any: ...
    @property
    def reason(self) -> str: ...
    @property
    def error(self) -> BaseException | None: ...
    @property
    def attempts(self) -> int: ...
    @property
    def age(self) -> float | None: ...


class _Account(Protocol):
    def _asdict(self) -> Mapping[str, int]: ...


def compacted_html(compacted: Any) -> str:
    """Return one distinct event as a table."""
    return table(("key", "count", "first seen", "last seen", "event"), [_row(compacted)], title="Compacted")


def window_html(window: _Window) -> str:
    """Return a window as a table of its first events."""
    rows = map(_row, islice(window, SHOWN))
    span = f"{instant(window.opened)} UTC, {duration(window.closed - window.opened)}, closed by {window.trigger}"
    left = len(window) - SHOWN
    return table(
        ("key", "count", "first seen", "last seen", "event"),
        rows,
        title=f"Window: {window.received:,} received, {len(window):,} distinct",
        note=span,
        more=f"and {left:,} more" if left > 0 else "",
    )


def _row(compacted: Any) -> tuple[Cell, ...]:
    key, event, count, first_seen, last_seen = compacted
    return short(key, 60), count, instant(first_seen), instant(last_seen), short(event, 120)


def dead_letter_html(letter: _Letter) -> str:
    """Return a dead letter as a table."""
    rows = [
        ("reason", letter.reason),
        ("stage", letter.stage),
        ("attempts", f"{letter.attempts:,}"),
        ("age", "-" if letter.age is None else duration(letter.age)),
        ("error", _said(letter.error)),
        ("event", short(letter.event, 200)),
    ]
    return table(("", ""), rows, title=f"DeadLetter: {letter.outcome}")


def _said(error: BaseException | None) -> str:
    if error is None:
        return "-"
    cause = error.__cause__
    return short(error, 160) + (f", after {error_name(cause)}" if cause is not None else "")


def account_html(account: _Account) -> str:
    """Return an account as a table: of what came what each part was, of the distinct how each ended."""
    numbers = dict(account._asdict())  # pyright: ignore[reportPrivateUsage] - public in a named tuple
    rows: list[tuple[Cell, ...]] = []
    for name, number in numbers.items():
        whole = "received" if name in ("duplicates", "distinct", "rejected") else "distinct"
        share = f"{number / numbers[whole]:.1%} of {whole}" if name != "received" and numbers.get(whole) else ""
        rows.append((name.replace("_", " "), number, share))
    return table(("", "", ""), rows, title="Account")
