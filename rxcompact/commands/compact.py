"""rxcompact compact: JSON events in, one line for each distinct event of a window out."""

from __future__ import annotations

import argparse
import asyncio
import os
import stat
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from math import ceil, inf, isfinite
from pathlib import Path
from typing import Any

import reactivex as rx
from msgspec.structs import replace
from reactivex import operators as ops
from reactivex.subject import Subject

from rxcompact import operators as rxo
from rxcompact.clock import LoopScheduler
from rxcompact.commands import common
from rxcompact.commands.common import SIGNALLED, configure_log, duration, note, stop_signals, write_error
from rxcompact.contracts import UNBOUNDED, Demand, Sink, close
from rxcompact.dead_letters import DeadLetterRoute
from rxcompact.errors import ArgumentError, LateError, RxCompactError
from rxcompact.events import DeadLetter, Window
from rxcompact.mappers import ChunkMapper, Mapper
from rxcompact.operators.operator import registering
from rxcompact.sinks.encoding import window_lines
from rxcompact.sinks.ndjson import stdout_writer
from rxcompact.sources.ndjson import NdjsonSource

DESCRIPTION = """\
Read JSON events, and write each distinct one once per window of time.

Without --time, a window is of the time at which lines arrive: it closes by the clock while the input goes on.
With --time, events are replayed by that field, in buckets aligned to the epoch. Of files the same input gives the same
output; the clock of a pipe goes on, so that the windows of an input that pauses close.
"""
EPILOG = """\
durations: 10 (seconds), 0.5, 500ms, 10s, 5m, 1h

output, one JSON object a line:
  opened, closed         bounds of the window, POSIX seconds
  key                    the field's value, an array for several fields, null where missing
  count                  events of the window that had this key
  first_seen, last_seen  time of the earliest and the latest of them, POSIX seconds
  event                  the first of them (or the last, see --keep), as it came

The account goes to standard error, and so do the place and reason of the first line that is rejected: that it is no
JSON object, or has no time. Every option can be given by the environment: --timespan by RXCOMPACT_TIMESPAN.

examples:
  tail -f events.ndjson | rxcompact compact --key host,message --timespan 10
  rxcompact compact dns.ndjson.gz --key id.orig_h,query --timespan 1m --time ts --lateness 5

exit code:
  0    success
  1    every event was rejected, or none has a field that was named, or any line was bad and --strict was given, or
       dead letters could not be delivered
  2    wrong usage, a file that cannot be read, or output that cannot be written
  129, 130, 143  after SIGHUP, Ctrl-C, SIGTERM; what was held has been written
"""
PROGRESS = 0.5
"""Seconds between two progress lines."""
MANY_LATE = 0.01
"""Share of late events above which a warning is printed."""
IDLE = 2.0
"""Seconds of silence after which a pipe is idle: a shorter pause of what writes to it makes no event late."""
DRAIN = 10.0
"""Seconds for which dead letters are delivered after the end of the input."""
CLEAR = "\r\x1b[K"


def add_parser(commands: Any, description: str) -> argparse.ArgumentParser:
    """Add the command to the command line."""
    parser = common.add_parser(commands, "compact", description, DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("paths", nargs="*", default=["-"], metavar="PATH", help="files, gzip or not; - is standard input (default)")
    common.add_event_arguments(parser, "replay by this field: ISO 8601, or epoch s, ms, us, ns")
    add("--lateness", type=duration, metavar="T", help="with --time: wait so long for late events; inf: to the end")
    add("--keep", choices=["first", "last"], default="first", help="which event of a key to keep (default: first)")
    add("--count", type=int, metavar="N", help="close a window also at this many distinct keys")
    add("--strict", action="store_true", help="exit with 1 if any line was bad; a late one is not")
    add("--verbose", action="store_true", help="print place and reason of each line that is rejected")
    parser.set_defaults(run=lambda options: _run(parser, options))
    return parser


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.lateness is not None and options.time is None:
        parser.error("--lateness needs --time")
    configure_log(options)
    try:
        return asyncio.run(_Compaction(options).run())
    except BrokenPipeError:
        return 0  # its reader is gone
    except (ArgumentError, OSError) as error:
        parser.error(str(error))


def _is_file(path: str) -> bool:
    """Return False for a pipe, a socket, a terminal. What does not exist is reported when it is read."""
    with suppress(OSError, AttributeError):
        return stat.S_ISREG((os.fstat(sys.stdin.fileno()) if path == "-" else Path(path).stat()).st_mode)
    return True


def _first_time(time_mapper: Mapper, path: str) -> float:
    """Return the time that a file begins with; infinity for what is no file or has no time."""
    if path != "-" and _is_file(path):
        with suppress(Exception):  # what is wrong with it is reported when it is read
            for line in NdjsonSource(path).stream().pipe(ops.take(1)).run():
                with suppress(RxCompactError):
                    return time_mapper(line)  # type: ignore[no-any-return]
    return inf


class _Compaction:
    """One run of the command, and the account of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._error: Exception | None = None
        self._ended = asyncio.Event()
        self._stopped: Subject[None] = Subject()
        self._letters: _DeadLetters | None = None
        self._received = self._duplicates = self._distinct = 0
        self._rejected: Counter[str] = Counter()
        self._lateness = 0.0  # of the latest event
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison]
        self._next_progress = time.monotonic() + PROGRESS if self._is_terminal else inf
        self._progress = False  # whether it is shown
        paths = options.paths
        key_mapper, time_mapper = common.mappers(options)
        replay: dict[str, Any] = {}
        if time_mapper is not None:
            idle = inf if all(map(_is_file, paths)) else IDLE  # history has no idle time
            replay = {"time_mapper": time_mapper, "lateness": options.lateness or 0.0, "idle": idle}
            paths = sorted(paths, key=partial(_first_time, time_mapper)) if len(paths) > 1 else paths
        self._source = NdjsonSource(*paths, items=options.items)
        compact = rxo.compact(
            options.timespan,
            key_mapper=key_mapper,
            count=options.count,
            keep=options.keep,
            chunked=True,
            dead_letters=self._on_dead_letter,
            **replay,
        )
        self._compact = registering(compact, self._on_stage)
        self._write = stdout_writer()

    async def run(self) -> int:
        """Compact until the input ends or a signal comes; return the exit code."""
        loop = asyncio.get_running_loop()
        received: list[int] = []

        def stop(number: int) -> None:
            received.append(number)
            for each in numbers:
                loop.remove_signal_handler(each)  # a second one ends it at once
            self._stopped.on_next(None)

        numbers = stop_signals()
        for number in numbers:
            loop.add_signal_handler(number, stop, number)
        sink = common.dead_letter_sink(self._options.dead_letters)
        letters = self._letters = None if sink is None else _DeadLetters(sink)
        chunks = self._source.stream(letters or UNBOUNDED).pipe(ops.take_until(self._stopped))
        windows = chunks.pipe(ops.do_action(self._on_chunk), self._compact)
        windows.subscribe(self._on_window, self._fail, self._ended.set)
        await self._ended.wait()
        undelivered = 0 if letters is None else await letters.close()
        if isinstance(self._error, BrokenPipeError):
            raise self._error
        if undelivered:
            self._note(f"rxcompact: {undelivered} dead letters could not be delivered", "ERROR")
        self._report()
        if self._error is not None:
            if not isinstance(self._error, OSError | EOFError | ArithmeticError | ValueError):
                raise self._error
            note(f"rxcompact: {self._error}", "ERROR")
            return 2
        if received:
            return SIGNALLED + received[0]
        useless = self._received > 0 and not self._distinct
        bad = self._options.strict and self._rejected.total() > self._rejected["late"]
        return int(useless or bad or undelivered > 0 or bool(self._mapper.unknown))

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────────────

    def _on_stage(self, stage: Any) -> None:
        self._mapper: ChunkMapper = stage.mapper

    def _on_chunk(self, chunk: list[bytes]) -> None:
        self._received += len(chunk)
        if time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + PROGRESS
            write_error(CLEAR + self._account())
            self._progress = True

    def _on_window(self, window: Window) -> None:
        self._distinct += len(window)
        self._duplicates += window.received - len(window)
        self._note_unknown()
        if self._error is not None:
            return
        self._clear()
        try:
            self._write(window_lines(window))
        except Exception as error:  # noqa: BLE001 - raised in the end, where it stops the command
            self._fail(error)

    def _on_dead_letter(self, letter: DeadLetter) -> None:
        first = letter.reason != "late" and self._rejected.total() == self._rejected["late"]
        self._rejected[letter.reason] += 1
        if isinstance(letter.error, LateError):
            self._lateness = max(self._lateness, letter.error.late_by)
        shown = first or self._options.verbose
        if not shown and self._letters is None:
            return
        position = self._source.position
        number = position.number(letter.event)
        where = f"{position.path}:{number}" if number else position.path
        if self._letters is not None:
            self._letters.push(replace(letter, origin=where))
        if shown:
            more = "" if self._options.verbose else " (--verbose shows the others)"
            self._note(f"{where}: rejected: {letter.error}{more}", "WARNING")

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._ended.set()

    # ── what is reported ──────────────────────────────────────────────────────────────────────────────────────────

    def _report(self) -> None:
        self._note_unknown()
        late = self._rejected["late"]
        if late > MANY_LATE * self._received:
            why = f"{late / self._received:.0%} of the events came after their window had closed"
            self._note(f"rxcompact: warning: {why}; --lateness {self._by()} keeps them", "WARNING")
        unknown, missing = self._mapper.unknown, self._mapper.missing.items()
        self._note(self._account("".join(f", without {name} {n}" for name, n in missing if name not in unknown)))

    def _account(self, missing: str = "") -> str:
        late = self._rejected["late"]
        by = f" (by up to {self._by()} s; --lateness {self._by()} keeps them)" if late else ""
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(self._rejected.items()) if reason != "late")
        rejected = f"{self._rejected.total() - late} ({reasons})" if reasons else "0"
        ratio = self._duplicates / self._received if self._received else 0.0
        return (
            f"received {self._received}, duplicates {self._duplicates}, distinct {self._distinct}, late {late}{by}, "
            f"rejected {rejected}{missing}, ratio {ratio:.4f}"
        )

    def _by(self) -> str:
        """Return by how many seconds events were late, rounded up."""
        late = self._lateness
        return f"{ceil(late * 1000) / 1000:.3f}".rstrip("0").rstrip(".") if isfinite(late) else str(late)

    def _note_unknown(self) -> None:
        for text in self._mapper.new_unknown():
            self._note(f"rxcompact: {text}", "WARNING")

    def _note(self, text: str, level: str = "INFO") -> None:
        self._clear()
        note(text, level)

    def _clear(self) -> None:
        """Remove the progress line, so that a row does not follow it on the same line of a terminal."""
        if self._progress:
            write_error(CLEAR)
            self._progress = False


class _DeadLetters(Demand):
    """Delivers dead letters to a sink; the input waits while many of them wait."""

    limit = 10_000

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        scheduler = LoopScheduler(asyncio.get_running_loop())
        self._route = DeadLetterRoute(sink, flushes=rx.never(), register=lambda _: None, scheduler=scheduler)

    def push(self, letter: DeadLetter) -> None:
        self._route.push(letter, lambda: None)

    def capacity(self) -> int:
        return max(0, self.limit - len(self._route))

    async def wait(self) -> int:
        while not self.capacity():
            await asyncio.wait({self._route.ended}, timeout=0.05)
        return self.capacity()

    async def close(self) -> int:
        """Deliver those that wait; return how many could not be."""
        self._route.complete()
        await asyncio.wait({self._route.ended}, timeout=DRAIN)
        await close(self._sink)
        return self._route.lost + len(self._route)
