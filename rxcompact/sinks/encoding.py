"""Events as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import msgspec

from rxcompact.clock import Seconds, seconds
from rxcompact.errors import PermanentError
from rxcompact.events import Batch, Bounds, Compacted, DeadLetter, Window
from rxcompact.fields import members
from rxcompact.keys import encoder, json_value

ROWS = 1000  # of a window that are encoded at once


def json_object(compacted: Compacted) -> dict[str, Any]:
    """Return an event as a JSON object; a raw line is embedded as it is, a dead letter as by `DeadLetter.to_json`."""
    event = compacted.event
    if isinstance(event, DeadLetter):
        return event.to_json()
    return {
        "key": json_value(compacted.key),
        "count": compacted.count,
        "first_seen": compacted.first_seen,
        "last_seen": compacted.last_seen,
        "event": _in_a_line(event),
    }


def _in_a_line(event: Any) -> Any:
    # a newline between JSON tokens is white space
    return msgspec.Raw(event.replace(b"\n", b" ")) if isinstance(event, bytes) else event


def encoded(
    batch: Sequence[Compacted], to_json: Callable[[Compacted], Any], encode: Callable[[list[Any]], bytes]
) -> tuple[bytes, dict[int, BaseException]]:
    """Return a batch as bytes, and the error of each position that has no JSON form."""
    with suppress(Exception):
        return encode(list(map(to_json, batch))), {}
    good: list[Any] = []
    failed: dict[int, BaseException] = {}
    for position, compacted in enumerate(batch):
        if why := _why_not(compacted, to_json):
            fields = compacted.event.items() if isinstance(compacted.event, Mapping) else ()
            culprit = next((f"field {name!r}: " for name, value in fields if _why_not(value)), "")
            failed[position] = PermanentError(culprit + why)
        else:
            good.append(to_json(compacted))
    return encode(good), failed


def _why_not(value: Any, to_json: Callable[[Any], Any] = lambda value: value) -> str:
    """Return why a value has no JSON form; nothing where it has one."""
    try:
        encoder.encode(to_json(value))
    except Exception as error:  # noqa: BLE001 - of one event; the others go on
        # the text of others may hold parts of the event
        return str(error) if isinstance(error, TypeError) else f"no JSON form: {type(error).__name__}"
    return ""


def flat_object(compacted: Compacted) -> dict[str, Any]:
    """Return an event's own fields, then its count and times, for tables; a field of the event keeps its name."""
    own = members(compacted.event)
    if not isinstance(own, Mapping):
        raise TypeError(f"{type(own).__qualname__} has no fields")
    return {
        "count": compacted.count,
        "first_seen": compacted.first_seen,
        "last_seen": compacted.last_seen,
        **own,
    }


def event_id(compacted: Compacted, timespan: Seconds | None = None) -> str:
    """Return what is the same in every process for the same key and birth, whatever else was merged with it.

    Args:
        compacted: The event; by arrival every delivery has another birth.
        timespan: Of two births in the same bucket of this many seconds, aligned to the epoch, make one.
    """
    born = compacted.first_seen
    if timespan is not None and born is not None:
        born = born // seconds("timespan", timespan)
    return Batch((Compacted(compacted.key, None, None, born),)).idempotency_key


class _Row(msgspec.Struct, gc=False):
    opened: float
    closed: float
    leading: bool | msgspec.UnsetType
    key: Any
    count: int | None
    first_seen: float | None
    last_seen: float | None
    event: Any


def window_lines(window: Window) -> Iterator[bytes]:
    """Yield a line for each distinct event of a window, with the bounds of its window; a first event has a mark."""
    mark = True if window.trigger == "leading" else msgspec.UNSET
    events = iter(window)
    while some := list(islice(events, ROWS)):
        yield encoder.encode_lines([_row(each, each.window or window.bounds, mark) for each in some])


def _row(of: Compacted, bounds: Bounds, mark: bool | msgspec.UnsetType) -> _Row:
    key, event = json_value(of.key), _in_a_line(of.event)
    return _Row(bounds.opened, bounds.closed, mark, key, of.count, of.first_seen, of.last_seen, event)
