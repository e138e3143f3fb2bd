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
        self._decompressor = None if compression is None else Decompressor(compression)
        self._opened = compression is not None
        self._max_body = max_body
        self._bytes = 0
        self._head = b""  # before it is known what the input is
        self._started = False
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield a block as text, in pieces of at most about 128 KiB.

        Raises:
            DecodeError: for an encoding or format that cannot be read.
            TooLargeError: when there is more text than ``max_body``.
            OSError: for damaged compression, or something else behind it.
        """
        if not self._opened:
            block, self._head = self._head + block, b""
            if may_be_magic(block):
                self._head = block
                return
            self._open(block)
        for piece in self._decompress(block):
            self._bytes += len(piece)
            if self._max_body is not None and self._bytes > self._max_body:
                raise TooLargeError(f"longer than {self._max_body} bytes (max_body)")
            yield from self._decode(piece)

    def end(self) -> Iterator[bytes]:
        """Yield what is left.

        Raises:
            EOFError: for compression that is cut short.
        """
        if not self._opened:
            self._open(self._head)
            block, self._head = self._head, b""
            yield from self._decode(block)
        if self._decompressor is not None:
            self._decompressor.end()
        if not self._started:
            yield self._start(self._head)
        if self._decoder is not None:
            yield self._to_utf8(self._decoder, b"", final=True)

    def _open(self, head: bytes) -> None:
        self._opened = True
        compression = detect_compression(head)
        self._decompressor = None if compression is None else Decompressor(compression)

    def _decompress(self, block: bytes) -> Iterator[bytes]:
        if self._decompressor is not None:
            yield from self._decompressor.feed(block)
        elif len(block) <= PIECE:
            yield block
        else:
            for start in range(0, len(block), PIECE):
                yield block[start : start + PIECE]

    def _decode(self, piece: bytes) -> Iterator[bytes]:
        if not self._started:
            piece, self._head = self._head + piece, b""
            if len(piece) < (2 if MARKS.isdisjoint(piece[:4]) else 4):
                self._head = piece
                return
            yield self._start(piece)
        elif self._decoder is not None:
            yield self._to_utf8(self._decoder, piece)
        else:
            yield piece

    def _start(self, text: bytes) -> bytes:
        self._started = True
        encoding = json.detect_encoding(text) if any(text[:4]) else "utf-8"
        if encoding.startswith("utf-8"):
            return text.removeprefix(BOM)
        self._decoder = codecs.getincrementaldecoder(encoding)()
        return self._to_utf8(self._decoder, text)

    @staticmethod
    def _to_utf8(decoder: codecs.IncrementalDecoder, piece: bytes, *, final: bool = False) -> bytes:
        try:
            return decoder.decode(piece, final).encode()
        except UnicodeDecodeError as error:
            raise DecodeError(f"neither UTF-8 nor {error.encoding}") from None
