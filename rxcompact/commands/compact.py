"""rxcompact compact: NDJSON in, one line for each distinct event of a window out."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections import Counter
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from reactivex import Observable
from reactivex.scheduler import VirtualTimeScheduler
from reactivex.subject import Subject

from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError, DecodeError
from rxcompact.events import DeadLetter, Window
from rxcompact.fields import JsonKey, JsonTime, decode
from rxcompact.sinks.ndjson import window_lines
from rxcompact.sources import NdjsonSource

DESCRIPTION = """\
Read JSON objects, one a line, and write each distinct one once per window of time.

Without --time, windows are of the time at which lines arrive: they close by the clock while the input goes on.
With --time, events are replayed by that field, in buckets aligned to the epoch; same input, same output.
"""
EPILOG = """\
output, one JSON object a line:
  opened, closed         bounds of the window, POSIX seconds
  key                    the field's value, an array for several fields, null where missing
  count                  events of the window that had this key
  first_seen, last_seen  time of the earliest and the latest of them, POSIX seconds
  event                  the first of them (or the last, see --keep), as it came

The account goes to standard error. A line that is no JSON object, or has no time, is set aside and counted.

examples:
  tail -f events.ndjson | rxcompact compact --key host,message --timespan 10
  rxcompact compact dns.ndjson.gz --key id.orig_h,query --timespan 60 --time ts --lateness 5

exit code: 0; 1 if lines were set aside and --strict was given; 2 for wrong usage or a file that cannot be read;
130 after Ctrl-C, when what was held has been written
"""
PROGRESS = 0.5
"""Seconds between two progress lines."""


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "compact",
        help="compact NDJSON from files or standard input",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("paths", nargs="*", default=["-"], metavar="PATH", help="files, gzip or not; - is standard input (default)")
    add(
        "--key", metavar="FIELD[,FIELD…]", help="what makes events equal; a.b reaches into objects (default: all of it)"
    )
    add("--timespan", required=True, type=float, metavar="S", help="length of a window, seconds")
    add("--time", metavar="FIELD", help="replay by this field: ISO 8601, or epoch s, ms, µs, ns")
    add("--lateness", type=float, metavar="S", help="with --time: wait this long for stragglers, seconds (default: 0)")
    add("--timezone", type=_timezone, default=UTC, metavar="ZONE", help="of times without an offset (default: UTC)")
    add("--keep", choices=["first", "last"], default="first", help="which event of a key to keep (default: first)")
    add("--count", type=int, metavar="N", help="close a window also at this many distinct keys")
    add("--strict", action="store_true", help="exit with 1 if any line was set aside")
    add("--verbose", action="store_true", help="say of each line that is set aside where it is and why")
    parser.set_defaults(run=lambda options: _run(parser, options))


def _timezone(name: str) -> tzinfo:
    try:
        if name[:1] in "+-":
            return datetime.fromisoformat(f"1970-01-01T00:00:00{name}").tzinfo or UTC
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise argparse.ArgumentTypeError(f"not a time zone: {name!r} (Europe/Vienna, +01:00, …)") from None


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.lateness is not None and options.time is None:
        parser.error("--lateness needs --time")
    try:
        return _Compaction(options).run()
    except ArgumentError as error:
        parser.error(str(error))


class _Compaction:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._source = NdjsonSource(*options.paths)
        self._account = _Account()
        self._flushes: Subject[None] = Subject()
        self._error: Exception | None = None
        self._ended: asyncio.Event | None = None
        self._unread = False
        names = [name for name in (options.key or "").split(",") if name]
        replay: dict[str, Any] = {}
        if options.time is not None:
            replay = {
                "time_mapper": JsonTime(options.time, timezone=options.timezone),
                "lateness": options.lateness or 0.0,
                # a clock that stands still: history has no idle time
                "scheduler": VirtualTimeScheduler(time.time()),
            }
        self._compact = rxo.compact(
            options.timespan,
            key_mapper=JsonKey(*names),
            count=options.count,
            keep=options.keep,
            chunked=True,
            flushes=self._flushes,
            dead_letters=self._set_aside,
            **replay,
        )

    def run(self) -> int:
        code = 0
        try:
            if self._options.time is None:
                asyncio.run(self._live())
            else:
                self._windows().subscribe(self._write, self._fail)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is held is soon written
            self._flushes.on_next(None)
            code = 130
        if self._unread:
            return 0
        self._account.report(final=True)
        if self._error is not None:
            if not isinstance(self._error, OSError | EOFError | ArithmeticError | ValueError):
                raise self._error
            print(f"rxcompact: {self._error}", file=sys.stderr)
            return 2
        return code or int(self._options.strict and self._account.set_aside > 0)

    def _windows(self) -> Observable[Window]:
        return self._source.stream().pipe(self._compact)

    async def _live(self) -> None:
        ended = self._ended = asyncio.Event()

        def fail(error: Exception) -> None:
            self._fail(error)
            ended.set()

        self._windows().subscribe(self._write, fail, ended.set)
        await ended.wait()

    def _fail(self, error: Exception) -> None:
        self._error = error

    def _write(self, window: Window) -> None:
        if self._unread:
            return
        good = [compacted for compacted in window if self._is_sound(compacted.event)]
        self._account.window(window.received, len(good), len(window) - len(good))
        if len(good) < len(window):
            window = window.having(good)
        try:
            sys.stdout.buffer.write(window_lines(window))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # nobody reads on; nor shall the interpreter try to write what is left when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._unread = True
            if self._ended is None:
                raise SystemExit(0) from None
            self._ended.set()

    def _is_sound(self, line: bytes) -> bool:
        """Look also at what the key alone did not show: a number that fits no double."""
        try:
            decode(line)
        except DecodeError as error:
            self._say(line, str(error))
            return False
        return True

    def _set_aside(self, letter: DeadLetter) -> None:
        self._account.rejected[letter.reason] += 1
        self._say(letter.event, str(letter.error))

    def _say(self, line: bytes, why: str) -> None:
        if self._options.verbose:
            position = self._source.position
            number = position.number(line)
            where = f"{position.path}:{number}" if number else position.path
            print(f"{where}: set aside: {why!s}", file=sys.stderr)


class _Account:
    """What came in, and what became of it."""

    def __init__(self) -> None:
        self.received = 0
        self.distinct = 0
        self.rejected: Counter[str] = Counter()
        self._next = time.monotonic() + PROGRESS
        self._progress = sys.stderr.isatty()

    @property
    def set_aside(self) -> int:
        return self.rejected.total()

    def window(self, received: int, distinct: int, malformed: int) -> None:
        self.received += received - malformed
        self.distinct += distinct
        if malformed:
            self.rejected["malformed"] += malformed
        if self._progress and time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS
            self.report(final=False)

    def report(self, *, final: bool) -> None:
        late = self.rejected["late"]
        reasons = {reason: count for reason, count in sorted(self.rejected.items()) if reason != "late" and count}
        rejected = sum(reasons.values())
        received = self.received + late + rejected
        duplicates = self.received - self.distinct
        why = f" ({', '.join(f'{reason} {count}' for reason, count in reasons.items())})" if reasons else ""
        ratio = duplicates / received if received else 0.0
        text = (
            f"received {received}, duplicates {duplicates}, distinct {self.distinct}, "
            f"late {late}, rejected {rejected}{why}, ratio {ratio:.4f}"
        )
        start = "\r\x1b[K" if self._progress else ""
        print(start + text, end="\n" if final else "", file=sys.stderr, flush=True)
