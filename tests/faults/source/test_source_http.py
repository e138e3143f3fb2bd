"""Rows S25 to S29, S32, S33, S46 of the fault table: malformed and truncated requests."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from email.utils import parsedate_to_datetime

import pytest
from source_support import HEAD, Service, closed, served, status_of, until

LENGTH = b"Content-Length: 8\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
BODY = b'\r\n{"id":1}'
NO_HTTP = {
    "s26 two lengths": HEAD + LENGTH + b"Content-Length: 9\r\n" + BODY,
    "s26 the same length twice": HEAD + LENGTH + LENGTH + BODY,
    "s26 negative length": HEAD + b"Content-Length: -8\r\n" + BODY,
    "s26 length with a sign": HEAD + b"Content-Length: +8\r\n" + BODY,
    "s26 hexadecimal length": HEAD + b"Content-Length: 0x8\r\n" + BODY,
    "s26 length of many digits": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n" + BODY,
    "s26 length and chunked": HEAD + LENGTH + CHUNKED + b'\r\n8\r\n{"id":1}\r\n0\r\n\r\n',
    "s26 chunked twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n" + b'\r\n8\r\n{"id":1}\r\n0\r\n\r\n',
    "s29 a header of 9,000 bytes": HEAD + b"X-Long: " + b"x" * 9000 + b"\r\n" + LENGTH + BODY,
    "s29 a header of 100,000 bytes": HEAD + b"X-Long: " + b"x" * 100_000 + b"\r\n" + LENGTH + BODY,
    "s29 a path of 100,000 bytes": b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n" + LENGTH + BODY,
    "s29 3,000 headers": HEAD + b"".join(b"X-%d: x\r\n" % n for n in range(3000)) + LENGTH + BODY,
    "s29 no colon": HEAD + b"no colon\r\n" + LENGTH + BODY,
    "s29 a space before the colon": HEAD + b"Content-Length : 8\r\n" + BODY,
    "s29 NUL in a header": HEAD + b"X-Nul: \x00\r\n" + LENGTH + BODY,
    "s29 no Host": b"POST / HTTP/1.1\r\n" + LENGTH + BODY,
    "s33 HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "s33 no HTTP": b"EHLO mail.example.org\r\n",
    "s33 zeros": bytes(1000),
}
BROKEN = [pytest.param(request, id=name) for name, request in NO_HTTP.items()]


async def not_taken(service: Service, request: bytes) -> None:
    async with service.raw(request) as (reader, _):
        assert await status_of(reader) in (400, 431)
        await closed(reader)
    assert service.received == 0
    await service.still_serves()


@pytest.mark.parametrize("request_", BROKEN)
def test_s26_s29_s33_a_request_that_is_not_http_is_400_and_closed(request_: bytes) -> None:
    served(lambda service: not_taken(service, request_))


@pytest.mark.parametrize(
    ("version", "sent", "answered"),
    [
        (b"1.1", None, None),
        (b"1.1", b"close", b"close"),
        (b"1.0", b"keep-alive", b"keep-alive"),
        (b"1.0", None, b"close"),
    ],
)
def test_an_answer_names_what_becomes_of_its_connection(
    version: bytes, sent: bytes | None, answered: bytes | None
) -> None:
    async def test(service: Service) -> None:
        connection = b"" if sent is None else b"Connection: " + sent + b"\r\n"
        request = b"POST / HTTP/" + version + b"\r\nHost: x\r\n" + connection + LENGTH + BODY
        async with service.raw(request) as (reader, writer):
            head = await reader.readuntil(b"\r\n\r\n")
            status, *lines = head.strip().split(b"\r\n")
            headers = dict(line.split(b": ", 1) for line in lines)
            assert status == b"HTTP/1.1 202 Accepted"
            assert headers[b"Content-Type"] == b"application/json"
            assert parsedate_to_datetime(headers[b"Date"].decode()).tzinfo is not None
            assert headers.get(b"Connection") == answered
            assert json.loads(await reader.readexactly(int(headers[b"Content-Length"])))["accepted"] == 1
            if answered == b"close":
                await closed(reader)
            else:
                writer.write(request)
                assert await status_of(reader) == 202

    served(test)


@pytest.mark.parametrize("size", [b"x", b"-1", b"0x8", b"8 8", b"", b"f" * 40])
def test_s27_a_bad_chunk_size_is_400(size: bytes) -> None:
    """Also when good chunks came before it."""

    async def test(service: Service) -> None:
        for before in (b"", b'8\r\n{"id":1}\r\n'):
            request = HEAD + CHUNKED + b"\r\n" + before + size + b'\r\n{"id":2}\r\n0\r\n\r\n'
            async with service.raw(request) as (reader, _):
                assert await status_of(reader) == 400
        assert service.received == 0
        await service.still_serves()

    served(test)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"Content-Length: 100\r\n" + BODY, id="s25 length too long"),
        pytest.param(b"Content-Length: 8\r\n\r\n", id="s25 nothing"),
        pytest.param(CHUNKED + b'\r\n8\r\n{"id":1}\r\n', id="s28 no end"),
        pytest.param(CHUNKED + b'\r\n9\r\n{"id":1}', id="s28 within a chunk"),
        pytest.param(CHUNKED + b"\r\n8", id="s28 within its size"),
    ],
)
def test_s25_s28_a_body_that_stalls_is_408_and_not_taken(head: bytes) -> None:
    async def test(service: Service) -> None:
        async with service.raw(HEAD + head) as (reader, _), asyncio.timeout(60):
            assert b" 408 " in await reader.readline()
            assert b"Connection: close\r\n" in await reader.readuntil(b"\r\n\r\n")
            assert b"0.1 s" in await reader.readuntil(b"}")
        assert service.received == 0
        await service.still_serves()

    served(test, body_timeout=0.1)


@pytest.mark.parametrize("expected", [b"foo", b"101-continue"])
def test_s32_an_unknown_expectation_is_417(expected: bytes) -> None:
    async def test(service: Service) -> None:
        async with service.raw(HEAD + b"Expect: " + expected + b"\r\n" + LENGTH + BODY) as (reader, _):
            assert await status_of(reader) == 417
        assert service.received == 0
        await service.still_serves()

    served(test)


def test_s32_expect_100_continue_is_answered() -> None:
    async def test(service: Service) -> None:
        async with service.raw(HEAD + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n") as (reader, writer):
            assert await status_of(reader) == 100
            writer.write(b'{"id":1}')
            assert await status_of(reader) == 202

    served(test)


def test_s33_a_tls_hello_is_400() -> None:
    async def test(service: Service) -> None:
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", service.port, ssl=ssl.create_default_context())
        await service.still_serves()

    served(test)


@pytest.mark.parametrize("row", ["s26", "s27", "s29", "s33"])
def test_s26_s27_s29_s33_malformed_requests_log_no_traceback(row: str, caplog: pytest.LogCaptureFixture) -> None:
    requests = [request for name, request in NO_HTTP.items() if name.startswith(row)]
    requests = requests or [HEAD + CHUNKED + b"\r\nx\r\n"]

    async def test(service: Service) -> None:
        for request in requests:
            async with service.raw(request) as (reader, _):
                assert await status_of(reader) in (400, 431)
        assert caplog.records == []

    with caplog.at_level(logging.WARNING):
        served(test)


async def go_away(service: Service) -> None:
    for body in (b"", b'{"id":1}\n', b'{"id":1}\n{"id'):
        for head in (b"Content-Length: 99\r\n\r\n" + body, CHUNKED + b"\r\n%x\r\n" % (len(body) + 1) + body):
            async with service.raw(HEAD + head):
                await asyncio.sleep(0.02)  # it is being read
    await asyncio.sleep(0.05)
    assert service.received == 0
    await service.still_serves()


def test_s46_a_client_that_disconnects_during_its_body_has_nothing_taken(caplog: pytest.LogCaptureFixture) -> None:
    """Nor is there a traceback, or a line in the log."""
    with caplog.at_level(logging.WARNING):
        served(go_away)
    assert caplog.records == []


def test_s46_a_client_that_disconnects_before_the_answer_has_all_taken(caplog: pytest.LogCaptureFixture) -> None:
    async def test(service: Service) -> None:
        body = b"\n".join(b'{"id":%d}' % n for n in range(500))
        for _ in range(5):
            async with service.raw(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body):
                pass
        # a reset may overtake the body: then nothing is taken
        await until(lambda: service.received > 0)
        await service.still_serves()
        assert (service.received - 1) % 500 == 0

    with caplog.at_level(logging.WARNING):
        served(test)
    assert caplog.records == []
