"""Decompresses gzip block by block; reads HTTP bodies, compressed or not, with a limit."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import StreamReader

MAGIC = b"\x1f\x8b"


class Decompressor:
    """Decompresses one or more gzip members, fed block by block."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._rest = b""

    def feed(self, block: bytes, max_length: int = 0) -> bytes:
        """Decompress a block, to at most ``max_length`` bytes (0: any); `pending` is true when there is more.

        Raises:
            zlib.error: for input that is not gzip.
        """
        out: list[bytes] = []
        room = max_length
        self._rest += block
        while self._rest:
            if self._member.eof:
                # a file may be padded
                self._rest = self._rest.lstrip(b"\0")
                if not self._rest:
                    break
                self._member = zlib.decompressobj(wbits=31)
            try:
                out.append(self._member.decompress(self._rest, room))
            except zlib.error:
                if out:
                    break  # return what is good; the next call raises
                raise
            self._rest = self._member.unconsumed_tail or self._member.unused_data
            if max_length and (room := room - len(out[-1])) <= 0:
                break
        return b"".join(out)

    @property
    def pending(self) -> bool:
        """Whether `feed` has input left, for want of room."""
        return bool(self._rest)

    @property
    def complete(self) -> bool:
        """Whether the input so far ends where a member ends."""
        return self._member.eof and not self.pending


def is_gzip(content_encoding: str | None) -> bool:
    """Return whether a body is gzip.

    Raises:
        ValueError: for any other encoding; names it.
    """
    encoding = (content_encoding or "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise ValueError(f"Content-Encoding {encoding[:40]!r}")
    return "gzip" in encoding


async def read_body(content: StreamReader, max_length: int, *, compressed: bool) -> bytes:
    """Return a body, decompressed.

    Raises:
        OverflowError: when it is longer than ``max_length``.
        zlib.error: for input that should be gzip and is not.
        EOFError: when gzip is cut short.
    """
    decompressor = Decompressor() if compressed else None
    body: list[bytes] = []
    room = max_length
    while block := await content.readany():
        body.append(decompressor.feed(block, room + 1) if decompressor else block)
        room -= len(body[-1])
        if room < 0:
            raise OverflowError
    if decompressor is not None and body and not decompressor.complete:
        raise EOFError("gzip is cut short")
    return b"".join(body)
