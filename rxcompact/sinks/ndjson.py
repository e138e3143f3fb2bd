"""NDJSON files and standard output as a sink."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from os import PathLike
from typing import Any

import msgspec

from rxcompact.errors import PermanentError
from rxcompact.events import Compacted, DeadLetter, Window
from rxcompact.fields import json_value

encoder = msgspec.json.Encoder(enc_hook=str)


def json_object(compacted: Compacted) -> dict[str, Any]:
    """Return an event as a JSON object; a raw line is put in as it is, a dead letter as `DeadLetter.to_json` has it."""
    event = compacted.event
    if isinstance(event, DeadLetter):
        return event.to_json()
    return {
        "key": json_value(compacted.key),
        "count": compacted.count,
        "first_seen": compacted.first_seen,
        "last_seen": compacted.last_seen,
        # one line it must be; a newline in JSON is but white space
        "event": msgspec.Raw(event.replace(b"\n", b" ")) if isinstance(event, bytes) else event,
    }


def encoded(
    batch: Sequence[Compacted], to_json: Callable[[Compacted], Any], encode: Callable[[list[Any]], bytes]
) -> tuple[bytes, dict[int, BaseException]]:
    """Return a batch as bytes, and the error of each position that cannot be made JSON."""
    with suppress(Exception):
        return encode(list(map(to_json, batch))), {}
    good: list[Any] = []
    failed: dict[int, BaseException] = {}
    for position, compacted in enumerate(batch):
        try:
            found = to_json(compacted)
            encoder.encode(found)
        except Exception as error:  # noqa: BLE001 - of one event; the others go on
            failed[position] = PermanentError(f"cannot be made JSON: {type(error).__name__}")
        else:
            good.append(found)
    return encode(good), failed


def window_lines(window: Window) -> bytes:
    """Return a line for each distinct event of a window, with the window's bounds."""
    bounds = {"opened": window.opened, "closed": window.closed}
    return encoder.encode_lines([bounds | json_object(compacted) for compacted in window])


class NdjsonSink:
    """Appends a line for each event to a file; ``"-"`` is standard output. Each batch is flushed.

    Args:
        path: The file.
        to_json: Makes of a `Compacted` what is written; by default all its fields.
    """

    def __init__(self, path: str | PathLike[str] = "-", *, to_json: Callable[[Compacted], Any] = json_object) -> None:
        self._path = os.fspath(path)
        self._to_json = to_json
        self._file: FileIO | None = None

    async def publish(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException] | None:
        """Write a batch; return the error of each position that cannot be made JSON.

        Raises:
            OSError: when it cannot be written.
        """
        lines, failed = encoded(batch, self._to_json, encoder.encode_lines)
        if self._path == "-":
            if hasattr(sys.stdout, "buffer"):
                sys.stdout.buffer.write(lines)
            else:  # a notebook's takes text alone
                sys.stdout.write(lines.decode())
            sys.stdout.flush()
        else:
            self._append(lines)
        return failed or None

    def _append(self, lines: bytes) -> None:
        file = self._file = self._file or FileIO(self._path, "ab")
        size = os.fstat(file.fileno()).st_size
        try:
            written = 0
            while written < len(lines):
                taken: int | None = file.write(memoryview(lines)[written:])
                if taken is None:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), self._path)
                written += taken
        except OSError:
            with suppress(OSError):  # what is no regular file keeps what it got
                file.truncate(size)  # the batch comes again
            raise

    async def aclose(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
