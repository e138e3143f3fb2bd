"""Decompresses input block by block: gzip, bzip2, xz and zstd, recognised by their first bytes."""

from __future__ import annotations

import bz2
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
"""Bytes decompressed at once: a bomb takes no more memory, and the lines are still in the processor's cache."""
XZ_MEMORY = 128 * MIB
"""Memory that an xz stream may ask for; `xz -9` needs 65 MiB."""


def _zstd() -> Any:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(module).ZstdDecompressor()
        except ImportError:
            continue
    raise DecodeError('zstd needs an extra before Python 3.14: pip install "rxcompact[zstd]"')


FORMATS: dict[str, tuple[bytes, Callable[[], Any]]] = {
    "gzip": (b"\x1f\x8b", partial(zlib.decompressobj, wbits=31)),
    "bzip2": (b"BZh", bz2.BZ2Decompressor),
    "xz": (b"\xfd7zXZ\0", partial(lzma.LZMADecompressor, memlimit=XZ_MEMORY)),
    "zstd": (b"\x28\xb5\x2f\xfd", _zstd),
}
OTHERS = {
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7-Zip",
    b"\x04\x22\x4d\x18": "lz4",
    b"PAR1": "Parquet",
    b"Obj\x01": "Avro",
}
_magics = [*OTHERS, *(magic for magic, _ in FORMATS.values())]


def may_be_magic(head: bytes) -> bool:
    """Return whether the first bytes of an input are a part of a magic number, and nothing else yet."""
    return any(len(head) < len(magic) and magic.startswith(head) for magic in _magics)


def detect_compression(head: bytes) -> str | None:
    """Return the name of the compression that an input begins with; None for none.

    Raises:
        DecodeError: for a format that cannot be read, with its name.
    """
    if other := next((name for magic, name in OTHERS.items() if head.startswith(magic)), None):
        raise DecodeError(f"not JSON but {other}: unpack or convert it first")
    return next((name for name, (magic, _) in FORMATS.items() if head.startswith(magic)), None)


class Decompressor:
    """Decompresses a file or body of one or more members, fed block by block.

    Args:
        name: ``"gzip"``, ``"bzip2"``, ``"xz"`` or ``"zstd"``.

    Raises:
        DecodeError: where zstd is not installed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._new = FORMATS[name][1]
        self._member = self._new()

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield what a block decompresses to, in pieces of at most 128 KiB.

        Raises:
            gzip.BadGzipFile: for damaged gzip, or something else behind it.
            OSError: the same for the others.
        """
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
                text = f"damaged {self.name}: {error}"
                raise (BadGzipFile(text) if self.name == "gzip" else OSError(text)) from None
            if piece:
                yield piece

    def end(self) -> None:
        """Check that the input was complete.

        Raises:
            EOFError: when it is cut short.
        """
        if not self._member.eof:
            raise EOFError(f"{self.name} is cut short")


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
        TooLargeError: when it is longer than ``max_length``.
        gzip.BadGzipFile: for input that should be gzip and is not.
        EOFError: when gzip is cut short.
    """
    decompressor = Decompressor("gzip") if compressed else None
    body: list[bytes] = []
    left = max_length
    while block := await content.readany():
        for piece in decompressor.feed(block) if decompressor else (block,):
            body.append(piece)
            left -= len(piece)
            if left < 0:
                raise TooLargeError(f"longer than {max_length} bytes")
    if decompressor is not None and body:
        decompressor.end()
    return b"".join(body)
