"""rxcompact compact: JSON events in, one line for each distinct event of a window out."""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import stat
import sys
import time
from collections import Counter
from contextlib import suppress
from math import ceil, isfinite
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from reactivex import operators as ops
from reactivex.scheduler import VirtualTimeScheduler
from reactivex.subject import Subject

from rxcompact import operators as rxo
from rxcompact.commands.common import SIGNALLED, add_event_arguments, duration, mappers, note, stop_signals
from rxcompact.errors import ArgumentError, LateError, RxCompactError
from rxcompact.events import DeadLetter, Window
from rxcompact.mappers import Mapper
from rxcompact.operators.operator import registering
from rxcompact.reader.redelivery import events_of
from rxcompact.sinks.encoding import encoder, window_lines
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
  1    every event was rejected, or none has a field that was named, or any line was bad and --strict was given
  2    wrong usage, a file that cannot be read, or output that cannot be written
  129, 130, 143  after SIGHUP, Ctrl-C, SIGTERM; what was held has been written
"""
PROGRESS = 0.5
"""Seconds between two progress lines."""
MANY_LATE = 0.01
"""Share of late events above which a warning is printed."""
CLEAR = "\r\x1b[K"


def add_parser(commands: Any, description: str) -> argparse.ArgumentParser:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "compact",
        help=description,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("paths", nargs="*", default=["-"], metavar="PATH", help="files, gzip or not; - is standard input (default)")
    add_event_arguments(parser)
    add("--timespan", required=True, type=duration, metavar="T", help="length of a window")
    add("--time", metavar="FIELD", help="replay by this field: ISO 8601, or epoch s, ms, us, ns")
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
    try:
        _check_readable(options.paths)
        return _Compaction(options).run()
    except (ArgumentError, OSError) as error:
        parser.error(str(error))


def _check_readable(paths: list[str]) -> None:
    for path in paths:
        if path != "-":
            if Path(path).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if not os.access(path, os.R_OK):
                number = errno.EACCES if Path(path).exists() else errno.ENOENT
                raise OSError(number, os.strerror(number), path)


def _is_live(paths: list[str]) -> bool:
    """Return whether any input is no file: a pipe, a socket, a terminal."""
    for path in paths:
        with suppress(OSError, AttributeError):
            status = os.fstat(sys.stdin.fileno()) if path == "-" else Path(path).stat()
            if not stat.S_ISREG(status.st_mode):
                return True
    return False


def _by_first_time(paths: list[str], time_mapper: Mapper) -> list[str]:
    """Return files in the order of the times that they begin with; what is no file, or has no time, comes last."""

    def first_time(path: str) -> float:
        if path != "-" and Path(path).is_file():
            with suppress(Exception):  # what is wrong with it is reported when it is read
                for line in NdjsonSource(path).stream().pipe(ops.take(1)).run():
                    with suppress(RxCompactError):
                        return time_mapper(line)  # type: ignore[no-any-return]
        return float("inf")

    return sorted(paths, key=first_time)


class _Compaction:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._account = _Account()
        self._flushes: Subject[None] = Subject()
        self._error: Exception | None = None
        self._reported: set[str] = set()  # fields that no event had
        self._ended = False
        self._on_ended = asyncio.Event()
        paths = options.paths
        replay: dict[str, Any] = {}
        key_mapper, time_mapper = mappers(options)
        if time_mapper is not None:
            replay |= {"time_mapper": time_mapper, "lateness": options.lateness or 0.0}
            if not _is_live(paths):
                # a clock that stands still: history has no idle time
                replay["scheduler"] = VirtualTimeScheduler(time.time())
            if len(paths) > 1:
                paths = _by_first_time(paths, time_mapper)
        self._source = NdjsonSource(*paths, items=options.items)
        self._dead_letters = Path(options.dead_letters).open("ab") if options.dead_letters else None  # noqa: SIM115
        self._holders: list[Any] = []
        compact = rxo.compact(
            options.timespan,
            key_mapper=key_mapper,
            count=options.count,
            keep=options.keep,
            chunked=True,
            flushes=self._flushes,
            dead_letters=self._dead_letter,
            **replay,
        )
        self._compact = registering(compact, self._holders.append)

    def run(self) -> int:
        try:
            self._write = stdout_writer()
            number = asyncio.run(self._until_ended())
            if number:
                self._flushes.on_next(None)
        except BrokenPipeError:
            return 0
        if self._dead_letters is not None:
            self._dead_letters.close()
        if isinstance(self._error, BrokenPipeError):
            return 0  # its reader is gone
        self._report_unknown()
        self._account.report(final=True)
        if self._error is not None:
            if not isinstance(self._error, OSError | EOFError | ArithmeticError | ValueError):
                raise self._error
            note(f"rxcompact: {self._error}")
            return 2
        if number:
            return SIGNALLED + number
        return int(
            self._account.is_useless or bool(self._unknown()) or (self._options.strict and self._account.bad > 0)
        )

    async def _until_ended(self) -> int:
        """Compact until the input ends or a signal comes; return the signal's number, or 0."""
        loop = asyncio.get_running_loop()
        received: list[int] = []

        def stop(number: int) -> None:
            received.append(number)
            self._on_ended.set()

        for number in stop_signals():
            loop.add_signal_handler(number, stop, number)
        windows = self._source.stream().pipe(ops.map(events_of), ops.do_action(self._account.add), self._compact)
        windows.subscribe(self._on_window, self._fail, self._on_ended.set)
        await self._on_ended.wait()
        return received[0] if received else 0

    def _unknown(self) -> tuple[str, ...]:
        return tuple(name for holder in self._holders for name in holder.mapper.unknown)

    def _report_unknown(self) -> None:
        for name in set(self._unknown()) - self._reported:
            self._reported.add(name)
            self._account.print(f"rxcompact: none of the events has the field {name!r}, so far: is the name right?")

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._on_ended.set()

    def _on_window(self, window: Window) -> None:
        self._account.window(window)
        self._report_unknown()
        if self._error is not None:
            return
        self._account.clear()
        try:
            self._write(window_lines(window))
        except Exception as error:  # noqa: BLE001 - raised in the end, where it stops the command
            self._fail(error)

    def _dead_letter(self, letter: DeadLetter) -> None:
        first = self._account.reject(letter)
        if not (self._options.verbose or first or self._dead_letters):
            return
        position = self._source.position
        number = position.number(letter.event)
        where = f"{position.path}:{number}" if number else position.path
        if self._dead_letters is not None:
            self._dead_letters.write(encoder.encode(replace(letter, origin=where).to_json()) + b"\n")
        if self._options.verbose or first:
            more = "" if self._options.verbose else " (--verbose shows the others)"
            self._account.print(f"{where}: rejected: {letter.error}{more}")


class _Account:
    """What came in, and what became of it."""

    def __init__(self) -> None:
        self.received = 0
        self.duplicates = 0
        self.distinct = 0
        self.rejected: Counter[str] = Counter()
        self._lateness = 0.0
        self._next = time.monotonic() + PROGRESS
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison]
        self._progress = False

    @property
    def bad(self) -> int:
        """Lines that were rejected, but for the late ones."""
        return self.rejected.total() - self.rejected["late"]

    @property
    def is_useless(self) -> bool:
        """Whether there was input, and all of it was rejected."""
        return self.received > 0 and not self.distinct

    def add(self, chunk: list[bytes]) -> None:
        self.received += len(chunk)
        if self._is_terminal and time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS
            self.report(final=False)

    def window(self, window: Window) -> None:
        self.distinct += len(window)
        self.duplicates += window.received - len(window)

    def reject(self, letter: DeadLetter) -> bool:
        """Count a letter; return whether it is the first that is not late."""
        self.rejected[letter.reason] += 1
        if isinstance(letter.error, LateError):
            self._lateness = max(self._lateness, letter.error.late_by)
            return False
        return self.bad == 1

    def report(self, *, final: bool) -> None:
        late = self.rejected["late"]
        reasons = {reason: count for reason, count in sorted(self.rejected.items()) if reason != "late"}
        why = f" ({', '.join(f'{reason} {count}' for reason, count in reasons.items())})" if reasons else ""
        ratio = self.duplicates / self.received if self.received else 0.0
        by = _seconds(self._lateness)
        if final and late > MANY_LATE * self.received:
            self.print(
                f"rxcompact: warning: {late / self.received:.0%} of the events came after their window had closed; "
                f"--lateness {by} keeps them"
            )
        text = (
            f"received {self.received}, duplicates {self.duplicates}, distinct {self.distinct}, late {late}"
            + (f" (by up to {by} s; --lateness {by} keeps them)" if late else "")
            + f", rejected {self.bad}{why}, ratio {ratio:.4f}"
        )
        if final:
            self.print(text)
        else:
            note(CLEAR + text, end="")
            self._progress = True

    def clear(self) -> None:
        """Remove the progress line, so that a row does not follow it on the same line of a terminal."""
        if self._progress:
            note(CLEAR, end="")
            self._progress = False

    def print(self, text: str) -> None:
        self.clear()
        note(text)


def _seconds(value: float) -> str:
    return f"{ceil(value * 1000) / 1000:.3f}".rstrip("0").rstrip(".") if isfinite(value) else str(value)
