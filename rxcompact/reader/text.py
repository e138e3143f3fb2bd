"""Decompresses and decodes an input to UTF-8: what it is shows in its first bytes."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator

from rxcompact.errors import DecodeError, TooLargeError
from rxcompact.reader.decompress import PIECE, Decompressor, detect_compression, may_be_magic

BOM = b"\xef\xbb\xbf"
MARKS = frozenset(b"\x00\xef\xfe\xff")
"""Bytes that text in UTF-8 without a byte order mark does not begin with."""


class TextDecoder:
    """Turns the blocks of a file, body or message into UTF-8 without a byte order mark.

    gzip, bzip2, xz and zstd, UTF-16 and UTF-32 are recognised. Text that is taken for UTF-8 is not checked.

    Args:
        compression: What the input must be, where that is known.
        max_body: Bytes of text at most.
    """

    def __init__(self, compression: str | None = None, max_body: int | None = None) -> None:
        self._decompressor = Decompressor(compression) if compression else None
        self._max_body = max_body
        self._bytes = 0
        # the beginning, until it is known what it is
        self._packed: bytes | None = None if compression else b""
        self._text: bytes | None = b""
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield a block as text, in pieces of at most about 128 KiB.

        Raises:
            DecodeError: for an encoding or format that cannot be read.
            TooLargeError: when there is more text than ``max_body``.
            OSError: for damaged compression, or something else behind it.
        """
        if self._packed is not None:
            block = self._packed + block
            self._packed = block if may_be_magic(block) else None
            if self._packed is not None:
                return
            if name := detect_compression(block):
                self._decompressor = Decompressor(name)
        for piece in self._decompressor.feed(block) if self._decompressor else _pieces(block):
            self._bytes += len(piece)
            if self._max_body is not None and self._bytes > self._max_body:
                raise TooLargeError(f"longer than {self._max_body} bytes (max_body)")
            yield self._to_utf8(piece)

    def end(self) -> Iterator[bytes]:
        """Yield what is left.

        Raises:
            EOFError: for compression that is cut short.
        """
        if self._packed:
            yield self._to_utf8(self._packed)
        if self._decompressor:
            self._decompressor.end()
        yield self._to_utf8(b"", final=True)

    def _to_utf8(self, piece: bytes, *, final: bool = False) -> bytes:
        if self._text is not None:
            piece, self._text = self._text + piece, None
            if not final and len(piece) < (2 if MARKS.isdisjoint(piece[:4]) else 4):
                self._text = piece
                return b""
            encoding = json.detect_encoding(piece) if any(piece[:4]) else "utf-8"
            if encoding.startswith("utf-8"):
                return piece.removeprefix(BOM)
            self._decoder = codecs.getincrementaldecoder(encoding)()
        if self._decoder is None:
            return piece
        try:
            return self._decoder.decode(piece, final).encode()
        except UnicodeDecodeError as error:
            raise DecodeError(f"neither UTF-8 nor {error.encoding}") from None


def _pieces(block: bytes) -> Iterator[bytes]:
    for start in range(0, len(block), PIECE):
        yield block[start : start + PIECE] if len(block) > PIECE else block
