"""The least code that does what ``rxcompact compact FILE --key id --timespan 3600`` does, with good lines alone.

``python by_hand.py FILE``, or with a window for each hour of a field: ``python by_hand.py FILE ts``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

import msgspec

HOUR = 3600
encode_lines = msgspec.json.Encoder().encode_lines


def arrived(path: str) -> None:
    decode = msgspec.json.Decoder(msgspec.defstruct("Event", [("id", str)], gc=False)).decode
    table: dict[str, list[Any]] = {}
    now = time.time()
    with open(path, "rb") as file:  # noqa: PTH123
        for line in file:
            key = decode(line).id
            row = table.get(key)
            if row is None:
                table[key] = [line, 1, now, now]
            else:
                row[1] += 1
                row[3] = now
    write(now, time.time(), table)


def timed(path: str, name: str) -> None:
    fields: Any = [("id", str), ("time", float, msgspec.field(name=name))]
    decode = msgspec.json.Decoder(msgspec.defstruct("Event", fields, gc=False)).decode
    tables: dict[float, dict[str, list[Any]]] = {}
    with open(path, "rb") as file:  # noqa: PTH123
        for line in file:
            event = decode(line)
            key, at = event.id, event.time
            hour = at // HOUR
            if hour not in tables:
                for closed in sorted(tables):
                    write(closed * HOUR, (closed + 1) * HOUR, tables.pop(closed))
                tables[hour] = {}
            table = tables[hour]
            row = table.get(key)
            if row is None:
                table[key] = [line, 1, at, at]
            else:
                row[1] += 1
                if at > row[3]:
                    row[3] = at
                elif at < row[2]:
                    row[2] = at
    for closed in sorted(tables):
        write(closed * HOUR, (closed + 1) * HOUR, tables.pop(closed))


def write(opened: float, closed: float, table: dict[str, list[Any]]) -> None:
    rows: list[Any] = []
    for key, (line, count, first, last) in table.items():
        times = {"first_seen": first, "last_seen": last}
        head = {"opened": opened, "closed": closed, "key": key, "count": count}
        rows.append({**head, **times, "event": msgspec.Raw(line.rstrip())})
        if len(rows) == 1000:  # noqa: PLR2004
            flush(rows)
            rows = []
    flush(rows)


def flush(rows: Iterable[Any]) -> None:
    sys.stdout.buffer.write(encode_lines(rows))


if __name__ == "__main__":
    path, *names = sys.argv[1:]
    timed(path, *names) if names else arrived(path)
