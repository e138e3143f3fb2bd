"""Unpacks gzip as it comes; HTTP bodies, packed or not, with a limit."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import StreamReader

MAGIC = b"\x1f\x8b"


class Gunzip:
    """Unpacks one or more gzip members, fed block by block."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._rest = b""

    def feed(self, block: bytes, max_length: int = 0) -> bytes:
        """Unpack a block, to at most ``max_length`` bytes (0: any); `pending` tells whether there is more.

        Raises:
            zlib.error: when it is not gzip.
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
                    break  # first what is good; the next call raises
                raise
            self._rest = self._member.unconsumed_tail or self._member.unused_data
            if max_length and (room := room - len(out[-1])) <= 0:
                break
        return b"".join(out)

    @property
    def pending(self) -> bool:
        """Whether input waits that `feed` had no room for."""
        return bool(self._rest)

    @property
    def complete(self) -> bool:
        """Whether the input so far ends where a member ends."""
        return self._member.eof and not self.pending


def is_packed(content_encoding: str | None) -> bool:
    """Tell whether a body is gzip.

    Raises:
        ValueError: for any encoding but that or none, with its name.
    """
    encoding = (content_encoding or "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise ValueError(f"Content-Encoding {encoding[:40]!r}")
    return "gzip" in encoding


async def whole(content: StreamReader, max_length: int, *, packed: bool) -> bytes:
    """Return a body, unpacked.

    Raises:
        OverflowError: when it is longer.
        zlib.error: when it is to be gzip and is not.
        EOFError: when it is gzip and cut short.
    """
    gunzip = Gunzip() if packed else None
    body: list[bytes] = []
    room = max_length
    while block := await content.readany():
        body.append(gunzip.feed(block, room + 1) if gunzip else block)
        room -= len(body[-1])
        if room < 0:
            raise OverflowError
    if gunzip is not None and body and not gunzip.complete:
        raise EOFError("gzip is cut short")
    return b"".join(body)
