"""Others on the same work: first event per key, in windows of so many events. Who is not installed is left out."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import reactivex as rx
from measuring import WINDOW, Case, Close, Event, Spent, checksum, chunks_of, expected, key_of, scratch
from reactivex import operators as ops

HERE = Path(__file__).parent
Run = Callable[..., int | Spent]


def distinct(events: list[Event]) -> list[Event]:
    """Deduplicate a full buffer, in C."""
    # backwards, so that the first one of a key stays
    return list({key_of(event): event for event in reversed(events)}.values())


def rxpy_buffer_and_dict(close: Close, events: list[Event], window: int = WINDOW) -> int:
    closed: list[int] = []
    rx.from_iterable(events).pipe(ops.buffer_with_count(window), ops.map(distinct)).subscribe(
        lambda kept: closed.append(close(kept))
    )
    return sum(closed)


def rxpy_windows_and_distinct(close: Close, events: list[Event], window: int) -> int:
    closed: list[int] = []
    rx.from_iterable(events).pipe(
        ops.window_with_count(window),
        ops.flat_map(lambda part: part.pipe(ops.distinct(key_of), ops.to_list())),
    ).subscribe(lambda kept: closed.append(close(kept)))
    return sum(closed)


def asyncio_queue(close: Close, events: list[Event], window: int = WINDOW) -> int:
    async def main() -> int:
        queue: asyncio.Queue[Event | None] = asyncio.Queue(1000)

        async def produce() -> None:
            for event in events:
                await queue.put(event)
            await queue.put(None)

        producing = asyncio.create_task(produce())
        closed, received = 0, 0
        first: dict[str, Event] = {}
        while (event := await queue.get()) is not None:
            first.setdefault(key_of(event), event)
            received += 1
            if received == window:
                closed += close(first.values())
                first, received = {}, 0
        await producing
        return closed + (close(first.values()) if first else 0)

    return asyncio.run(main())


def streamable(close: Close, events: list[Event], window: int = WINDOW) -> int:
    from streamable import stream

    return sum(close(distinct(group)) for group in stream(events).group(window))


def aiostream(close: Close, events: list[Event]) -> int:
    from aiostream import pipe, stream

    async def main() -> int:
        closed = 0
        async with (stream.iterate(events) | pipe.chunks(WINDOW) | pipe.map(distinct)).stream() as streamer:
            async for kept in streamer:
                closed += close(kept)
        return closed

    return asyncio.run(main())


def streamz(close: Close, events: list[Event], window: int = WINDOW) -> int:
    from streamz import Stream

    async def main() -> int:
        closed: list[int] = []
        source = Stream(asynchronous=True)  # otherwise each event goes to a loop on another thread, and is waited for
        source.partition(window).map(distinct).sink(lambda kept: closed.append(close(kept)))
        for event in events:
            await source.emit(event)
        return sum(closed)

    return asyncio.run(main())


def csp_chunks(close: Close, events: list[Event]) -> Spent:
    from csp_peer import run_chunks

    return run_chunks(close, chunks_of(events, 1000))


def csp_events(close: Close, events: list[Event], window: int = WINDOW) -> Spent:
    from csp_peer import run_events

    return run_events(close, events, window)


def duckdb(close: Close, events: list[Event], window: int) -> int:
    """A table of Arrow a window, which DuckDB groups by key."""
    import duckdb
    import pyarrow as pa

    closed = 0
    for start in range(0, len(events), window):
        part = pa.Table.from_pylist(events[start : start + window])  # noqa: F841 - DuckDB finds it by its name
        closed += close(duckdb.sql("select id, min(n) from part group by id").fetchall())
    return closed


@cache
def go_program() -> Path | None:
    """The Go peer, built; None where there is no compiler."""
    if which("go") is None:
        return None
    program = Path(scratch().name) / "peer"
    subprocess.run(["go", "build", "-o", program, HERE / "peer.go"], check=True, timeout=120)
    return program


def go(close: Close, events: list[Event], mode: str, window: int = WINDOW) -> Spent:
    """Run the Go peer, which measures itself: it is handed the keys, and an event's number is its line."""
    result = subprocess.run(
        [str(go_program()), mode, str(window)],
        input="\n".join(map(key_of, events)),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    cpu, wall, kept, total = result.stdout.split()
    return Spent(float(cpu), float(wall), int(total if close is checksum else kept))


PEERS: dict[str, tuple[str | None, Run, float]] = {
    "streamable group": ("streamable", streamable, 1),
    "csp, chunks of 1,000": ("csp", csp_chunks, 1),
    "csp, an event at a time": ("csp", csp_events, 0.5),
    "asyncio queue": (None, asyncio_queue, 0.5),
    "RxPY buffer, a dict a buffer": (None, rxpy_buffer_and_dict, 0.5),
    "aiostream chunks": ("aiostream", aiostream, 0.2),
    "streamz partition": ("streamz", streamz, 0.2),
}
"""The module each needs, the work, and its share of the events: the slow ones get fewer."""


def peers(events: list[Event], keep: set[str] | None = None) -> list[Case]:
    """Those that can be imported here."""
    cases: list[Case] = []
    for name, (module, run, share) in PEERS.items():
        if module is None or find_spec(module) is not None:
            cases.append(_case(name, run, events[: max(WINDOW, int(len(events) * share))]))
    few = events[:5000]
    cases.append(
        Case(
            "RxPY windows of 1,000 and distinct",
            lambda close: rxpy_windows_and_distinct(close, few, 1000),
            len(few),
            expected(few, 1000),
        )
    )
    if go_program() is not None:
        cases += [
            _case("Go, a loop over a map", lambda close, part: go(close, part, "map"), events),
            _case("Go, channels and select", lambda close, part: go(close, part, "select"), events),
        ]
    return [case for case in cases if keep is None or case.name in keep]


def _case(name: str, run: Run, part: list[Event]) -> Case:
    return Case(name, lambda close: run(close, part), len(part), expected(part))
