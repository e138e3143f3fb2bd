"""NDJSON files and standard input as a source of raw lines."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
from collections.abc import AsyncGenerator, Iterator
from os import PathLike
from typing import Any

from reactivex import Observable

from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.errors import ArgumentError
from rxcompact.reader.lines import LineSplitter, Position
from rxcompact.sources.pull import pull

KIB = 1024
MIB = 1024 * KIB


class NdjsonSource:
    """Emits the raw lines (bytes) of files or standard input in chunks; empty lines are left out.

    Gzip is recognised by its first bytes. A pipe or terminal is read without blocking the loop; its lines are passed on
    as they arrive.

    Args:
        paths: Files, read one after the other; ``"-"`` is standard input.
        block_size: Bytes read at once.
        max_line: Bytes of the longest line. A longer one is cut short, which makes it malformed: it is rejected and
            counted where lines are decoded, and never held.
    """

    raw = True

    def __init__(self, *paths: str | PathLike[str], block_size: int = 128 * KIB, max_line: int = 16 * MIB) -> None:
        for argument, value in (("block_size", block_size), ("max_line", max_line)):
            if value < 1:
                raise ArgumentError(argument, value, "at least 1")
        self._paths = [os.fspath(path) for path in paths] or ["-"]
        self._block_size = block_size
        self._max_line = max_line
        self.position = Position("", 1, [])
        """Where the chunk that is being emitted comes from."""

    def stream(self, demand: Demand = UNBOUNDED) -> Observable[list[Any]]:
        """Return the chunks, as an observable.

        Errors:
            OSError: when a file cannot be opened or read.
            EOFError: when gzip is cut short; what came before has been emitted.
            gzip.BadGzipFile: for damaged gzip, or something else behind it; nothing of the damaged block has been
                emitted.
        """
        return pull(self._chunks, self._live, demand)

    def _chunks(self) -> Iterator[list[Any]]:
        for path in self._paths:
            with _Opened(path) as fd:
                lines = LineSplitter(path, self._max_line)
                while block := os.read(fd, self._block_size):
                    yield from self._located(lines, lines.feed(block))
                yield from self._located(lines, lines.end())

    def _located(self, lines: LineSplitter, chunks: Iterator[list[Any]]) -> Iterator[list[Any]]:
        for chunk in chunks:
            self.position = lines.position
            yield chunk

    async def _live(self) -> AsyncGenerator[list[Any], None]:
        loop = asyncio.get_running_loop()
        for path in self._paths:
            with _Opened(path) as fd:
                regular = stat.S_ISREG(os.fstat(fd).st_mode)
                lines = LineSplitter(path, self._max_line)
                while True:
                    await (asyncio.sleep(0) if regular else _readable(loop, fd))
                    block = os.read(fd, self._block_size)
                    for chunk in self._located(lines, lines.feed(block) if block else lines.end()):
                        yield chunk
                    if not block:
                        break


class _Opened:
    """A file's descriptor, closed on exit; standard input is left open."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> int:
        if self._path != "-":
            self._fd = os.open(self._path, os.O_RDONLY)
            if stat.S_ISDIR(os.fstat(self._fd).st_mode):
                os.close(self._fd)
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self._path)
        elif sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]  # it is None when closed
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
        else:
            self._fd = sys.stdin.fileno()
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
    except PermissionError:  # /dev/null and the like cannot be polled and are always ready
        return
    try:
        await ready
    finally:
        loop.remove_reader(fd)
