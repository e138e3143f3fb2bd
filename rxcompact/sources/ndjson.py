"""NDJSON files and standard input as a source of raw lines."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from os import PathLike
from typing import NamedTuple

from reactivex import Observable

from rxcompact.demand import UNBOUNDED, Demand
from rxcompact.errors import ArgumentError
from rxcompact.fields import BOM
from rxcompact.sources.gunzip import MAGIC, Gunzip
from rxcompact.sources.pull import Chunk, pull

KIB = 1024
MIB = 1024 * KIB
SHOWN = 200


class Position(NamedTuple):
    """Where the chunk that is being emitted stands."""

    path: str
    first: int
    """Number of its first line, from 1."""
    lines: list[bytes]
    """Its lines, the empty ones included."""

    def number(self, line: bytes) -> int | None:
        """Return the number of one of its lines, the very object."""
        return next((self.first + n for n, each in enumerate(self.lines) if each is line), None)


class NdjsonSource:
    """Raw lines (bytes, without their ends) of files or standard input, in chunks; empty lines are left out.

    Gzip is recognised by its first bytes. A pipe or terminal is read without blocking the loop, and passes lines on as
    they come.

    Args:
        paths: Files, read one after the other; ``"-"`` is standard input.
        block_size: Bytes read at once.
        max_line: Bytes of the longest line. A longer one is cut to a few, which makes it a malformed one: it is set
            aside and counted where lines are decoded, and never held.
    """

    raw = True

    def __init__(self, *paths: str | PathLike[str], block_size: int = 256 * KIB, max_line: int = 16 * MIB) -> None:
        for argument, value in (("block_size", block_size), ("max_line", max_line)):
            if value < 1:
                raise ArgumentError(argument, value, "at least 1")
        self._paths = [os.fspath(path) for path in paths] or ["-"]
        self._block_size = block_size
        self._max_line = max_line
        self.position = Position("", 1, [])
        """Where the chunk that is being emitted stands."""

    def stream(self, demand: Demand = UNBOUNDED) -> Observable[Chunk]:
        """Return the chunks, as an observable.

        Errors:
            OSError: when a file cannot be opened or read.
            EOFError: when gzip is cut short; what came before has been emitted.
        """
        return pull(self._chunks, self._live, demand)

    def _chunks(self) -> Iterator[Chunk]:
        for path in self._paths:
            with _Opened(path) as fd:
                lines = _Lines(self, path)
                while block := os.read(fd, self._block_size):
                    yield from lines.feed(block)
                yield from lines.end()

    async def _live(self) -> AsyncIterator[Chunk]:
        loop = asyncio.get_running_loop()
        for path in self._paths:
            with _Opened(path) as fd:
                regular = stat.S_ISREG(os.fstat(fd).st_mode)
                lines = _Lines(self, path)
                while True:
                    await (asyncio.sleep(0) if regular else _readable(loop, fd))
                    block = os.read(fd, self._block_size)
                    for chunk in lines.feed(block) if block else lines.end():
                        yield chunk
                    if not block:
                        break


class _Opened:
    """A file's descriptor, closed at the end; that of standard input is left open."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> int:
        self._fd = sys.stdin.fileno() if self._path == "-" else os.open(self._path, os.O_RDONLY)
        return self._fd

    def __exit__(self, *_: object) -> None:
        if self._path != "-":
            os.close(self._fd)


async def _readable(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def set_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    try:
        loop.add_reader(fd, set_ready)
    except PermissionError:  # what cannot be polled, such as /dev/null, is always ready
        return
    try:
        await ready
    finally:
        loop.remove_reader(fd)


class _Lines:
    """Cuts blocks into lines."""

    def __init__(self, source: NdjsonSource, path: str) -> None:
        self._source = source
        self._path = path
        self._max_line = source._max_line  # pyright: ignore[reportPrivateUsage]
        self._gunzip: Gunzip | None = None
        self._started = False
        self._tail = b""
        self._cut = False
        self._next = 1

    def feed(self, block: bytes) -> Iterator[Chunk]:
        if not self._started:
            # the magic may itself be cut in two
            block = self._tail + block
            if len(block) < len(MAGIC):
                self._tail = block
                return
            self._started = True
            self._tail = b""
            if block.startswith(MAGIC):
                self._gunzip = Gunzip()
        if self._gunzip is None:
            yield from self._split(block)
            return
        unpacked = self._gunzip.feed(block, MIB)
        yield from self._split(unpacked)
        while self._gunzip.pending:
            yield from self._split(self._gunzip.feed(b"", MIB))

    def end(self) -> Iterator[Chunk]:
        if self._gunzip is not None and not self._gunzip.complete:
            raise EOFError(f"{self._path}: gzip is cut short after line {self._next - 1}")
        if self._tail:
            tail, self._tail = self._tail, b""
            yield from self._emit([_cut(tail) if self._cut else tail.removesuffix(b"\r")])

    def _split(self, block: bytes) -> Iterator[Chunk]:
        if self._cut:
            _, newline, rest = block.partition(b"\n")
            if not newline:
                return  # the rest of a line that is too long
            self._cut = False
            yield from self._emit([_cut(self._tail)])
            self._tail, block = b"", rest
        *lines, tail = (self._tail + block).split(b"\n")
        self._tail = tail
        if len(tail) > self._max_line:
            self._tail, self._cut = tail[:SHOWN], True
        if lines:
            yield from self._emit(lines)

    def _emit(self, lines: list[bytes]) -> Iterator[Chunk]:
        if self._next == 1:
            lines[0] = lines[0].removeprefix(BOM)
        if any(map(_ends_in_cr, lines)):
            lines = [line.removesuffix(b"\r") for line in lines]
        self._source.position = Position(self._path, self._next, lines)
        self._next += len(lines)
        longest = max(map(len, lines))
        if longest > self._max_line:
            lines[:] = [line if len(line) <= self._max_line else _cut(line) for line in lines]
        chunk = lines if all(lines) else list(filter(None, lines))
        if chunk:
            yield chunk


def _cut(line: bytes) -> bytes:
    # the NUL makes sure that what is left is not by chance JSON
    return line[:SHOWN] + b"\0"


def _ends_in_cr(line: bytes) -> bool:
    return line.endswith(b"\r")
