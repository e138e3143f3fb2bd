"""The results of `tune`: a table that shows itself, a plot, and a recommendation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

from rxcompact.clock import Seconds, seconds
from rxcompact.format import duration, instant
from rxcompact.render.tables import table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Row:
    """What one combination of choices would have done to history. Times in seconds."""

    key: str
    timespan: float
    max_age: float
    max_concurrent: int
    received: int
    rejected: int
    """Of these, events without a key or a time, or that were too late."""
    distinct: int
    """Events that were left, each once per window."""
    p50: float | None
    """From birth to publication, of half the distinct events; None where fewer were published. Expired ones count."""
    p95: float | None
    p99: float | None
    calls: int
    """Calls of the API, retries included."""
    peak: int
    """The most calls in any one second."""
    expired: int
    """Events that expired without any outage."""
    in_outage: Mapping[float, int]
    """Events that expire in all of history with an outage of so many seconds in it."""
    held: int
    """The most distinct events held at once, in the worst of these replays."""

    @property
    def ratio(self) -> float:
        """Share of the events received that are duplicates: 1 - distinct / received, less what was rejected."""
        return (self.received - self.rejected - self.distinct) / self.received

    @property
    def saved(self) -> int:
        """Calls that are saved, of one for each event received."""
        return self.received - self.calls


class Tuning(tuple[Row, ...]):  # noqa: SLOT001 - it has an attribute
    """A row for each combination that was tried.

    Args:
        rows: The results.
        outages: Where in history an outage of so many seconds was: from and to, POSIX seconds.
    """

    outages: Mapping[float, tuple[float, float]]

    def __new__(cls, rows: Iterable[Row], outages: Mapping[float, tuple[float, float]]) -> Self:
        tuning = super().__new__(cls, rows)
        tuning.outages = outages
        return tuning

    def recommend(
        self,
        *,
        max_latency: Seconds,
        outage: Seconds | None = None,
        max_peak: int | None = None,
        max_expired: int = 0,
    ) -> Row | None:
        """Return the row with the fewest distinct events of those that meet the conditions; None where none does.

        Of several with as few it is the one that loses the fewest events in outages, then the one that holds the
        fewest, then that of the fewest concurrent calls. Retries are a matter of chance and do not count.

        Args:
            max_latency: Seconds within which 99 of 100 distinct events must be published.
            outage: Length of one in which no more events may expire than without it; one of those tried.
            max_peak: The most calls in any one second.
            max_expired: Events that may expire without any outage.

        Raises:
            KeyError: when no outage of that length was tried.
        """
        limit = seconds("max_latency", max_latency)
        length = None if outage is None else seconds("outage", outage)
        if length is not None and length not in self.outages:
            raise KeyError(f"no outage of {duration(length)} was tried")

        def fits(row: Row) -> bool:
            in_time = row.p99 is not None and row.p99 <= limit
            kept = row.expired <= max_expired and (length is None or row.in_outage[length] <= row.expired)
            return in_time and kept and (max_peak is None or row.peak <= max_peak)

        def cost(row: Row) -> tuple[float, ...]:
            return row.distinct, sum(row.in_outage.values()), row.held, row.max_concurrent

        return min(filter(fits, self), key=cost, default=None)

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with a record of each row, times in seconds.

        Raises:
            ImportError: without pandas.
        """
        import pandas as pd  # noqa: PLC0415 - an extra

        names = [each.name for each in fields(Row) if each.name != "in_outage"] + ["ratio", "saved"]
        records = [{name: getattr(row, name) for name in names} for row in self]
        for record, row in zip(records, self, strict=True):
            record |= {f"expired_{length:g}": row.in_outage[length] for length in self.outages}
        return pd.DataFrame(records)

    def plot(self) -> Figure:
        """Return a picture: compaction against latency, and expired events against the length of an outage.

        It shows itself in a notebook; it is a matplotlib figure, so it has ``savefig``.

        Raises:
            ImportError: without matplotlib.
        """
        from rxcompact.notebook.picture import picture  # noqa: PLC0415 - an extra

        return picture(self, self.outages)

    def _cells(self, row: Row) -> dict[str, Cell]:
        return {
            "key": row.key,
            "timespan": duration(row.timespan),
            "max_age": duration(row.max_age),
            "concurrent": row.max_concurrent,
            "rejected": row.rejected,
            "distinct": row.distinct,
            "ratio": f"{row.ratio:.1%}",
            "p50 s": _rounded(row.p50),
            "p99 s": _rounded(row.p99),
            "calls": row.calls,
            "saved": row.saved,
            "peak /s": row.peak,
            "expired": row.expired,
            **{f"down {duration(length)}": row.in_outage[length] for length in self.outages},
            "held": row.held,
        }

    def __repr__(self) -> str:
        if not self:
            return "<Tuning of nothing>"
        rows = [list(self._cells(self[0])), *(list(map(_text, self._cells(row).values())) for row in self)]
        key, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join(
            "  ".join([f"{name:{key}}", *(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))])
            for name, *texts in rows
        )

    def _repr_html_(self) -> str:
        more = "Latency is from an event's birth to its publication. Peak: calls in any one second. Held: the most "
        more += "distinct events at once, outages included."
        for length, (begin, _) in self.outages.items():
            more += f" Outage of {duration(length)}: from {instant(begin // 1)} UTC."
        rows = [self._cells(row) for row in self]
        note = f"{self[0].received if self else 0:,} events replayed {len(self)} ways"
        head = list(rows[0]) if rows else []
        return table(head, [list(row.values()) for row in rows], title="Tuning", note=note, more=more)


def _rounded(value: float | None) -> float | None:
    return value if value is None else round(value, 1 if value >= 10 else 2)  # noqa: PLR2004


def _text(value: Cell) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:,}"
