"""Row 5: bytes of NDJSON to distinct decoded events."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import floor
import ours
from lines import LINES, lines
from measuring import Case, Close, Group, Target, scratch
from reactivex import operators as ops

from rxcompact import operators as rxo
from rxcompact.fields import decode
from rxcompact.sources.ndjson import NdjsonSource


def eager(close: Close, path: Path, loads: Any) -> int:
    """Decode every line, then a dict."""
    first: dict[str, Any] = {}
    with path.open("rb") as file:
        for raw in file:
            event = loads(raw)
            first.setdefault(event["id"], event)
    return close(first.values())


def lazy(close: Close, path: Path) -> int:
    """Read the key alone, keep raw lines, decode the survivors."""
    closed: list[int] = []
    NdjsonSource(path).stream().pipe(
        rxo.compact(ours.FOREVER, key_mapper="id", chunked=True, fields=("first_seen",)),
        ops.map(lambda window: [decode(compacted.event) for compacted in window]),
    ).subscribe(lambda events: closed.append(close(events)))
    return sum(closed)


def by_hand(close: Close, path: Path) -> int:
    """What decoding the key alone can bring: a loop that checks nothing, and takes its lines to be good."""
    import msgspec
    import orjson

    key = msgspec.defstruct("Key", [("id", str)], gc=False)
    decode_lines = msgspec.json.Decoder(key).decode_lines
    of = attrgetter("id")
    first: dict[str, bytes] = {}
    rest = b""
    with path.open("rb") as file:
        while block := file.read(1 << 18):
            block, _, rest = (rest + block).rpartition(b"\n")
            deque(map(first.setdefault, map(of, decode_lines(block)), block.split(b"\n")), maxlen=0)
    return close([orjson.loads(line) for line in first.values()])


def by_hand_checked(close: Close, path: Path) -> int:
    """The same, with what the source promises: each line is looked at, and so is what a key may be."""
    import msgspec
    import orjson

    key = msgspec.defstruct("Key", [("id", floor.Text | floor.Integer | None, None)], gc=False)
    decode_lines = msgspec.json.Decoder(key).decode_lines
    of = attrgetter("id")
    first: dict[Any, bytes] = {}
    rest = b""
    with path.open("rb") as file:
        while block := file.read(floor.BLOCK):
            text = rest + block
            stop = text.rfind(b"\n") + 1
            text, rest = text[:stop], text[stop:]
            lines = text.split(b"\n")
            lines.pop()
            if not (text.isascii() and floor.are_objects(text, lines)):
                raise ValueError("they are to be looked at one by one")
            deque(map(first.setdefault, map(of, decode_lines(text)), lines), maxlen=0)
    return close([orjson.loads(line) for line in first.values()])


def decoding(events: int) -> Group:
    """Row 5."""
    import msgspec
    import orjson

    path = Path(scratch().name) / "events.ndjson"
    raw = lines()
    path.write_bytes(b"\n".join(raw) + b"\n")
    kept: dict[str, int] = {}
    for each in raw:
        event = json.loads(each)
        kept.setdefault(event["id"], event["n"] + 1)
    times = max(1, events // LINES)

    def case(name: str, read: Callable[[Close, Path], int]) -> Case:
        return Case(
            name,
            lambda close: sum(read(close, path) for _ in range(times)),
            times * LINES,
            times * sum(kept.values()),
        )

    ours_, reference = "NdjsonSource, compact, survivors decoded", "orjson every line, then a dict"
    hand, checked = "key alone by hand, nothing checked", "key alone by hand, lines and keys checked"
    cases = [
        case(reference, partial(eager, loads=orjson.loads)),
        case(ours_, lazy),
        case(hand, by_hand),
        case(checked, by_hand_checked),
        case("msgspec every line, then a dict", partial(eager, loads=msgspec.json.decode)),
        case("json every line, then a dict", partial(eager, loads=json.loads)),
    ]
    return Group(
        "NDJSON to distinct",
        cases,
        [Target("5", ours_, hand, 1.3), Target("5 floor", ours_, checked, 1.15), Target("5", ours_, reference, 1.0)],
    )
