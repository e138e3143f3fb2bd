"""rxcompact compact: NDJSON in, one line for each distinct event of a window out."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from reactivex import operators as ops
from reactivex.scheduler import VirtualTimeScheduler
from reactivex.subject import Subject

from rxcompact import operators as rxo
from rxcompact.commands.stdout import mute
from rxcompact.errors import ArgumentError
from rxcompact.events import DeadLetter, Window
from rxcompact.fields import JsonKey, JsonTime
from rxcompact.sinks.ndjson import window_lines
from rxcompact.sources.ndjson import NdjsonSource

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

exit code: 0; 1 if any line was bad and --strict was given; 2 for wrong usage or a file that cannot be read;
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
    same = "what makes events equal; a.b reaches into objects (default: all of it)"
    add("--key", type=_names, default=[], metavar="FIELD[,FIELD…]", help=same)
    add("--timespan", required=True, type=float, metavar="S", help="length of a window, seconds")
    add("--time", metavar="FIELD", help="replay by this field: ISO 8601, or epoch s, ms, µs, ns")
    add("--lateness", type=float, metavar="S", help="with --time: wait this long for stragglers, seconds (default: 0)")
    add(
        "--timezone",
        type=_timezone,
        default=UTC,
        metavar="ZONE",
        help="of times without an offset: Europe/Vienna, =-05:00 (default: UTC)",
    )
    add("--keep", choices=["first", "last"], default="first", help="which event of a key to keep (default: first)")
    add("--count", type=int, metavar="N", help="close a window also at this many distinct keys")
    add("--strict", action="store_true", help="exit with 1 if any line was bad; a late one is not")
    add("--verbose", action="store_true", help="say of each line that is set aside where it is and why")
    parser.set_defaults(run=lambda options: _run(parser, options))


def _names(text: str) -> list[str]:
    names = text.split(",")
    if not all(names):
        raise argparse.ArgumentTypeError(f"a field without a name: {text!r}")
    return names


def _timezone(name: str) -> tzinfo:
    try:
        if name.startswith(("+", "-")):
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
        self._ended = asyncio.Event()
        self._error: Exception | None = None
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
            key_mapper=JsonKey(*options.key),
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
            asyncio.run(self._work())
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is held is soon written
            self._flushes.on_next(None)
            code = 130
        if isinstance(self._error, BrokenPipeError):
            return 0  # nobody reads on
        self._account.report(final=True)
        if self._error is not None:
            if not isinstance(self._error, OSError | EOFError | ArithmeticError | ValueError):
                raise self._error
            print(f"rxcompact: {self._error}", file=sys.stderr)
            return 2
        return code or int(self._options.strict and self._account.bad > 0)

    async def _work(self) -> None:
        windows = self._source.stream().pipe(ops.do_action(self._account.take), self._compact)
        windows.subscribe(self._write, self._fail, self._ended.set)
        await self._ended.wait()

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._ended.set()

    def _write(self, window: Window) -> None:
        self._account.window(window)
        try:
            sys.stdout.buffer.write(window_lines(window))
            sys.stdout.buffer.flush()
        except Exception as error:  # noqa: BLE001 - raised in the end, where it stops the command
            if isinstance(error, OSError):
                mute()  # the windows still to come shall not try again either
            self._fail(error)

    def _set_aside(self, letter: DeadLetter) -> None:
        self._account.rejected[letter.reason] += 1
        self._say(letter.event, str(letter.error))

    def _say(self, line: bytes, why: str) -> None:
        if self._options.verbose:
            position = self._source.position
            number = position.number(line)
            where = f"{position.path}:{number}" if number else position.path
            self._account.say(f"{where}: set aside: {why}")


class _Account:
    """What came in, and what became of it."""

    def __init__(self) -> None:
        self.received = 0
        self.duplicates = 0
        self.distinct = 0
        self.rejected: Counter[str] = Counter()
        self._next = time.monotonic() + PROGRESS
        self._progress = sys.stderr.isatty()

    @property
    def bad(self) -> int:
        """Lines set aside, but for the late ones."""
        return self.rejected.total() - self.rejected["late"]

    def take(self, chunk: list[bytes]) -> None:
        self.received += len(chunk)
        if self._progress and time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS
            self.report(final=False)

    def window(self, window: Window) -> None:
        self.distinct += len(window)
        self.duplicates += window.received - len(window)

    def report(self, *, final: bool) -> None:
        late = self.rejected["late"]
        reasons = {reason: count for reason, count in sorted(self.rejected.items()) if reason != "late"}
        why = f" ({', '.join(f'{reason} {count}' for reason, count in reasons.items())})" if reasons else ""
        ratio = self.duplicates / self.received if self.received else 0.0
        self.say(
            f"received {self.received}, duplicates {self.duplicates}, distinct {self.distinct}, "
            f"late {late}, rejected {self.bad}{why}, ratio {ratio:.4f}",
            end="\n" if final else "",
        )

    def say(self, text: str, end: str = "\n") -> None:
        # in place of the progress line
        print(("\r\x1b[K" if self._progress else "") + text, end=end, file=sys.stderr, flush=True)
