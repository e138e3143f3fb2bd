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

from msgspec.structs import replace
from reactivex import operators as ops
from reactivex.subject import Subject

from rxcompact import operators as rxo
from rxcompact.clock import LoopScheduler
from rxcompact.commands import common
from rxcompact.commands.common import SIGNALLED, note, write_error
from rxcompact.contracts import UNBOUNDED, Demand, Sink, close
from rxcompact.dead_letters import DeadLetterRoute
from rxcompact.errors import LateError, RxCompactError
from rxcompact.events import DeadLetter, Window
from rxcompact.mappers import Mapper
from rxcompact.operators.windows import Windows
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

output, one JSON object a line: opened and closed, the bounds of the window, POSIX seconds; key, the field's value, an
array for several fields, null where missing; count, events of the window with this key; first_seen and last_seen, times
of the earliest and the latest of them; event, the first of them (or the last, see --keep), as it came; leading, true
for a key's first event, which did not wait for the window's end, see --leading.

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
PROGRESS = 0.5  # seconds between two progress lines
MANY_LATE = 0.01  # share of late events above which a warning is printed
IDLE = 2.0  # seconds of silence after which a pipe is idle: a shorter pause of what writes to it makes no event late
DRAIN = 10.0  # seconds for which dead letters are delivered after the end of the input
CLEAR = "\r\x1b[K"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("paths", nargs="*", default=["-"], metavar="PATH", help="files, gzip or not; - is standard input (default)")
    common.add_event_arguments(parser, "replay by this field: ISO 8601, or epoch s, ms, us, ns", key_required=False)
    common.add_parameters(parser, rxo.compact, ("lateness", "count"))
    add("--strict", action="store_true", help="exit with 1 if any line was bad; a late one is not")
    add("--verbose", action="store_true", help="print place and reason of each line that is rejected")


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    if options.lateness is not None and options.time is None:
        raise argparse.ArgumentError(None, "--lateness needs --time")
    sink = common.dead_letter_sink(options.dead_letters)
    common.configure_log(options)
    try:
        return asyncio.run(_Compaction(options).run(sink))
    except BrokenPipeError:
        return 0  # its reader is gone


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


class _DeadLetters(DeadLetterRoute, Demand):
    """Delivers dead letters to a sink; the input waits while many of them wait."""

    limit = 10_000

    def capacity(self) -> int:
        return max(0, self.limit - len(self))

    async def wait(self) -> int:
        while not self.capacity():
            await asyncio.wait({self.ended}, timeout=0.05)
        return self.capacity()

    async def drain(self) -> int:
        """Deliver those that wait; return how many could not be."""
        self.complete()
        await asyncio.wait({self.ended}, timeout=DRAIN)
        return self.lost + len(self)


class _Compaction:
    """One run of the command, and the account of it."""

    _letters: _DeadLetters | None = None

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._received = 0
        self._rejected: Counter[str] = Counter()
        self._lateness = 0.0  # of the latest event
        is_terminal = sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison]
        self._next_progress = time.monotonic() + PROGRESS if is_terminal else inf
        self._clear = partial(write_error, CLEAR if is_terminal else "")  # of progress: no row follows on its line
        paths = options.paths
        key_mapper, time_mapper = common.mappers(options)
        windows: dict[str, Any] = common.windows(options) | common.given(options, ["count"])
        if time_mapper is not None:
            idle = inf if all(map(_is_file, paths)) else IDLE  # history has no idle time
            windows |= {"time_mapper": time_mapper, "lateness": options.lateness or 0.0, "idle": idle}
            paths = sorted(paths, key=partial(_first_time, time_mapper)) if len(paths) > 1 else paths
        self._source = NdjsonSource(*paths, items=options.items)
        compact: Any = rxo.compact(key_mapper=key_mapper, chunked=True, dead_letters=self._on_dead_letter, **windows)
        self._stage: Windows  # of the operator, once it is subscribed to
        self._compact = compact.having(register=partial(setattr, self, "_stage"))
        self._write = stdout_writer()

    async def run(self, sink: Sink | None) -> int:
        """Write windows until the input ends or a signal comes; return the exit code."""
        loop = asyncio.get_running_loop()
        stopped: Subject[int] = Subject()
        received: list[int] = []

        def stop(number: int) -> None:
            for each in numbers:
                loop.remove_signal_handler(each)  # a second one ends it at once
            received.append(number)
            stopped.on_next(number)

        numbers = common.stop_signals()
        for number in numbers:
            loop.add_signal_handler(number, stop, number)
        letters = self._letters = None if sink is None else _DeadLetters(sink, LoopScheduler(loop))
        chunks = self._source.stream(UNBOUNDED if letters is None else letters).pipe(ops.take_until(stopped))
        windows = chunks.pipe(ops.do_action(self._on_chunk), self._compact)
        failure = None
        try:
            await windows.pipe(ops.do_action(self._on_window), ops.default_if_empty())
        except BrokenPipeError:
            raise
        except (OSError, EOFError, ArithmeticError, ValueError) as error:
            failure = error
        undelivered = 0 if letters is None else await letters.drain()
        await close(sink)
        if undelivered:
            self._note(f"rxcompact: {undelivered} dead letters could not be delivered", "ERROR")
        is_useless = self._report()
        if failure is not None:
            note(f"rxcompact: {failure}", "ERROR")
            return 2
        return SIGNALLED + received[0] if received else int(is_useless or undelivered > 0)

    def _on_chunk(self, chunk: list[bytes]) -> None:
        self._received += len(chunk)
        if time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + PROGRESS
            write_error(CLEAR + self._account())

    def _on_window(self, window: Window) -> None:
        self._note_unknown()
        self._clear()
        for lines in window_lines(window):
            self._write(lines)

    def _on_dead_letter(self, letter: DeadLetter) -> None:
        if letter.outcome != "rejected":  # held, when the output failed
            return
        is_first = letter.reason != "late" and self._rejected.total() == self._rejected["late"]
        self._rejected[letter.reason] += 1
        if isinstance(letter.error, LateError):
            self._lateness = max(self._lateness, letter.error.late_by)
        is_shown = is_first or self._options.verbose
        if not is_shown and self._letters is None:
            return
        where = self._source.position.origin(letter.event)
        if self._letters is not None:
            self._letters.push(replace(letter, origin=where), lambda: None)
        if is_shown:
            more = "" if self._options.verbose else " (--verbose shows the others)"
            self._note(f"{where}: rejected: {letter.error}{more}", "WARNING")

    def _report(self) -> bool:
        """Report the account; return whether the exit code is 1 for it."""
        self._note_unknown()
        late, unknown = self._rejected["late"], self._stage.mapper.unknown
        if late > MANY_LATE * self._received:
            why = f"{late / self._received:.0%} of the events came after their window had closed"
            self._note(f"rxcompact: warning: {why}; --lateness {self._by()} keeps them", "WARNING")
        missing = self._stage.mapper.missing.items()
        self._note(self._account("".join(f", without {name} {n}" for name, n in missing if name not in unknown)))
        is_bad = self._options.strict and self._rejected.total() > late
        return is_bad or bool(unknown) or (self._received > 0 and not self._stage.distinct)

    def _account(self, missing: str = "") -> str:
        late, distinct, received = self._rejected["late"], self._stage.distinct, self._received
        by = f" (by up to {self._by()} s; --lateness {self._by()} keeps them)" if late else ""
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(self._rejected.items()) if reason != "late")
        rejected = f"{self._rejected.total() - late} ({reasons})" if reasons else "0"
        duplicates = received - distinct - self._rejected.total()
        return (
            f"received {received}, duplicates {duplicates}, distinct {distinct}, late {late}{by}, "
            f"rejected {rejected}{missing}, ratio {duplicates / max(received, 1):.4f}"
        )

    def _by(self) -> str:
        """Return by how many seconds events were late, rounded up."""
        return f"{ceil(self._lateness * 1000) / 1000:.12g}" if isfinite(self._lateness) else "inf"

    def _note_unknown(self) -> None:
        for text in self._stage.mapper.new_unknown():
            self._note(f"rxcompact: {text}", "WARNING")

    def _note(self, text: str, level: str = "INFO") -> None:
        """Report something, not on the line of the progress."""
        self._clear()
        note(text, level)
