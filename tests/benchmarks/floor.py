"""The least code that does what ``rxcompact compact FILE --key id --timespan 3600`` does, with what it promises.

What `by_hand.py` leaves out: the loop gets its turns and signals are handled, the window is closed by the clock, a bad
line is counted and the first is named, no line goes on in the next one, text is UTF-8 throughout, keys of other types
are apart, a missing one is counted, long keys and lines are rejected. ``python floor.py FILE``, or with a field of
times that are numbers: ``python floor.py FILE ts``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from operator import itemgetter
from typing import Annotated, Any

import by_hand
import msgspec
import reactivex as rx

BLOCK, MAX_LINE, MAX_KEY, LARGE = 128 << 10, 16 << 20, 65_536, 1 << 60
Text = Annotated[str, msgspec.Meta(max_length=MAX_KEY)]
Integer = Annotated[int, msgspec.Meta(ge=-LARGE, le=LARGE)]
last_byte = itemgetter(-1)


class Table:
    """The rows of the open windows; of arrival there is one."""

    def __init__(self, path: str, name: str | None) -> None:
        fields: list[Any] = [("id", Text | Integer | None, None)]
        if name is not None:
            fields.append(("time", float, msgspec.field(name=name)))
        self.path, self.timed = path, name is not None
        self.decoder = msgspec.json.Decoder(msgspec.defstruct("Event", fields, gc=False, kw_only=True))
        self.opened = time.time()
        self.windows: dict[float, dict[Any, list[Any]]] = {}
        self.received = self.missing = self.rejected = 0

    def add(self, lines: list[bytes], text: memoryview | None) -> None:
        """Add lines, which are decoded at once where they are a text of objects alone."""
        self.received += len(lines)
        try:
            if text is None:
                raise msgspec.DecodeError("one by one")
            events = self.decoder.decode_lines(text)
        except (msgspec.DecodeError, RecursionError):
            lines, events = self.one_by_one(lines)
        keys = [event.id for event in events]
        if not all(keys):
            self.missing += keys.count(None)
        if self.timed:
            self.fill_timed(keys, lines, [event.time for event in events])
        else:
            self.fill(keys, lines, time.time())

    def one_by_one(self, lines: list[bytes]) -> tuple[list[bytes], list[Any]]:
        good, events = [], []
        for line in lines:
            try:
                if len(line) > MAX_LINE:
                    raise msgspec.DecodeError("too long")
                line.decode()
                events.append(self.decoder.decode(line))
                good.append(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self.rejected += 1
                if self.rejected == 1:
                    sys.stderr.write(f"{self.path}: rejected: {error}\n")
        return good, events

    def fill(self, keys: list[Any], lines: list[bytes], now: float) -> None:
        table = self.windows.setdefault(self.opened, {})
        for key, line in zip(keys, lines, strict=True):
            row = table.get(key)
            if row is None:
                table[key] = [line, 1, now, now]
            else:
                row[1] += 1
                row[3] = now

    def fill_timed(self, keys: list[Any], lines: list[bytes], times: list[float]) -> None:
        for key, line, at in zip(keys, lines, times, strict=True):
            hour = at // by_hand.HOUR
            if hour not in self.windows:
                self.close()
                self.windows[hour] = {}
            table = self.windows[hour]
            row = table.get(key)
            if row is None:
                table[key] = [line, 1, at, at]
            else:
                row[1] += 1
                if at > row[3]:
                    row[3] = at
                elif at < row[2]:
                    row[2] = at

    def close(self) -> None:
        for opened in sorted(self.windows):
            bounds = (opened * by_hand.HOUR, (opened + 1) * by_hand.HOUR) if self.timed else (opened, time.time())
            by_hand.write(*bounds, self.windows.pop(opened))
        self.opened = time.time()


def are_objects(text: bytes, lines: list[bytes]) -> bool:
    """Return whether each line has one object: with a brace at both ends, and one in all that closes."""
    if not lines or min(lines) < b"{" or max(lines) >= b"|" or set(map(last_byte, lines)) != {ord("}")}:
        return False
    return len(text) - len(text.replace(b"}", b"")) == len(lines)


async def chunks(path: str, observer: rx.abc.ObserverBase[Any]) -> None:
    fd, rest, block = os.open(path, os.O_RDONLY), b"", b"-"
    while block:
        await asyncio.sleep(0)
        block = os.read(fd, BLOCK)
        buffer = rest + block
        stop = buffer.rfind(b"\n") + 1 if block else len(buffer)
        lines, rest = buffer[:stop].split(b"\n"), buffer[stop:]
        lines = list(filter(None, lines))
        text = memoryview(buffer)[:stop] if buffer.isascii() and are_objects(buffer[:stop], lines) else None
        observer.on_next((lines, text))
    os.close(fd)
    observer.on_completed()


async def main(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    table, done = Table(options.path, options.time), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, done.set)
    timer = loop.call_later(by_hand.HOUR, table.close)
    tasks: set[asyncio.Future[Any]] = set()

    def subscribe(observer: Any, _: Any = None) -> Any:
        tasks.add(asyncio.ensure_future(chunks(options.path, observer)))
        return rx.disposable.Disposable()

    rx.create(subscribe).subscribe(lambda chunk: table.add(*chunk), on_completed=done.set)
    await done.wait()
    timer.cancel()
    table.close()
    sys.stderr.write(f"received {table.received}, rejected {table.rejected}, without id {table.missing}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("time", nargs="?")
    asyncio.run(main(parser.parse_args()))
