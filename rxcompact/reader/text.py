"""Decompresses an input and decodes it to UTF-8: what it is shows in its first bytes."""

from __future__ import annotations

import bz2
import codecs
import lzma
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from gzip import BadGzipFile
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rxcompact.errors import DecodeError, TooLargeError

if TYPE_CHECKING:
    from aiohttp import StreamReader

MIB = 1 << 20
PIECE = 128 << 10
"""Bytes looked at in one step, which takes milliseconds, or decompressed at once: a bomb takes no more memory."""
XZ_MEMORY = 128 * MIB  # memory that an xz stream may ask for; `xz -9` needs 65 MiB
BOM = b"\xef\xbb\xbf"
MARKS = frozenset(b"\x00\xef\xfe\xff")  # bytes that text in UTF-8 without a byte order mark does not begin with


def _zstd() -> Any:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(module).ZstdDecompressor()
        except ImportError:
            continue
    raise DecodeError('zstd needs an extra before Python 3.14: pip install "rxcompact[zstd]"')


FORMATS: dict[bytes, tuple[str, Callable[[], Any] | None]] = {
    b"\x1f\x8b": ("gzip", partial(zlib.decompressobj, wbits=31)),
    b"BZh": ("bzip2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\0": ("xz", partial(lzma.LZMADecompressor, memlimit=XZ_MEMORY)),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
    b"PK\x03\x04": ("zip", None),
    b"7z\xbc\xaf": ("7-Zip", None),
    b"\x04\x22\x4d\x18": ("lz4", None),
    b"PAR1": ("Parquet", None),
    b"Obj\x01": ("Avro", None),
}
"""By their magic numbers; None are those that cannot be read."""


class Decompressor:
    """Decompresses a file or body of one or more members, fed block by block."""

    def __init__(self, name: str) -> None:
        new = dict(FORMATS.values())[name]
        if new is None:
            raise DecodeError(f"not JSON but {name}: unpack or convert it first")
        self._name, self._new = name, new
        self._member = new()

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield what a block decompresses to, in pieces of at most 128 KiB; raise OSError for damage."""
        while True:
            if self._member.eof:
                # a file may be padded
                block = (self._member.unused_data + block).lstrip(b"\0")
                if not block:
                    return
                self._member = self._new()
            # zlib returns what it has not looked at, the others keep it
            block = getattr(self._member, "unconsumed_tail", b"") + block
            if not block and getattr(self._member, "needs_input", True):
                return
            try:
                piece, block = self._member.decompress(block, PIECE), b""
            except Exception as error:  # noqa: BLE001 - each library has its own
                kind = BadGzipFile if self._name == "gzip" else OSError
                raise kind(f"damaged {self._name}: {error}") from None
            if piece:
                yield piece

    def end(self) -> None:
        """Raise EOFError when the input is cut short."""
        if not self._member.eof:
            raise EOFError(f"{self._name} is cut short")


class TextDecoder:
    """Turns the blocks of an input into UTF-8 without a byte order mark. What is taken for UTF-8 is not checked."""

    def __init__(self, compression: str | None = None, max_body: int | None = None) -> None:
        self._decompressor = Decompressor(compression) if compression else None
        self._max_body = max_body
        self.size = 0  # bytes so far, decompressed
        # the beginning, until it is known what it is
        self._packed: bytes | None = None if compression else b""
        self._text: bytes | None = b""
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield a block as text, in pieces of at most about 128 KiB."""
        if self._packed is not None:
            block = self._packed + block
            if any(len(block) < len(magic) and magic.startswith(block) for magic in FORMATS):
                self._packed = block
                return
            self._packed = None
            for name in (name for magic, (name, _) in FORMATS.items() if block.startswith(magic)):
                self._decompressor = Decompressor(name)
        pieces = (block[start : start + PIECE] for start in range(0, len(block), PIECE))
        for piece in self._decompressor.feed(block) if self._decompressor else pieces:
            self.size += len(piece)
            if self._max_body is not None and self.size > self._max_body:
                raise TooLargeError(f"longer than {self._max_body} bytes (max_body)")
            yield self._to_utf8(piece)

    def end(self) -> Iterator[bytes]:
        """Yield what is left."""
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
            if MARKS.isdisjoint(piece[:4]) or not any(piece[:4]):
                return piece
            from json import detect_encoding  # noqa: PLC0415 - takes long to import

            encoding = detect_encoding(piece)
            if encoding.startswith("utf-8"):
                return piece.removeprefix(BOM)
            self._decoder = codecs.getincrementaldecoder(encoding)()
        if self._decoder is None:
            return piece
        try:
            return self._decoder.decode(piece, final).encode()
        except UnicodeDecodeError as error:
            raise DecodeError(f"neither UTF-8 nor {error.encoding}") from None


def is_gzip(content_encoding: str | None) -> bool:
    """Return whether a body is gzip; raise ValueError for any other encoding, with its name."""
    encoding = (content_encoding or "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise ValueError(f"Content-Encoding {encoding[:40]!r}")
    return "gzip" in encoding


async def read_body(content: StreamReader, max_length: int, *, compressed: bool) -> bytes:
    """Return a body, decompressed; raise TooLargeError, or OSError and EOFError for damaged gzip."""
    decompressor = Decompressor("gzip") if compressed else None
    body = bytearray()
    while block := await content.readany():
        for piece in decompressor.feed(block) if decompressor else (block,):
            body += piece
            if len(body) > max_length:
                raise TooLargeError(f"longer than {max_length} bytes")
    if decompressor and body:
        decompressor.end()
    return bytes(body)
