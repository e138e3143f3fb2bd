"""HttpSource in a pipeline that runs, over real sockets on loopback; rows S of the fault table."""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import json
import logging
import random
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest

from rxcompact import HttpSource, Orchestrator, Pipeline
from rxcompact.errors import ArgumentError
from rxcompact.events import Compacted, DeadLetter
from rxcompact.signals import Signal, SourceFailed

GZIP = {"Content-Encoding": "gzip"}


class Answer(NamedTuple):
    status: int
    headers: Any
    text: str

    @property
    def counts(self) -> tuple[int, int, int]:
        body = json.loads(self.text)
        return self.status, body["accepted"], body["rejected"]

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return [(error["line"], error["reason"]) for error in json.loads(self.text)["errors"]]


class Service:
    """A client, the pipeline that it posts to, and what comes out of it."""

    def __init__(self, client: aiohttp.ClientSession, source: HttpSource, **options: Any) -> None:
        self.client = client
        self.source = source
        self.out: list[Compacted] = []
        self.letters: list[DeadLetter] = []
        self.signals: list[Signal] = []
        self.faults: list[Any] = []  # what nobody handled
        options = {"key_mapper": "id", "timespan": 1000, "max_age": 60, "sink": self.out.extend} | options
        self.orchestrator = Orchestrator(Pipeline(source=source, **options), wait=lambda _: 0.05)
        self.orchestrator.dead_letters.subscribe(self.letters.append)
        self.orchestrator.signals.subscribe(self.signals.append)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.faults.append(context))

    async def ask(self, method: str, path: str = "", **options: Any) -> Answer:
        async with self.client.request(method, self.source.url + path, **options) as response:
            return Answer(response.status, response.headers, await response.text())

    async def post(self, body: Any, headers: dict[str, str] | None = None) -> Answer:
        return await self.ask("POST", data=body, headers=headers)

    async def raw(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(self.source))
        writer.write(request)
        await writer.drain()
        return reader, writer

    async def ids(self) -> list[Any]:
        """What came out, once all has."""
        await self.orchestrator.stop()
        return [compacted.event["id"] for compacted in self.out]


def port_of(source: HttpSource) -> int:
    return int(source.url.split(":")[2].partition("/")[0])


@asynccontextmanager
async def serving(pipeline: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Service]:
    async with aiohttp.ClientSession() as client:
        service = Service(client, HttpSource(**({"port": 0} | options)), **(pipeline or {}))
        await service.orchestrator.start()
        try:
            await asyncio.wait_for(service.source.listening(), 5)
            yield service
        finally:
            await service.orchestrator.stop()
        assert service.faults == []
        account = service.orchestrator.account
        assert account.in_flight == 0
        assert account.published == len(service.out)


def served(
    test: Callable[[Service], Coroutine[Any, Any, None]], pipeline: dict[str, Any] | None = None, **options: Any
) -> None:
    async def main() -> None:
        async with serving(pipeline, **options) as service:
            await test(service)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


# ── forms of a body ───────────────────────────────────────────────────────────────────────────────────────────────────

FORMS = {
    "object": (b'{"id":1}', [1]),
    "object and newline": (b'{"id":1}\n', [1]),
    "array": (b'[{"id":1},{"id":2}]', [1, 2]),
    "array over lines": (b'[{"id":1},\n {"id":2}\n]\n', [1, 2]),
    "array of one": (b'[{"id":1}]', [1]),
    "empty array": (b"[ ]", []),
    "NDJSON": (b'{"id":1}\n{"id":2}\n', [1, 2]),
    "NDJSON without a final newline": (b'{"id":1}\n{"id":2}', [1, 2]),
    "NDJSON with CRLF": (b'{"id":1}\r\n{"id":2}\r\n', [1, 2]),
    "NDJSON with empty lines": (b'\n\n{"id":1}\n\n\r\n{"id":2}\n\n', [1, 2]),
    "NDJSON with spaces": (b' {"id":1} \n\t{"id":2}\n', [1, 2]),
    "concatenated": (b'{"id":1}{"id":2}{"id":3}', [1, 2, 3]),
    "concatenated with spaces": (b'{"id":1} {"id":2}', [1, 2]),
    "concatenated over lines": (b'{"id":1}{"id":2}\n{"id":3}', [1, 2, 3]),
    "pretty-printed": (b'{\n  "id": 1,\n  "x": {\n    "y": [\n      {}\n    ]\n  }\n}', [1]),
    "pretty-printed, two": (b'{\n  "id": 1\n}\n{\n  "id": 2\n}\n', [1, 2]),
    "braces in strings": (b'{"id":"}{"}\n{"id":"}\\n{"}', ["}{", "}\n{"]),
    "BOM": (b'\xef\xbb\xbf{"id":1}\n{"id":2}', [1, 2]),
    "BOM and array": (b'\xef\xbb\xbf[{"id":1}]', [1]),
    "duplicate key": (b'{"id":0,"id":1}', [1]),
    "large integer": (b'{"id":123456789012345678901234567890}', [123456789012345678901234567890]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain; charset=utf-8", "application/x-ndjson"])
def test_a_body_is_taken_in_any_form_whatever_it_calls_itself(form: str, content_type: str) -> None:
    body, ids = FORMS[form]

    async def test(service: Service) -> None:
        assert (await service.post(body, {"Content-Type": content_type})).counts == (202, len(ids), 0)
        assert service.orchestrator.account.received == len(ids)
        assert await service.ids() == ids

    served(test)


def test_values_may_be_concatenated_with_spaces_and_newlines() -> None:
    async def test(service: Service) -> None:
        assert (await service.post(b'{"id":1} {"id":2}\n{"id":3}')).counts == (202, 3, 0)

    served(test)


@pytest.mark.parametrize(
    ("items", "body", "ids"),
    [
        ("alerts", b'{"version":"4","alerts":[{"id":1},{"id":2}]}\n', [1, 2]),
        ("alerts", b'{\n "alerts": [\n {"id":1}\n]}', [1]),
        ("alerts", b'{"alerts":[]}', []),
        ("alerts", b'[{"id":1}]', [1]),
        ("alerts", b'{"id":1}', [1]),
        ("alerts", b'{"id":1,"alerts":"none"}', [1]),
        ("alerts", b'{"id":1}\n{"id":2}', [1, 2]),
        ("data.list", b'{"data":{"list":[{"id":1}]}}', [1]),
        ("data.list", b'{"id":1,"data":null}', [1]),
    ],
)
def test_the_list_may_be_inside_an_object(items: str, body: bytes, ids: list[int]) -> None:
    async def test(service: Service) -> None:
        assert (await service.post(body)).counts == (202, len(ids), 0)
        assert await service.ids() == ids

    served(test, items=items)


# ── gzip, encodings ───────────────────────────────────────────────────────────────────────────────────────────────────

LINES = b"".join(b'{"id":%d}\n' % n for n in range(3000))


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
def test_gzip_is_unpacked_however_it_is_cut(encoding: str) -> None:
    async def drops(packed: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(packed), 97):
            yield packed[start : start + 97]

    async def test(service: Service) -> None:
        headers = {"Content-Encoding": encoding}
        two = gzip.compress(LINES[:5000]) + gzip.compress(LINES[5000:])
        for body in (gzip.compress(LINES), two, drops(gzip.compress(LINES)), drops(two)):
            assert (await service.post(body, headers)).counts == (202, 3000, 0)
        assert len(await service.ids()) == 3000
        assert {compacted.count for compacted in service.out} == {4}

    served(test)


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(LINES)[:-1],
        gzip.compress(LINES)[:-9],
        gzip.compress(LINES)[: len(gzip.compress(LINES)) // 2],
        gzip.compress(LINES[:5000]) + gzip.compress(LINES[5000:])[:-4],
        gzip.compress(LINES)[:-8] + b"\0" * 8,
        gzip.compress(LINES) + b"more",
        LINES,
        b"\x1f\x8b",
        b"",
        gzip.compress(b""),
    ],
    ids=[
        "one byte",
        "check sum",
        "half",
        "second member",
        "wrong sum",
        "more behind",
        "plain",
        "magic",
        "none",
        "empty",
    ],
)
def test_gzip_that_is_no_whole_gzip_is_400_and_nothing_of_it_taken(body: bytes) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(body, GZIP)
        assert answer.status == 400
        assert json.loads(answer.text)["error"]
        assert service.orchestrator.account.received == 0

    served(test)


def test_a_gzip_bomb_is_413_and_takes_no_memory() -> None:
    bomb = gzip.compress(b"\0" * 10_000_000) * 20

    async def test(service: Service) -> None:
        tracemalloc.start()
        try:
            assert (await service.post(bomb, GZIP)).status == 413
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8_000_000
        assert (await service.post(b'{"id":1}')).status == 202

    served(test, max_body=1_000_000)


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "nonsense"])
def test_another_encoding_is_415(encoding: str) -> None:
    async def test(service: Service) -> None:
        assert (await service.post(b'{"id":1}', {"Content-Encoding": encoding})).status == 415
        assert service.orchestrator.account.received == 0

    served(test)


@pytest.mark.parametrize(
    ("charset", "status"),
    [("utf-8", 202), ("UTF-8", 202), ('"utf-8"', 202), ("us-ascii", 202), ("utf-16", 415), ("nonsense", 415)],
)
def test_another_charset_is_415(charset: str, status: int) -> None:
    async def test(service: Service) -> None:
        body = '{"id":1}'.encode("utf-16" if charset == "utf-16" else "utf-8")
        answer = await service.post(body, {"Content-Type": f"application/json; charset={charset}"})
        assert answer.status == status

    served(test)


# ── bad lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────

BAD = {
    "malformed": b'{"id":1',
    "text": b"hello",
    "a list": b"[1]",
    "a number": b"1",
    "null": b"null",
    "invalid UTF-8": b'{"id":"\xff"}',
    "NaN": b'{"id":NaN}',
    "too large a number": b'{"id":1e999}',
    "5,000 digits": b'{"id":' + b"9" * 5000 + b"}",
    "lone surrogate": b'{"id":"\\ud800"}',
    "nested 100,000 deep": b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_told_of_with_its_reason_and_the_good_ones_are_taken(kind: str) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b"\n".join([b'{"id":1}', BAD[kind], b'{"id":2}', b""]))
        assert answer.counts == (202, 2, 1)
        [(line, reason)] = answer.reasons
        assert line == 2
        assert reason
        assert await service.ids() == [1, 2]
        account = service.orchestrator.account
        assert (account.received, account.refused, account.published) == (3, 1, 2)
        assert [(each.outcome, each.stage, each.reason) for each in service.letters] == [
            ("rejected", "compact", "malformed")
        ]

    served(test)


@pytest.mark.parametrize("kind", BAD)
def test_a_body_of_which_nothing_is_good_is_400_with_the_reason(kind: str) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(BAD[kind])
        assert answer.status == 400
        body = json.loads(answer.text)
        assert body.get("error") or body["errors"][0]["reason"]
        assert await service.ids() == []

    served(test)


@pytest.mark.parametrize("kind", BAD)
def test_strict_it_takes_nothing_of_a_body_with_a_bad_line(kind: str) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b"\n".join([b'{"id":1}', BAD[kind], b'{"id":2}']))
        assert answer.counts == (400, 0, 1)
        assert answer.reasons[0][0] == 2
        assert service.orchestrator.account.received == 0
        assert (await service.post(b'{"id":1}\n{"id":2}')).counts == (202, 2, 0)

    served(test, strict=True)


def test_an_answer_tells_of_some_bad_lines_and_counts_all() -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b"\n".join([b'{"id":1}', *[b"bad"] * 50]))
        assert answer.counts == (202, 1, 50)
        assert 1 < len(answer.reasons) < 50

    served(test)


@pytest.mark.parametrize("body", [b'[{"id":1},null,{"id":2}]', b'[{"id":1},{"id":"\xff"},{"id":2}]'])
def test_of_an_array_too_only_what_is_bad_is_set_aside(body: bytes) -> None:
    async def test(service: Service) -> None:
        assert (await service.post(body)).counts == (202, 2, 1)
        assert await service.ids() == [1, 2]

    served(test)


@pytest.mark.parametrize("body", [b'[{"id":1}', b'[{"id":1},]', b'[{"id":1} {"id":2}]', b'[{"id":1}] x', b"["])
def test_an_array_that_cannot_be_taken_apart_is_400(body: bytes) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(body)
        assert answer.status == 400
        assert json.loads(answer.text)["error"]
        assert service.orchestrator.account.received == 0

    served(test)


@pytest.mark.parametrize("body", [b"", b" \r\n", b"\xef\xbb\xbf"])
def test_an_empty_body_is_400(body: bytes) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(body)
        assert (answer.status, json.loads(answer.text)) == (400, {"status": 400, "error": "empty body"})

    served(test)


def test_any_json_is_a_key() -> None:
    async def test(service: Service) -> None:
        body = b'{"id":1}\n{"id":1.0}\n{"id":true}\n{"id":"1"}\n{"id":[1]}\n{"id":{"a":1}}\n{"id":null}\n{}\n{"id":1}'
        assert (await service.post(body)).counts == (202, 9, 0)
        await service.orchestrator.stop()
        assert [compacted.count for compacted in service.out] == [2, 1, 1, 1, 1, 1, 2]

    served(test)


@pytest.mark.parametrize("body", [b'{"id":1}', b'{"id":1,"ts":"soon"}', b'{"id":1,"ts":"9999-01-01T00:00:00Z"}'])
def test_an_event_that_is_refused_for_its_time_is_told_of_with_its_reason(body: bytes) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(body)
        assert answer.counts == (400, 0, 1)
        assert answer.reasons

    served(test, {"time_mapper": "ts", "lateness": 10})


def test_the_number_of_a_bad_line_is_that_of_the_body() -> None:
    async def test(service: Service) -> None:
        assert (await service.post(b'{"id":1}\n\n\nbad')).reasons[0][0] == 4

    served(test)


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    async def chunked(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    async def test(service: Service) -> None:
        fits = b'{"id":1}'.ljust(1000)
        for body, status in ((fits, 202), (fits + b" ", 413)):
            assert (await service.post(body)).status == status
            assert (await service.post(chunked(body))).status == status
            assert (await service.post(gzip.compress(body), GZIP)).status == status
        assert service.orchestrator.account.received == 3

    served(test, max_body=1000)


def test_an_endless_chunked_body_is_413() -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.raw(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write((b"3e8\r\n" + b" " * 1000 + b"\r\n") * 3)
        assert b" 413 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        assert (await service.post(b'{"id":1}')).status == 202

    served(test, max_body=2000)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 100\r\n\r\n{",
        b'Transfer-Encoding: chunked\r\n\r\n8\r\n{"id":1}\r\n',
        b"Content-Length: 9\r\n\r\n",
    ],
    ids=["length", "chunked", "nothing"],
)
def test_a_body_that_stalls_is_408(head: bytes) -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.raw(b"POST / HTTP/1.1\r\nHost: x\r\n" + head)
        async with asyncio.timeout(5):
            assert b" 408 " in await reader.readline()
            assert b"Connection: close\r\n" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert service.orchestrator.account.received == 0
        assert (await service.post(b'{"id":1}')).status == 202

    served(test, body_timeout=0.1)


def test_a_body_that_trickles_has_no_more_time() -> None:
    async def test(service: Service) -> None:
        async def trickle() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b" "
                await asyncio.sleep(0.02)

        try:
            assert (await service.post(trickle())).status == 408
        except aiohttp.ClientError:  # it hung up while the body was on its way
            pass
        assert service.orchestrator.account.received == 0

    served(test, body_timeout=0.1)


def test_slow_bodies_hold_no_one_else_up() -> None:
    async def test(service: Service) -> None:
        slow = [await service.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{") for _ in range(50)]
        async with asyncio.timeout(2):
            assert (await service.post(b'{"id":1}')).status == 202
        for _, writer in slow:
            writer.close()

    served(test)


def test_a_client_that_goes_away_in_the_middle_leaves_nothing() -> None:
    async def test(service: Service) -> None:
        await go_away(service)
        assert service.orchestrator.account.received == 0
        assert (await service.post(b'{"id":1}')).status == 202

    served(test)


def test_a_client_that_goes_away_in_the_middle_makes_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        served(go_away)
    assert [record for record in caplog.records if record.exc_info] == []


async def go_away(service: Service) -> None:
    for _ in range(5):
        _, writer = await service.raw(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"id":1}\n')
        await asyncio.sleep(0.02)
        writer.transport.abort()
    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nExpect: foo\r\nContent-Length: 2\r\n\r\n{}", 417),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
    ids=["negative length", "two lengths", "long header", "Expect: foo", "TLS"],
)
def test_what_is_no_http_is_answered_and_does_no_harm(request_: bytes, status: int) -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.raw(request_)
        assert f" {status} ".encode() in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        assert (await service.post(b'{"id":1}')).status == 202

    served(test)


def test_who_expects_to_be_told_to_continue_is() -> None:
    async def test(service: Service) -> None:
        answer = await service.ask("POST", data=b'{"id":1}', expect100=True)
        assert answer.counts == (202, 1, 0)

    served(test)


# ── credentials ───────────────────────────────────────────────────────────────────────────────────────────────────────


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


BASIC = {"basic": ("user", "pässword:with:colons")}
BOTH = BASIC | {"token": "secret"}


@pytest.mark.parametrize(
    ("options", "given", "status"),
    [
        ({"token": "secret"}, "Bearer secret", 202),
        ({"token": "secret"}, "Bearer wrong", 401),
        ({"token": "secret"}, "Bearer secre", 401),
        ({"token": "secret"}, "secret", 401),
        ({"token": "secret"}, "Bearer sécret", 401),
        ({"token": "secret"}, "Basic c2VjcmV0", 401),
        ({"token": "secret"}, "", 401),
        ({"token": "secret"}, None, 401),
        (BASIC, basic("user", "pässword:with:colons"), 202),
        (BASIC, basic("user", "password"), 401),
        (BASIC, basic("other", "pässword:with:colons"), 401),
        (BASIC, "Basic !", 401),
        (BASIC, None, 401),
        (BOTH, "Bearer secret", 202),
        (BOTH, basic("user", "pässword:with:colons"), 202),
        (BOTH, "Bearer pässword:with:colons", 401),
        ({}, "Bearer whatever", 202),
    ],
)
def test_credentials_are_right_wrong_or_missing(options: Any, given: str | None, status: int) -> None:
    async def test(service: Service) -> None:
        answer = await service.post(b'{"id":1}', {"Authorization": given} if given is not None else None)
        assert answer.status == status
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
        assert service.orchestrator.account.received == (status == 202)

    served(test, **options)


def test_without_credentials_the_body_is_not_even_read() -> None:
    async def test(service: Service) -> None:
        reader, writer = await service.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        assert b" 401 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        for path in ("healthz", "readyz"):
            assert (await service.ask("GET", path)).status == 200

    served(test, token="secret")


# ── full ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def ndjson(*ids: int) -> bytes:
    return b"\n".join(b'{"id":%d}' % n for n in ids)


def test_full_it_refuses_what_is_new_and_takes_duplicates_of_what_it_holds() -> None:
    async def test(service: Service) -> None:
        for ids, status in (
            ((1, 2), 202), ((3, 4), 503), ((3, 1, 2, 1, 3), 202), ((4,), 503), ((1,), 202), ((3, 2, 1, 3), 202),
            ((1, 4), 503),
        ):  # fmt: skip
            answer = await service.post(ndjson(*ids))
            assert answer.status == status
            assert answer.headers.get("Retry-After") == ("7" if status == 503 else None)
        assert (await service.ask("GET", "readyz")).status == 503
        assert (await service.ask("GET", "healthz")).status == 200
        assert "rxcompact_in_flight 3.0" in (await service.ask("GET", "metrics")).text
        assert sorted(await service.ids()) == [1, 2, 3]
        account = service.orchestrator.account
        assert (account.received, account.distinct, account.dropped, account.published) == (12, 3, 0, 3)

    served(test, {"max_in_flight": 3}, retry_after=7)


def test_what_is_more_than_can_be_held_at_all_is_413() -> None:
    async def test(service: Service) -> None:
        assert (await service.post(ndjson(1, 2, 3, 4))).status == 413
        assert (await service.post(ndjson(1, 2, 3, 3, 2, 1))).status == 202
        assert (await service.post(ndjson(1, 2, 3, 4))).status == 503  # for now
        assert service.orchestrator.account.dropped == 0

    served(test, {"max_in_flight": 3})


def test_once_there_is_room_who_came_again_is_taken() -> None:
    async def test(service: Service) -> None:
        assert (await service.post(ndjson(1, 2, 3))).status == 202
        assert (await service.post(ndjson(4))).status == 503
        await until(lambda: len(service.out) == 3)
        assert (await service.ask("GET", "readyz")).status == 200
        assert (await service.post(ndjson(4))).status == 202
        assert sorted(await service.ids()) == [1, 2, 3, 4]

    served(test, {"max_in_flight": 3, "timespan": 0.2, "batch_timespan": 0.01})


def test_many_at_once_that_come_again_all_get_through_and_nothing_is_dropped() -> None:
    async def test(service: Service) -> None:
        refused = 0

        async def sender(start: int) -> None:
            nonlocal refused
            while (status := (await service.post(ndjson(*range(start, start + 10)))).status) != 202:
                assert status == 503
                refused += 1
                await asyncio.sleep(random.uniform(0.01, 0.05))

        async with asyncio.timeout(8):
            await asyncio.gather(*map(sender, range(0, 600, 10)))
        assert refused
        assert sorted(await service.ids()) == list(range(600))
        assert service.orchestrator.account.dropped == 0

    served(test, {"max_in_flight": 50, "timespan": 0.02, "batch_timespan": 0.01})


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ({"count": 2}, ndjson(1, 2, 1, 2, 1, 2)),
        (
            {"time_mapper": "ts", "lateness": 1e6},
            b"\n".join(b'{"id":1,"ts":%d}' % (1.7e9 + 5000 * n) for n in range(4)),
        ),
    ],
    ids=["windows by count", "windows by event time"],
)
def test_what_was_accepted_is_not_dropped_for_want_of_room(options: Any, body: bytes) -> None:
    async def test(service: Service) -> None:
        if (await service.post(body)).status == 202:
            assert service.orchestrator.account.dropped == 0

    served(test, {"max_in_flight": 3} | options)


@pytest.mark.parametrize("before", [(), (1, 2, 3)], ids=["empty", "full"])
def test_a_bad_line_among_duplicates_needs_no_room(before: tuple[int, ...]) -> None:
    async def test(service: Service) -> None:
        if before:
            assert (await service.post(ndjson(*before))).status == 202
        assert (await service.post(ndjson(1, 1, 1, 1) + b"\nbad")).counts == (202, 4, 1)

    served(test, {"max_in_flight": 3})


# ── what it says of itself ────────────────────────────────────────────────────────────────────────────────────────────


def test_wrong_methods_are_405_and_wrong_paths_404() -> None:
    async def test(service: Service) -> None:
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            answer = await service.ask(method)
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        base = service.source.url.removesuffix("events")
        for path in ("", "other", "events/more"):
            async with service.client.post(base + path, data=b'{"id":1}') as response:
                assert response.status == 404
        assert (await service.post(b'{"id":1}')).status == 202

    served(test, path="/events")


def test_the_account_is_to_be_had_as_metrics() -> None:
    async def test(service: Service) -> None:
        await service.post(b'{"id":1}\n{"id":1}\n{"id":2}\nbad')
        answer = await service.ask("GET", "metrics")
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain")
        samples = dict(line.split(" ") for line in answer.text.splitlines() if not line.startswith("#"))
        assert {name: float(samples[f"rxcompact_{name}"]) for name in (
            "received_total", "duplicates_total", "distinct_total", "refused_total", "published_total", "in_flight"
        )} == {
            "received_total": 4, "duplicates_total": 1, "distinct_total": 2, "refused_total": 1, "published_total": 0,
            "in_flight": 2,
        }  # fmt: skip

    served(test)


def test_arguments_out_of_range() -> None:
    with pytest.raises(ArgumentError, match="max_body"):
        HttpSource(max_body=0)


# ── lifecycle ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def posting(service: Service, do: Callable[[], Awaitable[object]]) -> tuple[set[int], int]:
    """Post from many connections while something is done; return what was taken, and how often it was not."""
    taken: set[int] = set()
    refused = 0
    numbers = iter(range(1_000_000))
    over = False

    async def sender() -> None:
        nonlocal refused
        while not over:
            ids = [next(numbers) for _ in range(5)]
            try:
                answer = await service.post(ndjson(*ids))
            except aiohttp.ClientError:
                refused += 1
            else:
                if answer.status == 202:
                    taken.update(ids)
                else:
                    assert answer.status == 503
                    assert "Retry-After" in answer.headers
                    refused += 1
            await asyncio.sleep(0.001)

    senders = [asyncio.create_task(sender()) for _ in range(20)]
    await asyncio.sleep(0.2)
    await do()
    await asyncio.sleep(0.1)
    over = True
    await asyncio.gather(*senders)
    return taken, refused


def test_while_it_stops_posts_are_refused_and_what_was_taken_is_published() -> None:
    async def test(service: Service) -> None:
        taken, refused = await posting(service, service.orchestrator.stop)
        assert refused
        assert len(taken) > 100
        assert taken <= set(await service.ids())

    served(test, {"timespan": 0.05, "batch_timespan": 0.01})


def test_over_a_restart_posts_are_refused_for_a_moment_and_nothing_taken_is_lost() -> None:
    async def test(service: Service) -> None:
        url = service.source.url

        async def restart() -> None:
            for _ in range(3):
                await service.orchestrator.restart()
                await asyncio.wait_for(service.source.listening(), 5)
                assert service.source.url == url
                await asyncio.sleep(0.05)

        taken, _ = await posting(service, restart)
        assert (await service.post(ndjson(-1))).status == 202
        assert taken | {-1} <= set(await service.ids())
        assert not [signal for signal in service.signals if isinstance(signal, SourceFailed)]

    served(test, {"timespan": 0.05, "batch_timespan": 0.01})


def test_a_window_outlives_a_restart_of_the_source() -> None:
    async def test(service: Service) -> None:
        await service.post(ndjson(1))
        await service.orchestrator.restart()
        await asyncio.wait_for(service.source.listening(), 5)
        await service.post(ndjson(1, 2))
        assert await service.ids() == [1, 2]
        assert [compacted.count for compacted in service.out] == [2, 1]

    served(test)


def test_stopped_it_listens_no_more_and_started_again_it_has_the_same_port() -> None:
    async def test(service: Service) -> None:
        url = service.source.url
        await service.orchestrator.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await service.post(ndjson(1))
        await service.orchestrator.start()
        await asyncio.wait_for(service.source.listening(), 5)
        assert service.source.url == url
        assert (await service.post(ndjson(1))).status == 202

    served(test)


async def stopped_in_the_middle_of_a_body(service: Service, deadline: float) -> None:
    reader, writer = await service.raw(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"id"')
    await asyncio.sleep(0.05)
    stop = asyncio.create_task(service.orchestrator.stop(deadline))
    await asyncio.sleep(0.1)
    writer.write(b":1} ")
    try:
        answer = await asyncio.wait_for(reader.readline(), deadline)
    finally:
        writer.close()
        report = await stop
    assert not answer or b" 503 " in answer  # not taken, and told so or cut off
    assert report.account.received == 0
    assert report.seconds < deadline


def test_a_body_that_is_on_its_way_does_not_hold_a_stop_up() -> None:
    served(lambda service: stopped_in_the_middle_of_a_body(service, 10))


@pytest.mark.xfail(reason="a short deadline cuts the closing of the server short, and its connections stay")
def test_nor_does_its_connection_outlive_a_stop_with_a_short_deadline() -> None:
    try:
        served(lambda service: stopped_in_the_middle_of_a_body(service, 2))
    finally:
        gc.collect()  # now, and not in the next test, it is said that a connection was left open


def test_a_port_in_use_is_tried_again_until_it_is_free() -> None:
    async def main() -> None:
        blocker = socket.socket()
        blocker.bind(("127.0.0.1", 0))
        blocker.listen()
        async with aiohttp.ClientSession() as client:
            service = Service(client, HttpSource(port=blocker.getsockname()[1]))
            await service.orchestrator.start()
            try:
                failures = lambda: [signal for signal in service.signals if isinstance(signal, SourceFailed)]
                await until(lambda: len(failures()) >= 2)
                assert [signal.failures for signal in failures()[:2]] == [1, 2]
                assert isinstance(failures()[0].error, OSError)
                assert service.orchestrator.state == "running"
                blocker.close()
                await asyncio.wait_for(service.source.listening(), 5)
                assert (await service.post(ndjson(1))).status == 202
                assert await service.ids() == [1]
            finally:
                blocker.close()
                await service.orchestrator.stop()
            assert service.faults == []

    asyncio.run(main())


def test_a_restart_while_it_starts_to_listen_does_no_harm() -> None:
    async def main() -> list[int]:
        deaf: list[int] = []
        for turns in range(8):
            async with aiohttp.ClientSession() as client:
                service = Service(client, HttpSource(port=free_port()))
                await service.orchestrator.start()
                for _ in range(turns):
                    await asyncio.sleep(0)
                await service.orchestrator.restart()
                try:
                    await asyncio.wait_for(service.source.listening(), 0.5)
                except TimeoutError:
                    deaf.append(turns)
                await service.orchestrator.stop()
        return deaf

    deaf = asyncio.run(main())
    gc.collect()  # now, and not in the next test, it is said that a socket was left open
    assert deaf == []


def test_the_url_of_an_ipv6_address_is_one() -> None:
    assert HttpSource(host="::1", port=1234).url == "http://[::1]:1234/"
