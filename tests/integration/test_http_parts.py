"""HttpSource, HttpEnricher and HttpSink over real sockets on loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from rxcompact import HttpEnricher, HttpSink, HttpSource, Orchestrator, Pipeline
from rxcompact.errors import PermanentError, RateLimitedError, TransientError
from rxcompact.events import Batch, Compacted

Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def service(**options: Any) -> AsyncIterator[tuple[aiohttp.ClientSession, str, list[Any], Orchestrator]]:
    """A running pipeline behind an HttpSource: a client, its URL, what comes out."""
    settings = {key: options.pop(key) for key in ("max_in_flight", "timespan") if key in options}
    source = HttpSource(port=0, **options)
    out: list[Any] = []
    pipeline = Pipeline(
        source=source, key_mapper="id", sink=out.extend, max_age=60, **({"timespan": 1000} | settings)
    )  # fmt: skip
    async with aiohttp.ClientSession() as client:
        orchestrator = Orchestrator(pipeline)
        await orchestrator.start()
        await source.listening()
        try:
            yield client, source.url, out, orchestrator
        finally:
            await orchestrator.stop()


async def post(body: Any, headers: dict[str, str] | None = None, **options: Any) -> tuple[int, Any, list[Any]]:
    """The status, the answer, and the ids that came out."""
    async with service(**options) as (client, url, out, orchestrator):
        async with client.post(url, data=body, headers=headers) as response:
            text = await response.text()
            status = response.status
        await orchestrator.stop()
        return status, json.loads(text) if text.startswith("{") else text, [c.event["id"] for c in out]


GOOD = {
    "object": b'{"id":1}',
    "NDJSON": b'{"id":1}\n{"id":2}\n',
    "NDJSON without a final newline": b'{"id":1}\n{"id":2}',
    "CRLF and empty lines": b'{"id":1}\r\n\r\n{"id":2}\r\n',
    "array": b'[{"id":1},\n {"id":2}]',
    "pretty-printed": b'{\n  "id": 1,\n  "x": {\n  }\n}\n',
    "concatenated": b'{"id":1}{"id":2} {"id":3}',
    "BOM": b'\xef\xbb\xbf{"id":1}',
    "empty array": b"[]",
    "duplicate keys": b'{"id":0,"id":1}',
}


@pytest.mark.parametrize("form", GOOD)
def test_a_body_may_have_many_forms(form: str) -> None:
    ids = {"empty array": [], "concatenated": [1, 2, 3], "NDJSON": [1, 2], "array": [1, 2]}
    expected = ids.get(form) if form in ids else [1, 2] if b'"id":2' in GOOD[form] else [1]
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}):
        body = gzip.compress(GOOD[form]) if "Content-Encoding" in headers else GOOD[form]
        status, answer, out = asyncio.run(post(body, headers))
        assert (status, answer) == (202, {"accepted": len(expected or []), "rejected": 0})
        assert out == expected


def test_a_list_may_be_inside_an_object() -> None:
    body = b'{"version":"4","alerts":[{"id":1},{"id":2}]}\n'
    assert asyncio.run(post(body, items="alerts")) == (202, {"accepted": 2, "rejected": 0}, [1, 2])


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"{bad", {}, 400),
        (b"[1, null]", {}, 400),
        (b'[{"id":1}', {}, 400),
        (b'{"id":"\xff"}', {}, 400),
        (b'{"id":' + b"[" * 40_000, {}, 400),
        (b'{"id":' + b"9" * 5000 + b"}", {}, 400),
        (b'{"id":NaN}', {}, 400),
        (b"not gzip", {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(b'{"id":1}\n' * 2000)[:-20], {"Content-Encoding": "gzip"}, 400),
        (b'{"id":1}', {"Content-Encoding": "br"}, 415),
        (b'{"id":1}', {"Content-Encoding": "gzip, gzip"}, 415),
        ('{"id":1}'.encode("utf-16"), {"Content-Type": "application/json; charset=utf-16"}, 415),
        (b'{"id":1}' + b" " * 100_000, {}, 413),
        (gzip.compress(b"\0" * 100_000_000), {"Content-Encoding": "gzip"}, 413),
    ],
)
def test_what_cannot_be_taken_is_refused_and_nothing_of_it_taken(body: bytes, headers: Any, status: int) -> None:
    found, _, out = asyncio.run(post(body, headers, max_body=50_000))
    assert (found, out) == (status, [])


def test_an_endless_body_is_refused() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b" " * 1000

    async def main() -> int:
        async with service(max_body=50_000) as (client, url, _, _):
            try:
                async with client.post(url, data=endless()) as response:
                    return response.status
            except aiohttp.ClientError:  # it hung up while the body was on its way
                return 413

    assert asyncio.run(main()) == 413


BAD_AMONG_GOOD = b'{"id":1}\nbad\n{"id":2}\n[3]\n'


def test_a_bad_line_is_told_of_and_the_good_ones_are_taken() -> None:
    status, answer, out = asyncio.run(post(BAD_AMONG_GOOD))
    assert (status, answer["accepted"], answer["rejected"], out) == (202, 2, 2, [1, 2])
    assert [error["line"] for error in answer["errors"]] == [2, 4]
    assert answer["errors"][1]["reason"] == "not a JSON object but list"
    status, answer, out = asyncio.run(post(BAD_AMONG_GOOD, strict=True))
    assert (status, answer["accepted"], out) == (400, 0, [])


@pytest.mark.parametrize(
    ("options", "header", "status"),
    [
        ({"token": "secret"}, None, 401),
        ({"token": "secret"}, "Bearer wrong", 401),
        ({"token": "secret"}, "Bearer secret", 202),
        ({"basic": ("user", "pass")}, "Basic dXNlcjpwYXNz", 202),
        ({"basic": ("user", "pass")}, "Basic dXNlcjp3cm9uZw==", 401),
    ],
)
def test_credentials(options: Any, header: str | None, status: int) -> None:
    found, _, _ = asyncio.run(post(b'{"id":1}', {"Authorization": header} if header else None, **options))
    assert found == status


def test_a_slow_body_is_given_up() -> None:
    async def main() -> bytes:
        async with service(body_timeout=0.2) as (_, url, _, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].rstrip("/")))
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            line = await reader.readline()
            writer.close()
            return line

    assert b" 408 " in asyncio.run(main())


def test_full_it_refuses_what_is_new_and_takes_what_it_holds() -> None:
    async def main() -> None:
        async with service(max_in_flight=3) as (client, url, _, orchestrator):

            async def status(body: str) -> int:
                async with client.post(url, data=body) as response:
                    assert (response.headers.get("Retry-After") == "1") == (response.status == 503)
                    return response.status

            assert await status('{"id":1}\n{"id":2}') == 202
            assert await status('{"id":2}\n{"id":1}\n{"id":3}') == 202
            assert await status('{"id":4}') == 503
            assert await status('{"id":1}\n{"id":3}') == 202
            assert await status('{"id":1}\n{"id":4}') == 503
            async with client.get(url + "readyz") as response:
                assert response.status == 503
            assert orchestrator.account.received == 7
        async with service(max_in_flight=3) as (client, url, _, _):
            body = "\n".join(f'{{"id":{n}}}' for n in range(4))
            async with client.post(url, data=body) as response:
                assert response.status == 413

    asyncio.run(main())


def test_what_it_says_of_itself() -> None:
    async def main() -> None:
        async with service() as (client, url, _, _):
            await client.post(url, data=b'{"id":1}\n{"id":1}')
            for path, status in (("healthz", 200), ("readyz", 200), ("nothing", 404)):
                async with client.get(url + path) as response:
                    assert response.status == status
            async with client.get(url) as response:
                assert response.status == 405
            async with client.get(url + "metrics") as response:
                text = await response.text()
            assert "rxcompact_received_total 2.0" in text
            assert "rxcompact_in_flight 1.0" in text

    asyncio.run(main())


def test_a_restart_keeps_the_port_and_the_window() -> None:
    async def main() -> None:
        async with service() as (client, url, out, orchestrator):
            await client.post(url, data=b'{"id":1}')
            await orchestrator.restart()
            source: Any = orchestrator.pipeline.source
            await source.listening()
            assert source.url == url
            async with client.post(url, data=b'{"id":1}\n{"id":2}') as response:
                assert response.status == 202
            report = await orchestrator.stop()
            assert report.account.published == 2
            assert [(c.event["id"], c.count) for c in out] == [(1, 2), (2, 1)]

    asyncio.run(main())


# ── clients ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def enriched(event: Any, handler: Handler, template: str = "/{id}", **options: Any) -> Any:
    async def main() -> Any:
        async with server(handler) as url:
            enricher = HttpEnricher(url + template, **options)
            try:
                return await enricher.enrich(event)
            finally:
                await enricher.aclose()

    return asyncio.run(main())


async def echo(request: web.Request) -> web.Response:
    return web.json_response({"path": request.raw_path, "auth": request.headers.get("Authorization")})


def test_fields_are_percent_encoded_into_the_url() -> None:
    event = {"id": "a/b?c#d é&", "n": {"x": 1.5}}
    answer = enriched(event, echo, "/h/{id}/{n.x}?q={id}", headers={"Authorization": "Bearer t"})
    encoded = "a%2Fb%3Fc%23d%20%C3%A9%26"
    assert answer == event | {"enrichment": {"path": f"/h/{encoded}/1.5?q={encoded}", "auth": "Bearer t"}}


def test_how_an_answer_is_merged_is_the_callers_choice() -> None:
    assert enriched({"id": 1}, echo, merge="api")["api"]["path"] == "/1"
    assert enriched({"id": 1}, echo, merge=lambda event, answer: event | answer)["path"] == "/1"


@pytest.mark.parametrize("status", [204, 404])
def test_nothing_to_add(status: int) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status)

    assert enriched({"id": 1}, handler) == {"id": 1}


@pytest.mark.parametrize(
    ("status", "headers", "error", "says"),
    [
        (500, {}, TransientError, "HTTP 500"),
        (408, {}, TransientError, "HTTP 408"),
        (429, {"Retry-After": "7"}, RateLimitedError, "HTTP 429"),
        (418, {}, PermanentError, "HTTP 418"),
        (302, {"Location": "http://127.0.0.1:1/"}, PermanentError, "HTTP 302"),
        (401, {}, TransientError, "HTTP 401"),
    ],
)
def test_statuses_as_errors(status: int, headers: Any, error: type[Exception], says: str) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    with pytest.raises(error, match=says) as caught:
        enriched({"id": 1}, handler)
    assert getattr(caught.value, "reason", None) == says
    assert getattr(caught.value, "retry_after", None) == (7 if headers.get("Retry-After") else None)


@pytest.mark.parametrize(
    ("body", "error"), [(b"<html>", TransientError), (b'{"a":', TransientError), (b"x" * 3000, PermanentError)]
)
def test_answers_that_cannot_be_used(body: bytes, error: type[Exception]) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body)

    with pytest.raises(error):
        enriched({"id": 1}, handler, max_answer=2000)


def test_an_event_that_lacks_a_field_of_the_url_is_rejected() -> None:
    with pytest.raises(PermanentError, match="lacks a field"):
        enriched({"x": 1}, echo)


BATCH = Batch(Compacted(n, {"n": n}, 1, float(n), float(n)) for n in range(5))


def published(handler: Handler, batch: Batch = BATCH, **options: Any) -> Any:
    async def main() -> Any:
        async with server(handler) as url:
            sink = HttpSink(url, **options)
            try:
                return await sink.publish(batch)
            finally:
                await sink.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize("format_", ["ndjson", "array"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_is_posted_with_its_idempotency_key(format_: Any, packed: bool) -> None:
    seen: list[web.Request] = []
    bodies: list[bytes] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        bodies.append(await request.read())  # unpacked by the server
        return web.Response()

    for _ in range(2):
        assert published(handler, format=format_, gzip=packed) is None
    rows = json.loads(bodies[0]) if format_ == "array" else [json.loads(line) for line in bodies[0].splitlines()]
    assert [row["event"]["n"] for row in rows] == [0, 1, 2, 3, 4]
    assert seen[0].headers.get("Content-Encoding") == ("gzip" if packed else None)
    keys = {request.headers["Idempotency-Key"] for request in seen}
    assert keys == {BATCH.idempotency_key}
    assert Batch(BATCH[:4]).idempotency_key not in keys


def test_a_batch_that_is_too_large_is_halved_until_only_what_cannot_be_sent_fails() -> None:
    taken: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        rows = [json.loads(line)["event"]["n"] for line in (await request.read()).splitlines()]
        if len(rows) > 2 or 3 in rows:
            return web.Response(status=413)
        taken.extend(rows)
        return web.Response()

    failed = published(handler)
    assert sorted(taken) == [0, 1, 2, 4]
    assert list(failed) == [3]
    assert isinstance(failed[3], PermanentError)


def test_what_does_not_answer_is_an_error_of_the_connection() -> None:
    async def main() -> None:
        sink = HttpSink("http://127.0.0.1:1/")
        with pytest.raises(aiohttp.ClientConnectorError):
            await sink.publish(BATCH)
        await sink.aclose()

    asyncio.run(main())


def test_a_truncated_gzip_body_is_not_half_taken() -> None:
    body = gzip.compress(b"".join(b'{"id":%d}\n' % n for n in range(2000)))
    assert 0 < len(zlib.decompressobj(wbits=31).decompress(body[:-200]))
    status, answer, out = asyncio.run(post(body[:-200], {"Content-Encoding": "gzip"}))
    assert (status, out) == (400, [])
    assert "cut short" in answer["error"]
