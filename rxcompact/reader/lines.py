"""Splits blocks of bytes into lines, and keeps count of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from gzip import BadGzipFile

from rxcompact.reader.gunzip import MAGIC, Decompressor

BOM = b"\xef\xbb\xbf"
UNPACKED = 1 << 17
"""Bytes decompressed at once; small enough that the lines are still in the processor's cache when they are decoded."""
SHOWN = 200
"""Bytes kept of a line that is too long."""


class Position:
    """Where the chunk that is being emitted comes from.

    Args:
        path: The file.
        first: Number of the chunk's first line, from 1.
        lines: Its lines, the empty ones included.
    """

    def __init__(self, path: str, first: int, lines: list[bytes]) -> None:
        self.path = path
        self._first = first
        self._lines = lines
        self._numbers: dict[int, list[int]] | None = None

    def number(self, line: bytes) -> int | None:
        """Return the number of one of its lines, compared by identity; each number once.

        Equal lines may be one object, which is then asked for several times.
        """
        if self._numbers is None:  # numbered only when asked for, which is rare
            self._numbers = {}
            for number, each in enumerate(self._lines, self._first):
                self._numbers.setdefault(id(each), []).append(number)
        numbers = self._numbers.get(id(line))
        return numbers.pop(0) if numbers else None


class LineSplitter:
    """Splits the blocks of a file into lines; `position` is where the latest chunk comes from.

    Args:
        path: The file's name, for positions and errors.
        max_line: Bytes of the longest line that is held.
    """

    def __init__(self, path: str, max_line: int) -> None:
        self.position = Position(path, 1, [])
        self._path = path
        self._max_line = max_line
        self._decompressor: Decompressor | None = None
        self._started = False
        self._next = 1
        # the parts of a line whose end has not come yet, and their size
        self._held: list[bytes] = []
        self._size = 0
        self._return = b""

    def feed(self, block: bytes) -> Iterator[list[bytes]]:
        """Yield the lines that are complete with this block, without their ends and the empty ones.

        Raises:
            BadGzipFile: for damaged gzip, or something else behind it.
        """
        if not self._started:
            # the magic may itself be cut in two
            block = b"".join(self._held) + block
            self._held = [block]
            if len(block) < len(MAGIC):
                return
            self._held.clear()
            self._started = True
            if block.startswith(MAGIC):
                self._decompressor = Decompressor()
        if self._decompressor is None:
            yield from self._split(block)
            return
        yield from self._split(self._decompress(self._decompressor, block))
        while self._decompressor.pending:
            yield from self._split(self._decompress(self._decompressor, b""))

    def end(self) -> Iterator[list[bytes]]:
        """Yield the last line, where no newline ends it.

        Raises:
            EOFError: when gzip is cut short.
        """
        if self._decompressor is not None and not self._decompressor.complete:
            raise EOFError(f"{self._path}: gzip is cut short after line {self._next - 1}")
        if not self._started:
            block, self._held = b"".join(self._held), []
            yield from self._split(block)
        if self._held:
            yield from self._emit([self._join(b"")])

    def _decompress(self, decompressor: Decompressor, block: bytes) -> bytes:
        try:
            return decompressor.feed(block, UNPACKED)
        except zlib.error as error:
            raise BadGzipFile(f"{self._path}: damaged gzip after line {self._next - 1}: {error}") from None

    def _split(self, block: bytes) -> Iterator[list[bytes]]:
        if b"\r" in block or self._return:
            block = self._return + block
            # its \n may be in the next block
            self._return = b"\r" if block.endswith(b"\r") else b""
            block = block.removesuffix(b"\r").replace(b"\r\n", b"\n")
        lines = block.split(b"\n")
        rest = lines.pop()
        if lines:
            lines[0] = self._join(lines[0])
            if len(block) > self._max_line:
                lines = [line if len(line) <= self._max_line else _cut(line) for line in lines]
            yield from self._emit(lines)
        if rest:
            self._hold(rest)

    def _hold(self, part: bytes) -> None:
        self._size += len(part)
        self._held.append(part)
        if self._size > self._max_line:
            self._held = [b"".join(self._held)[:SHOWN]]

    def _join(self, part: bytes) -> bytes:
        self._hold(part)
        line, size = b"".join(self._held), self._size
        self._held, self._size = [], 0
        return _cut(line) if size > self._max_line else line

    def _emit(self, lines: list[bytes]) -> Iterator[list[bytes]]:
        if self._next == 1:
            lines[0] = lines[0].removeprefix(BOM)
        self.position = Position(self._path, self._next, lines)
        self._next += len(lines)
        chunk = lines if all(lines) else list(filter(None, lines))
        if chunk:
            yield chunk


def _cut(line: bytes) -> bytes:
    # a NUL is not JSON: the line is rejected where it is decoded
    return line[:SHOWN] + b"\0"
