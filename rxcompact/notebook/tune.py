"""Tune a pipeline on history before it is deployed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from math import inf, isfinite
from typing import Any, TypeAlias

from rxcompact.clock import Seconds, count, seconds
from rxcompact.errors import ArgumentError
from rxcompact.mappers import TimeSpec, key_of, time_of
from rxcompact.notebook.history import History, Result, peak, simulate
from rxcompact.notebook.tuning import Row, Tuning
from rxcompact.testing import SimulatedApi

KeyMapper: TypeAlias = str | tuple[str, ...] | Callable[[Any], Any]
"""A function, a field's name, or the names of several."""


def tune(
    events: Iterable[Any],
    *,
    time_mapper: TimeSpec,
    key_mappers: KeyMapper | list[KeyMapper] | Mapping[str, KeyMapper],
    timespans: Sequence[Seconds] = (1.0, 10.0, 60.0),
    max_ages: Sequence[Seconds] = (300.0,),
    max_concurrents: Sequence[int] = (100,),
    outages: Sequence[Seconds] = (60.0, 300.0),
    api: Callable[..., Callable[[Any], Any]] = SimulatedApi,
    lateness: Seconds | None = None,
    batch_timespan: Seconds = 1.0,
    progress: bool = True,
) -> Tuning:
    """Replay history in virtual time with every combination of choices, and return the results.

    The events pass `compact`, `enrich` and `publish` themselves; a simulated API takes the place of the real one. An
    event arrives when the clock shows the largest event time so far, as in `rxcompact.testing.replay`.

    Args:
        events: History in the order of arrival: dicts, raw JSON lines, or what your mappers take.
        time_mapper: A field's name, or a function of the event that returns its time, see `time_of`.
            Ages count from it, as in a `Pipeline` that has one.
        key_mappers: A function or a field's name, a tuple of names for a key of several fields; a list of such, or a
            mapping from labels.
        timespans: Lengths of a window, seconds.
        max_ages: Seconds after its birth at which an event expires.
        max_concurrents: Calls at once.
        outages: Lengths, seconds. Each is replayed by itself, in the span in which most events arrived.
        api: Returns the API for a replay, given ``outages``, a list of spans of POSIX seconds:
            ``partial(SimulatedApi, latency=(0.02, 0.2), error_rate=0.01, rate=50)``.
        lateness: Windows of event time that wait so many seconds for late events, as in `compact`.
        batch_timespan: Seconds that a batch waits for more (linger), as in `publish`.
        progress: Show a bar, where tqdm is installed.

    Returns:
        A table that shows itself, with ``.plot()``, ``.recommend(…)`` and ``.to_pandas()``.

    Exact:
        The operators are the real ones, with these differences. The sink takes a batch at once. No event is dropped for
        want of capacity: ``held`` is the capacity that is needed, read as windows close. Chance (of latencies, errors
        and waits) is that of one seed. Windows of processing time are aligned to the epoch; those of a running pipeline
        begin when it does.

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
    spans, ages = _durations("timespans", timespans), _durations("max_ages", max_ages)
    lengths = _durations("outages", outages) if outages else []
    linger = seconds("batch_timespan", batch_timespan, zero=True)
    late = None if lateness is None else seconds("lateness", lateness, zero=True)
    pools = sorted({count("max_concurrents", each) for each in max_concurrents})
    if not pools:
        raise ArgumentError("max_concurrents", max_concurrents, "one or more numbers")
    history = History(events, time_of(time_mapper))
    keys = {label: key_of(mapper, argument="key_mappers") for label, mapper in _labelled(key_mappers).items()}
    places = {length: history.busiest(length) for length in lengths}
    replays = [(), *([place] for place in places.values())]
    choices = list(product(ages, pools))
    rows: list[Row] = []
    with _bar(len(keys) * len(spans) * (1 + len(choices) * len(replays)), shown=progress) as step:
        for (label, key_mapper), timespan in product(keys.items(), spans):
            compaction = history.compacted(key_mapper, timespan, late)
            step()
            for max_age, pool in choices:
                replay = partial(simulate, compaction.windows, max_age=max_age, max_concurrent=pool, linger=linger)
                results: list[Result] = []
                for outage in replays:
                    results.append(replay(api(outages=outage)))
                    step()
                usual, *down = results
                # an event that expired was never published: no latency is long enough
                latencies = sorted(usual.latencies) + [inf] * usual.expired
                row = Row(
                    label,
                    timespan,
                    max_age,
                    pool,
                    received=len(history.events),
                    rejected=compaction.rejected,
                    distinct=compaction.distinct,
                    p50=percentile(latencies, 50),
                    p95=percentile(latencies, 95),
                    p99=percentile(latencies, 99),
                    calls=len(usual.calls),
                    peak=peak(usual.calls),
                    expired=usual.expired,
                    in_outage={length: each.expired for length, each in zip(lengths, down, strict=True)},
                    held=max(each.held for each in results),
                )
                rows.append(row)
    return Tuning(rows, places)


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Return the smallest value that so many percent of all do not exceed (nearest rank); None where it is infinite."""
    value = ordered[-(-len(ordered) * percent // 100) - 1] if ordered else inf
    return value if isfinite(value) else None


def _durations(argument: str, values: Sequence[Seconds]) -> list[float]:
    if not values:
        raise ArgumentError(argument, values, "one or more durations")
    return sorted({seconds(argument, value) for value in values})


def _labelled(mappers: KeyMapper | list[KeyMapper] | Mapping[str, KeyMapper]) -> Mapping[str, KeyMapper]:
    if isinstance(mappers, Mapping):
        pairs = list(mappers.items())
    else:
        pairs = [(_label(mapper), mapper) for mapper in (mappers if isinstance(mappers, list) else [mappers])]
    if not pairs or len(dict(pairs)) < len(pairs):
        raise ArgumentError("key_mappers", mappers, "one or more, each with a name of its own")
    return dict(pairs)


def _label(mapper: KeyMapper) -> str:
    if isinstance(mapper, str):
        return mapper
    return ", ".join(mapper) if isinstance(mapper, tuple) else getattr(mapper, "__name__", repr(mapper))


@contextmanager
def _bar(total: int, *, shown: bool) -> Generator[Callable[[], object]]:
    try:
        from tqdm.auto import tqdm  # noqa: PLC0415 - an extra
    except ImportError:
        yield lambda: None
        return
    with tqdm(total=total, desc="tune", unit=" replays", leave=False, disable=not shown) as bar:
        yield bar.update
