"""Data frames and Arrow tables: their rows as events, and windows as columns that they take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rxcompact.events import Window

MICRO = 1_000_000


def rows(data: Any) -> Iterator[dict[str, Any]] | None:
    """Return the rows of a pandas or polars frame, a LazyFrame, an Arrow table, batch or reader, or a DuckDB relation.

    They are dicts; for anything else None is returned. Times of Arrow are POSIX seconds, which is 13 times as fast as
    having it make a zoned ``datetime`` of each.
    """
    if hasattr(data, "fetch_arrow_reader"):  # a relation of DuckDB
        data = data.fetch_arrow_reader()
    if hasattr(data, "collect") and hasattr(data, "collect_schema"):  # a LazyFrame
        data = data.collect()
    if hasattr(data, "iter_rows"):  # polars
        return data.iter_rows(named=True)  # type: ignore[no-any-return]
    if hasattr(data, "itertuples") and hasattr(data, "columns"):  # pandas
        names = [str(name) for name in data.columns]
        return (dict(zip(names, row, strict=True)) for row in data.itertuples(index=False, name=None))
    if hasattr(data, "to_batches"):
        data = data.to_batches()
    elif hasattr(data, "read_next_batch"):
        data = iter(data)
    elif hasattr(data, "to_pylist") and hasattr(data, "schema"):
        data = [data]
    else:
        return None
    return (row for batch in data for row in _arrow_rows(batch))


def _arrow_rows(batch: Any) -> Iterator[dict[str, Any]]:
    def values(column: Any) -> list[Any]:
        if not str(column.type).startswith("timestamp"):
            return column.to_pylist()  # type: ignore[no-any-return]
        stamps = column.cast("timestamp[us]", safe=False).cast("int64").to_pylist()
        return [None if stamp is None else stamp / MICRO for stamp in stamps]

    for row in zip(*map(values, batch.columns), strict=True):
        yield dict(zip(batch.schema.names, row, strict=True))


def columns(windows: Window | Iterable[Window]) -> dict[str, list[Any]]:
    """Return the distinct events of windows as columns, which pandas, polars, Arrow and marimo take.

    The bounds of the window, the key (``key_0``, ``key_1``, … where it is a tuple), count and times; and the fields of
    events that are mappings, else ``event``. A field that an event has not is None.

    >>> from rxcompact import Bounds, Compacted
    >>> columns(Window(Bounds(0.0, 10.0, "time"), 2, [Compacted("a", {"n": 1}, 2, 1.0, 3.0)]))
    {'opened': [0.0], 'closed': [10.0], 'key': ['a'], 'count': [2], 'first_seen': [1.0], 'last_seen': [3.0], 'n': [1]}
    """
    flat = list[dict[str, Any]]()
    for window in [windows] if isinstance(windows, Window) else windows:
        for key, event, count, first_seen, last_seen in window:
            row: dict[str, Any] = {"opened": window.opened, "closed": window.closed}
            row |= {f"key_{at}": part for at, part in enumerate(key)} if type(key) is tuple else {"key": key}
            row |= {"count": count, "first_seen": first_seen, "last_seen": last_seen}
            flat.append(row | (dict(event) if isinstance(event, Mapping) else {"event": event}))
    names = dict.fromkeys(name for row in flat for name in row)
    return {name: [row.get(name) for row in flat] for name in names}
