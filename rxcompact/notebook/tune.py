"""Tune a pipeline on history before it is deployed: a table that shows itself, a plot, and a recommendation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, isfinite
from typing import Any, TypeAlias

from tqdm.auto import tqdm

from rxcompact.clock import Seconds, count, seconds
from rxcompact.errors import ArgumentError
from rxcompact.format import duration
from rxcompact.mappers import TimeSpec, key_of, time_of
from rxcompact.notebook.history import History, simulate
from rxcompact.notebook.picture import picture
from rxcompact.render.chart import Chart
from rxcompact.render.tables import Cell, table
from rxcompact.testing import SimulatedApi

KeyMapper: TypeAlias = str | tuple[str, ...] | Callable[[Any], Any]
"""A function, a field's name, or the names of several."""

WINDOWS: dict[str, dict[str, Any]] = {"tumbling": {}, "leading": {"leading": True}, "per key": {"per_key": True}}
"""Kinds of windows, and the options of `compact` that make them."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one combination of choices would have done to history. Times in seconds.

    Latencies, ``p50`` and ``p99``, are from birth to publication; those that expired count as endless. ``calls`` are
    those of the API, retries included, and ``held`` is the most distinct events at once, in the worst of these replays.
    """

    key: str
    timespan: float
    max_age: float
    max_concurrent: int
    received: int
    rejected: int
    """Of these, events without a key or a time."""
    distinct: int
    p50: float | None
    p99: float | None
    calls: int
    expired: int
    """Events that expired without any outage."""
    in_outage: Mapping[float, int]
    """Events that expire in all of history with an outage of so many seconds in it."""
    held: int
    windows: str = "tumbling"
    pipeline: str = ""
    """Text of a pipeline that does this; source, enricher and sink are yours."""

    @property
    def ratio(self) -> float:
        """Share of the events received that are duplicates: 1 - distinct / received, less what was rejected."""
        return (self.received - self.rejected - self.distinct) / self.received

    @property
    def saved(self) -> int:
        """Calls that are saved, of one for each event received."""
        return self.received - self.calls


class Tuning(tuple[Row, ...]):
    """A row for each combination that was tried."""

    __slots__ = ()

    def recommend(self, *, max_latency: Seconds, outage: Seconds | None = None, max_expired: int = 0) -> Row | None:
        """Return the row with the fewest distinct events of those that meet the conditions; None where none does.

        Of several with as few it is the one that loses the fewest events in outages, then the one that holds the
        fewest, then that of the fewest concurrent calls. Retries are a matter of chance and do not count.

        Args:
            max_latency: Seconds within which 99 of 100 distinct events must be published.
            outage: Length of one in which no more events may expire than without it; one of those tried.
            max_expired: Events that may expire without any outage.

        Raises:
            KeyError: when no outage of that length was tried.
        """
        limit = seconds("max_latency", max_latency)
        length = None if outage is None else seconds("outage", outage)
        if length is not None and length not in self[0].in_outage:
            raise KeyError(f"no outage of {duration(length)} was tried")

        def fits(row: Row) -> bool:
            in_time = row.p99 is not None and row.p99 <= limit
            return in_time and row.expired <= max_expired and (length is None or row.in_outage[length] <= row.expired)

        def cost(row: Row) -> tuple[float, ...]:
            return row.distinct, sum(row.in_outage.values()), row.held, row.max_concurrent

        return min(filter(fits, self), key=cost, default=None)

    def plot(self) -> Chart:
        """Return a picture: compaction against latency, and the events that expire, with a slider for each choice.

        A click on a point shows the text of its pipeline. It needs no kernel, and nothing to install.
        """
        return picture(self, repr(self))

    def _cells(self, row: Row) -> dict[str, Cell]:
        return {
            "key": row.key,
            "timespan": duration(row.timespan),
            **({"windows": row.windows} if any(each.windows != "tumbling" for each in self) else {}),
            "max_age": duration(row.max_age),
            "at once": row.max_concurrent,
            **({"rejected": row.rejected} if any(each.rejected for each in self) else {}),
            "distinct": row.distinct,
            "ratio": f"{row.ratio:.1%}",
            **{name: None if age is None else duration(age) for name, age in (("p50", row.p50), ("p99", row.p99))},
            "calls": row.calls,
            "saved": row.saved,
            "expired": row.expired,
            **{f"down {duration(length)}": many for length, many in row.in_outage.items()},
            "held": row.held,
        }

    def __repr__(self) -> str:
        found = (self._cells(row).values() for row in self)
        texts = ([f"{each:,}" if isinstance(each, int | float) else each or "-" for each in cells] for cells in found)
        rows = [list(self._cells(self[0])), *texts]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.rjust, row, widths)) for row in rows)

    def _repr_html_(self) -> str:
        more = "Latency: birth to publication. Held: the most distinct events at once."
        note = f"{self[0].received:,} events replayed {len(self)} ways"
        rows = [list(self._cells(row).values()) for row in self]
        return table(list(self._cells(self[0])), rows, title="Tuning", note=note, more=more)


def tune(
    events: Iterable[Any],
    *,
    time_mapper: TimeSpec,
    key_mappers: KeyMapper | list[KeyMapper],
    timespans: Sequence[Seconds] = (1.0, 10.0, 60.0),
    windows: Sequence[str | Seconds] = ("tumbling",),
    max_ages: Sequence[Seconds] = (300.0,),
    max_concurrents: Sequence[int] = (100,),
    outages: Sequence[Seconds] = (60.0, 300.0),
    api: Callable[..., Callable[[Any], Any]] = SimulatedApi,
    progress: bool = True,
) -> Tuning:
    """Replay history in virtual time with every combination of choices, and return the results.

    The events pass `compact`, `enrich` and `publish` themselves; a simulated API takes the place of the real one. An
    event arrives when the clock shows the largest event time so far, as in `rxcompact.testing.replay`.

    Args:
        events: History in the order of arrival: dicts, raw JSON lines, or what your mappers take.
        time_mapper: A field's name, or a function of the event that returns its time, see `time_of`.
            Ages count from it, as in a `Pipeline` that has one.
        key_mappers: A function or a field's name, a tuple of names for a key of several fields; or a list of such.
        timespans: Lengths of a window, seconds.
        windows: Kinds of windows: "tumbling", "leading" (with a leading edge), "per key", or a gap in seconds.
        max_ages: Seconds after its birth at which an event expires.
        max_concurrents: Calls at once.
        outages: Lengths, seconds. Each is replayed by itself, in the span in which most events arrived.
        api: Returns the API for a replay, given ``outages``, a list of spans of POSIX seconds:
            ``partial(SimulatedApi, latency=(0.02, 0.2), error_rate=0.01, rate=50)``.
        progress: Show a bar.

    Exact:
        The operators are the real ones, but the sink takes a batch at once, no event is dropped for want of capacity,
        chance is that of one seed, and windows of processing time are aligned to the epoch.

    Cost:
        About 30 µs for each call that is replayed, 70 µs for one that fails; all of history is replayed for each row,
        and again for each outage. Some 5 µs for each line, key and timespan.

    Raises:
        ArgumentError: for an empty list of choices or one out of range, and where no event has a time.

    >>> day = [{"ts": float(second), "id": second // 30 % 4} for second in range(86_400)]
    >>> tuning = tune(day, time_mapper="ts", key_mappers="id", timespans=[10, 60], outages=[], progress=False)
    >>> [(row.timespan, row.max_age, row.distinct, row.ratio) for row in tuning]
    [(10.0, 300.0, 8640, 0.9), (60.0, 300.0, 2880, 0.9666666666666667)]
    """
    spans = _choices("timespans", timespans)
    ages = _choices("max_ages", max_ages)
    lengths = _choices("outages", outages) if len(outages) else []
    pools = _choices("max_concurrents", max_concurrents, count)
    kinds = dict(map(_kind, windows))
    if not kinds:
        raise ArgumentError("windows", windows, f"one or more of {', '.join(WINDOWS)}, or a gap in seconds")
    history = History(events, time_of(time_mapper))
    keys = _labelled(key_mappers)
    mappers = {label: key_of(mapper, argument="key_mappers") for label, mapper in keys.items()}
    time = _code(time_mapper)
    replays = [(), *([history.busiest(length)] for length in lengths)]
    rows: list[Row] = []
    choices = list(product(mappers.items(), spans, kinds.items()))
    for (label, mapper), timespan, (kind, options) in tqdm(choices, "tune", leave=False, disable=not progress):
        closed, rejected = history.compacted(mapper, timespan, **options)
        distinct = sum(len(each.window) for each in closed)
        more = "".join(f", {name}={value}" for name, value in options.items())
        compact = f"rxo.compact({timespan:g}, key_mapper={_code(keys[label])}, time_mapper={time}{more})"
        for max_age, pool in product(ages, pools):
            results = [simulate(closed, api(outages=each), max_age, pool) for each in replays]
            usual, *down = results
            # an event that expired was never published: no latency is long enough
            latencies = sorted(usual.latencies) + [inf] * usual.expired
            held = max(each.held for each in results)
            calls = f"rxo.enrich(enricher, max_concurrent={pool}), rxo.publish(sink)"
            limits = f"max_age={max_age:g}, max_in_flight={2 * max(1, held)}"  # twice what was held
            row = Row(
                *(label, timespan, max_age, pool, len(history.events), rejected, distinct),
                *(percentile(latencies, 50), percentile(latencies, 99)),
                *(usual.calls, usual.expired),
                in_outage={length: each.expired for length, each in zip(lengths, down, strict=True)},
                held=held,
                windows=kind,
                pipeline=f"Pipeline(source, {compact}, {calls}, {limits})",
            )
            rows.append(row)
    return Tuning(rows)


def explore(history: Iterable[Any], **options: Any) -> Chart:
    """Replay history with many choices, and return the picture whose sliders go through them: `Tuning.plot`.

    Dragging redraws in the page, without the kernel. ★ marks the window with the fewest distinct events that keeps the
    latency and loses none, with the outage chosen and without.

    Args:
        history: As in `tune`.
        options: As in `tune`; by default it tries more windows, and an outage of a minute.
    """
    usual: dict[str, Any] = {"timespans": (1, 2, 5, 10, 30, 60, 120), "max_ages": (60, 300), "outages": (60,)}
    return tune(history, **usual | options).plot()


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Return the smallest value that so many percent of all do not exceed (nearest rank); None where it is infinite."""
    value = ordered[-(-len(ordered) * percent // 100) - 1] if ordered else inf
    return value if isfinite(value) else None


def _choices(argument: str, values: Sequence[Any], convert: Callable[[str, Any], Any] = seconds) -> list[Any]:
    if not len(values):
        raise ArgumentError(argument, values, "one or more")
    return sorted({convert(argument, value) for value in values})


def _kind(window: str | Seconds) -> tuple[str, Mapping[str, Any]]:
    """Return the name of a kind of windows, and the options of `compact` that make it."""
    if isinstance(window, str):
        if window not in WINDOWS:
            raise ArgumentError("windows", window, f"one of {', '.join(WINDOWS)}, or a gap in seconds")
        return window, WINDOWS[window]
    return f"gap of {duration(gap := seconds('windows', window))}", {"gap": gap}


def _labelled(mappers: KeyMapper | list[KeyMapper]) -> Mapping[str, KeyMapper]:
    found = mappers if isinstance(mappers, list) else [mappers]
    labelled = {str(key_of(mapper, argument="key_mappers")): mapper for mapper in found}
    if len(labelled) < max(1, len(found)):
        raise ArgumentError("key_mappers", mappers, "one or more, each with a name of its own")
    return labelled


def _code(mapper: object) -> str:
    """Return a field's name, or those of several, as they are written; of a function its name."""
    if isinstance(mapper, str | tuple):
        return repr(mapper)
    return getattr(mapper, "__name__", str(mapper))
