"""Files and standard input as a source of raw JSON."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
from collections.abc import AsyncGenerator
from functools import partial
from io import FileIO
from os import PathLike
from pathlib import Path
from typing import Any

from reactivex import Observable

from rxcompact.acks import Chunk
from rxcompact.clock import count
from rxcompact.contracts import UNBOUNDED, Demand
from rxcompact.reader.items import Position, items_path
from rxcompact.reader.reader import Reader
from rxcompact.sources.python import pull

BLOCK = 128 << 10  # bytes read at once


class NdjsonSource:
    """Emits the events of files or standard input as raw JSON (bytes), in chunks.

    The input may be JSON in every shape, see `Reader`. A pipe or terminal is read without blocking the loop; its lines
    are passed on as they arrive.

    Args:
        paths: Files, read one after the other; ``"-"`` is standard input.
        items: The path to the lists of events in each object: ``"Records"``, ``"streams[].values[]"``. An object
            without such a list is rejected.
        max_line: Bytes of the longest line, of the longest element of an array, of the longest object with ``items``. A
            longer one is rejected, and never held.
    """

    raw = True

    def __init__(
        self,
        *paths: str | PathLike[str],
        items: str | None = None,
        max_line: int = 16 << 20,
    ) -> None:
        self._paths = [os.fspath(path) for path in paths] or ["-"]
        path = () if items is None else items_path(items)
        self._new_reader = partial(Reader, items=path, max_line=count("max_line", max_line))
        self._reader = self._new_reader()

    @property
    def name(self) -> str:
        return ", ".join(self._paths)

    @property
    def position(self) -> Position:
        """Where the events of the chunk that is being emitted stand."""
        return self._reader.position

    def stream(self, demand: Demand = UNBOUNDED) -> Observable[list[Any]]:
        """Return the chunks, as an observable.

        Errors:
            OSError: when a file cannot be opened, before the first is read; or when one cannot be read, or its
                compression is damaged. What came before has been emitted.
            EOFError: when compression is cut short.
            DecodeError: when a file that is an array is malformed, or in a format that cannot be read.
        """
        return pull(self._chunks, demand)

    async def _chunks(self) -> AsyncGenerator[list[Any], None]:
        for path in self._paths:
            if path != "-" and not Path(path).is_fifo():  # noqa: ASYNC240 - each is checked before the first is read
                FileIO(path).close()
        for path in self._paths:
            with _opened(path) as file:
                fd = file.fileno()
                regular = stat.S_ISREG(os.fstat(fd).st_mode)
                reader = self._reader = self._new_reader(path=path)
                block = b"-"
                while block:
                    await (asyncio.sleep(0) if regular else _readable(fd))
                    block = os.read(fd, BLOCK)
                    for number, events in enumerate(reader.feed(block) if block else reader.end()):
                        if number:  # a block may have many
                            await asyncio.sleep(0)
                        if events:
                            yield Chunk(events, origin=reader.position.origin, text=reader.position.text)


def _opened(path: str) -> FileIO:
    if path != "-":
        return FileIO(path)
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]  # it is None when closed
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
    return FileIO(sys.stdin.fileno(), closefd=False)


async def _readable(fd: int) -> None:
    ready = asyncio.Event()
    try:
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, ready.set)
    except (RuntimeError, PermissionError):  # without a loop reading may wait; /dev/null and the like are always ready
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
