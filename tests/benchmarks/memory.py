"""Row 9, memory: peak less base of one window, each in a process of its own.

``python memory.py SYSTEM EVENTS KEYS``: writes the bytes.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import Event, key_of

STEP = 7919
"""Prime: going through the keys by it, all of them come up, in no order."""


def chunks(events: int, keys: int) -> Iterator[list[Event]]:
    """New objects all, as a decoder makes them."""
    for start in range(0, events, 1000):
        yield [{"id": f"key-{n * STEP % keys}", "n": n} for n in range(start, start + 1000)]


def plain_dict(events: int, keys: int) -> Any:
    first: dict[str, Event] = {}
    for chunk in chunks(events, keys):
        deque(map(first.setdefault, map(key_of, chunk), chunk), maxlen=0)
    return first


def compact(events: int, keys: int, fields: tuple[Any, ...] = ("first_seen",)) -> Any:
    from reactivex.subject import Subject

    from rxcompact import operators as rxo

    source: Subject[list[Event]] = Subject()
    windows: list[Any] = []
    source.pipe(rxo.compact(1e9, key_mapper="id", chunked=True, fields=fields)).subscribe(windows.append)
    for chunk in chunks(events, keys):
        source.on_next(chunk)
    source.on_completed()
    return windows[0]


def compact_counting(events: int, keys: int) -> Any:
    return compact(events, keys, ("count", "first_seen", "last_seen"))


def rxpy_buffer(events: int, keys: int) -> Any:
    import reactivex as rx
    from peers import distinct
    from reactivex import operators as ops

    found: list[Any] = []
    source = rx.from_iterable(event for chunk in chunks(events, keys) for event in chunk)
    source.pipe(ops.buffer_with_count(events), ops.map(distinct)).subscribe(found.append)
    return found[0]


SYSTEMS = {
    "plain dict": plain_dict,
    "compact, first_seen": compact,
    "compact, count and times": compact_counting,
    "RxPY buffer, a dict a buffer": rxpy_buffer,
}


def measured(name: str, events: int, keys: int) -> int:
    """Return the peak above the base, bytes, of a window of so many events."""
    arguments = [sys.executable, __file__, name, str(events), str(keys)]
    return int(subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=600).stdout)


def _kilobytes(what: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0])


def main() -> None:
    name, events, keys = sys.argv[1], *map(int, sys.argv[2:])
    work = SYSTEMS[name]
    work(2000, 10)  # what is imported and made once is no part of it
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    base = _kilobytes("VmRSS")
    held = work(events, keys)
    if len(held) != min(events, keys):
        raise AssertionError(f"{name}: {len(held)} held of {keys}")
    print((_kilobytes("VmHWM") - base) * 1024)


if __name__ == "__main__":
    main()
