"""What `tune` found: a table that shows itself, plots, and an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, overload

from rxcompact.clock import Seconds, seconds
from rxcompact.render.format import duration
from rxcompact.render.tables import table

if TYPE_CHECKING:
    import pandas as pd

    from rxcompact.notebook.picture import Picture


@dataclass(frozen=True, slots=True)
class Row:
    """What one combination would have done to history. Times in seconds."""

    key: str
    timespan: float
    max_age: float
    max_concurrent: int
    received: int
    """Events that came."""
    refused: int
    """Of these, events without a key or a time, or that were too late."""
    distinct: int
    """Events that were left, each once per window."""
    p50: float | None
    """From an event's birth to its delivery, half of those published; None where none was."""
    p95: float | None
    p99: float | None
    calls: int
    """Calls of the API, those tried again included."""
    peak: int
    """Calls in any one second, at most."""
    expired: int
    """Events that became too old, without any outage."""
    in_outage: Mapping[float, int]
    """Events that become too old in all of history, with an outage of so many seconds in it."""
    held: int
    """Distinct events held at once, at most, in the worst of these replays."""

    @property
    def ratio(self) -> float:
        """Share of the events received that are duplicates: 1 - distinct / received, but for what was refused."""
        return (self.received - self.refused - self.distinct) / self.received

    @property
    def saved(self) -> int:
        """Calls that are spared, of one for each event received."""
        return self.received - self.calls


class Tuning(Sequence[Row]):
    """A row for each combination that was tried.

    Args:
        rows: What was found.
        outages: Where in history an outage of so many seconds was put: from and to, POSIX seconds.
    """

    def __init__(self, rows: Sequence[Row], outages: Mapping[float, tuple[float, float]]) -> None:
        self._rows = tuple(rows)
        self.outages = outages

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def recommend(
        self, *, max_latency: Seconds, outage: Seconds | None = None, max_peak: int | None = None
    ) -> Row | None:
        """Return the row that leaves the fewest distinct events of those that do what is asked; None where none does.

        Of several with as few it is the one that loses the fewest events in outages, then the one that holds the
        fewest, then that of the fewest concurrent calls. Calls that were tried again are left to chance.

        Args:
            max_latency: Seconds within which 99 of 100 events that are published must be.
            outage: Length of one in which no more events may expire than without it; one of those tried.
            max_peak: Calls in any one second, at most.

        Raises:
            KeyError: when no outage of that length was tried.
        """
        limit = seconds("max_latency", max_latency)
        length = None if outage is None else seconds("outage", outage)
        if length is not None and length not in self.outages:
            raise KeyError(f"no outage of {duration(length)} was tried")
        fitting = [
            row
            for row in self._rows
            if row.p99 is not None
            and row.p99 <= limit
            and (length is None or row.in_outage[length] <= row.expired)
            and (max_peak is None or row.peak <= max_peak)
        ]
        return min(
            fitting,
            key=lambda row: (row.distinct, sum(row.in_outage.values()), row.held, row.max_concurrent),
            default=None,
        )

    # ── shown ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as dicts of plain values, times in seconds."""
        return [
            {
                "key": row.key,
                "timespan": row.timespan,
                "max_age": row.max_age,
                "max_concurrent": row.max_concurrent,
                "received": row.received,
                "refused": row.refused,
                "distinct": row.distinct,
                "ratio": row.ratio,
                "p50": row.p50,
                "p95": row.p95,
                "p99": row.p99,
                "calls": row.calls,
                "saved": row.saved,
                "peak": row.peak,
                "expired": row.expired,
                **{f"expired_{length:g}": row.in_outage[length] for length in self.outages},
                "held": row.held,
            }
            for row in self._rows
        ]

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame of the records.

        Raises:
            ImportError: without pandas.
        """
        import pandas as pd  # noqa: PLC0415 - an extra

        return pd.DataFrame(self.records())

    def plot(self) -> Picture:
        """Return a picture: compaction against latency, and what expires against the length of an outage.

        It shows itself in a notebook; it is a matplotlib figure, so it has ``savefig``.

        Raises:
            ImportError: without matplotlib.
        """
        from rxcompact.notebook.picture import picture  # noqa: PLC0415 - an extra

        return picture(self)

    def __repr__(self) -> str:
        head, rows = self._head(), [[_text(cell) for cell in row] for row in self._cells()]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        left = [True, *[False] * (len(head) - 1)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if start else cell.rjust(width)
                for cell, width, start in zip(row, widths, left, strict=True)
            ).rstrip()
            for row in (head, *rows)
        )

    def _repr_html_(self) -> str:
        received = self._rows[0].received if self._rows else 0
        more = "Latency is from an event's birth to its delivery. Peak: calls in any one second. Held: distinct events"
        more += " at once, at most, outages included."
        for length, (begin, _) in self.outages.items():
            at = datetime.fromtimestamp(begin, UTC)
            more += f" Outage of {duration(length)}: from {at:%Y-%m-%d %H:%M:%S} UTC."
        note = f"{received:,} events replayed {len(self)} ways"
        return table(self._head(), self._cells(), title="Tuning", note=note, more=more)

    def _head(self) -> list[str]:
        columns = [name for name, _ in _COLUMNS]
        columns[-1:-1] = [f"down {duration(length)}" for length in self.outages]
        return columns

    def _cells(self) -> list[list[str | int | float | None]]:
        return [
            [
                *(cell(row) for _, cell in _COLUMNS[:-1]),
                *(row.in_outage[length] for length in self.outages),
                row.held,
            ]
            for row in self._rows
        ]


def _rounded(value: float | None) -> float | None:
    return value if value is None else round(value, 1 if value >= 10 else 2)  # noqa: PLR2004


# what the table shows; the rest is in the records
_COLUMNS: Sequence[tuple[str, Callable[[Row], str | int | float | None]]] = (
    ("key", lambda row: row.key),
    ("timespan", lambda row: duration(row.timespan)),
    ("max_age", lambda row: duration(row.max_age)),
    ("concurrent", lambda row: row.max_concurrent),
    ("refused", lambda row: row.refused),
    ("distinct", lambda row: row.distinct),
    ("ratio", lambda row: f"{row.ratio:.1%}"),
    ("p50 s", lambda row: _rounded(row.p50)),
    ("p99 s", lambda row: _rounded(row.p99)),
    ("calls", lambda row: row.calls),
    ("saved", lambda row: row.saved),
    ("peak /s", lambda row: row.peak),
    ("expired", lambda row: row.expired),
    ("held", lambda row: row.held),
)


def _text(value: str | float | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:,}"
