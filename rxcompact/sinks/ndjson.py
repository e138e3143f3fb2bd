"""NDJSON files and standard output as a sink."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

from rxcompact.errors import PermanentError
from rxcompact.events import Compacted
from rxcompact.keys import encoder
from rxcompact.sinks.encoding import encoded, json_object


class LineWriter:
    """Writes whole lines to a file descriptor.

    A short write is completed. After a failure a regular file is what it was before, so that the lines can be written
    again; elsewhere, and after a line that another process left torn, the next write begins on a line of its own.
    """

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._torn = False

    def write(self, lines: bytes) -> None:
        if not lines:
            return
        self._lock(fcntl.LOCK_EX)
        try:
            self._write_all(lines)
        finally:
            self._lock(fcntl.LOCK_UN)

    def _lock(self, operation: int) -> None:
        """Keep other workers from writing to the file between two parts of a write."""
        if self._regular:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(self._fd, operation)

    def _write_all(self, lines: bytes) -> None:
        if self._torn or (self._regular and self._ends_torn()):
            lines = b"\n" + lines
        size = os.fstat(self._fd).st_size
        start = os.lseek(self._fd, 0, os.SEEK_CUR) if self._regular else 0
        rest = memoryview(lines)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:  # another process made the pipe non-blocking
                    select.select([], [self._fd], [])
        except OSError as error:
            if self._regular:
                os.ftruncate(self._fd, size)
                os.lseek(self._fd, start, os.SEEK_SET)
            elif len(rest) < len(lines):
                self._torn = True
            raise OSError(error.errno, error.strerror, self._path) from None
        self._torn = False

    def _ends_torn(self) -> bool:
        """Return whether the file's last line has no end."""
        path = Path(self._path if self._path != "-" else f"/dev/fd/{self._fd}")
        with suppress(OSError), path.open("rb") as file:  # it may be empty, or standard output for writing only
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
        return False


def stdout_writer() -> Callable[[bytes], object]:
    """Return what writes lines to standard output.

    Raises:
        BrokenPipeError: when it is closed.
    """
    out = sys.stdout
    if out is None:  # pyright: ignore[reportUnnecessaryComparison]  # the shell closed it
        raise BrokenPipeError(errno.EPIPE, "standard output is closed", "-")
    buffer = getattr(out, "buffer", None)
    if buffer is None:  # a notebook's takes only text
        return lambda lines: (out.write(lines.decode()), out.flush())
    try:
        fd = buffer.fileno()
    except OSError:  # it is no file
        return lambda lines: (buffer.write(lines), out.flush())
    out.flush()
    return LineWriter(fd, "-").write


class NdjsonSink:
    """Appends a line for each event to a file; ``"-"`` is standard output.

    Args:
        path: The file.
        to_json: Returns what is written for a `Compacted`; by default all its fields.
    """

    def __init__(self, path: str | PathLike[str] = "-", *, to_json: Callable[[Compacted], Any] = json_object) -> None:
        self._path = os.fspath(path)
        self._to_json = to_json
        self._fd = -1
        self._write: Callable[[bytes], object] | None = None

    async def publish(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException] | None:
        """Write a batch; return the error of each position that has no JSON form.

        Raises:
            OSError: when it cannot be written; then the file holds no part of it.
            PermanentError: when standard output has no reader any more.
        """
        lines, failed = encoded(batch, self._to_json, encoder.encode_lines)
        try:
            if self._write is None and self._path == "-":
                self._write = stdout_writer()
            elif self._write is None:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
                self._write = LineWriter(self._fd, self._path).write
            self._write(lines)
        except BrokenPipeError as error:
            if self._path != "-":
                raise
            raise PermanentError("standard output is closed") from error
        return failed or None

    async def aclose(self) -> None:
        fd, self._fd, self._write = self._fd, -1, None
        if fd >= 0:
            os.close(fd)
