"""Rows S5, S6, S18 to S24 of the fault table: charsets, gzip and other encodings."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc
from collections.abc import AsyncIterator, Callable

import pytest
from source_support import GZIP, Service, served

LINES = b"".join(b'{"id":%d}\n' % n for n in range(3000))
PACKED = gzip.compress(LINES)
TWO = gzip.compress(LINES[:5000]) + gzip.compress(LINES[5000:])


@pytest.mark.parametrize(
    ("charset", "status"),
    [
        ("utf-8", 202),
        ("UTF-8", 202),
        ('"utf-8"', 202),
        ("us-ascii", 202),
        ("nonsense", 415),
        ("latin-1", 415),
        ("idna", 415),
        ("base64", 415),
    ],
)
def test_s05_an_unknown_charset_is_415(charset: str, status: int) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b'{"id":1}', {"Content-Type": f"application/json; charset={charset}"})
        assert answer.status == status
        assert service.received == (status == 202)

    served(test)


@pytest.mark.parametrize("charset", ["utf-16", "utf-16le", "utf-32"])
def test_s06_utf_16_is_415(charset: str) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(
            '{"id":1}'.encode(charset), {"Content-Type": f"application/json; charset={charset}"}
        )
        assert answer.status == 415
        assert charset in answer.text

    served(test)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_s06_i09_another_unicode_without_a_charset_is_taken(encoding: str) -> None:
    async def test(service: Service) -> None:
        assert (await service.post('{"id":"ä"}\n{"id":2}'.encode(encoding))).counts == (202, 2, 0)
        assert await service.ids() == ["ä", 2]

    served(test)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_i13_compression_is_known_by_its_magic_number(compress: Callable[[bytes], bytes]) -> None:
    async def test(service: Service) -> None:
        assert (await service.post(compress(LINES))).counts == (202, 3000, 0)

    served(test)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
def test_s21_gzip_of_one_member_or_two_is_decompressed(encoding: str) -> None:
    async def drops(packed: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(packed), 97):
            yield packed[start : start + 97]

    async def test(service: Service) -> None:
        headers = {"Content-Encoding": encoding}
        for body in (PACKED, TWO, drops(PACKED), drops(TWO)):
            assert (await service.post(body, headers)).counts == (202, 3000, 0)
        assert len(await service.ids()) == 3000
        assert {compacted.count for compacted in service.out} == {4}

    served(test)


async def refused(service: Service, body: bytes) -> None:
    answer = await service.post(body, GZIP)
    assert answer.status == 400
    assert answer.json["error"]
    assert service.received == 0
    await service.still_serves()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(PACKED[:-1], id="a byte"),
        pytest.param(PACKED[:-9], id="check sum"),
        pytest.param(PACKED[: len(PACKED) // 2], id="half"),
        pytest.param(TWO[:-4], id="second member"),
        pytest.param(PACKED + TWO[:12], id="head of a second member"),
        pytest.param(b"\x1f\x8b", id="magic number"),
    ],
)
def test_s20_truncated_gzip_is_400_and_not_taken(body: bytes) -> None:
    served(lambda service: refused(service, body))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(LINES, id="plain"),
        pytest.param(PACKED[:-8] + b"\0" * 8, id="wrong check sum"),
        pytest.param(PACKED + b"more", id="more behind"),
        pytest.param(PACKED[:200] + bytes(50) + PACKED[250:], id="damaged"),
        pytest.param(b"", id="none"),
        pytest.param(gzip.compress(b""), id="of nothing"),
    ],
)
def test_s19_malformed_gzip_is_400(body: bytes) -> None:
    served(lambda service: refused(service, body))


def test_s18_a_gzip_bomb_is_413_in_constant_memory() -> None:
    bomb = gzip.compress(b"\0" * 10_000_000) * 20

    async def test(service: Service) -> None:
        tracemalloc.start()
        try:
            assert (await service.post(bomb, GZIP)).status == 413
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8_000_000
        await service.still_serves()

    served(test, max_body=1_000_000)


async def unsupported(service: Service, encoding: str, body: bytes) -> None:
    answer = await service.post(body, {"Content-Encoding": encoding})
    assert answer.status == 415
    assert encoding in answer.text
    assert service.received == 0
    await service.still_serves()


def test_s22_double_gzip_is_415() -> None:
    served(lambda service: unsupported(service, "gzip, gzip", gzip.compress(PACKED)))


@pytest.mark.parametrize("encoding", ["nonsense", "deflate", "zstd", "identity, gzip"])
def test_s23_an_unknown_encoding_is_415(encoding: str) -> None:
    served(lambda service: unsupported(service, encoding, b'{"id":1}'))


@pytest.mark.parametrize("body", [b'{"id":1}', b"\xff" * 100, b""])
def test_s24_brotli_is_415_decodable_or_not(body: bytes) -> None:
    served(lambda service: unsupported(service, "br", body))
