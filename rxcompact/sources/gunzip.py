"""Unpacks gzip as it comes."""

from __future__ import annotations

import zlib

MAGIC = b"\x1f\x8b"


class Gunzip:
    """Unpacks one or more gzip members, fed block by block."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)

    def feed(self, block: bytes, max_length: int = 0) -> bytes:
        """Unpack a block, to at most ``max_length`` bytes (0: any); `pending` tells whether there is more.

        Raises:
            zlib.error: when it is not gzip.
        """
        out: list[bytes] = []
        size = 0
        block = self._member.unconsumed_tail + block
        while block:
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=31)
            out.append(self._member.decompress(block, max_length and max_length - size))
            size += len(out[-1])
            block = self._member.unused_data
            if max_length and size >= max_length:
                break
        return b"".join(out)

    @property
    def pending(self) -> bool:
        """Whether input waits that `feed` had no room for."""
        return bool(self._member.unconsumed_tail or (self._member.eof and self._member.unused_data))

    @property
    def complete(self) -> bool:
        """Whether the input so far ends where a member ends."""
        return self._member.eof and not self.pending
