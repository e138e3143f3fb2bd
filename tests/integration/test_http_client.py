"""HttpEnricher and HttpSink against real servers on loopback; rows E and K of the fault table are in tests/faults."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

import aiohttp
import pytest
from aiohttp import web
from pipelines import simple_pipeline

from rxcompact import HttpEnricher, HttpSink, Orchestrator
from rxcompact.errors import ArgumentError, PermanentError, RateLimitedError, TransientError
from rxcompact.events import Batch, Compacted, DeadLetter
from rxcompact.format import error_text, redacted
from rxcompact.operators.retry import reason
from rxcompact.operators.verdict import retry_after, verdict
from rxcompact.signals import Report

Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:  # a handler may be an object too
        return await handler(request)

    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", r"/{tail:[\s\S]*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def sending(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that sends these answers, the last again and again, and closes each connection."""
    heads: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answers[min(len(heads), len(answers)) - 1])
            await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
    finally:
        server.close()
        await server.wait_closed()


async def enrich(url: Any, event: Any, **options: Any) -> Any:
    enricher = HttpEnricher(url, **options)
    try:
        async with asyncio.timeout(60):
            return await enricher.enrich(event)
    finally:
        await enricher.aclose()


def enriched(event: Any, handler: Handler, template: str = "/{id}", **options: Any) -> Any:
    async def main() -> Any:
        async with answering(handler) as base:
            return await enrich(base + template, event, **options)

    return asyncio.run(main())


def answer(status: int = 200, body: Any = b"{}", headers: Any = None) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    return handler


async def echo(request: web.Request) -> web.Response:
    return web.json_response({"method": request.method, "path": request.raw_path, "query": dict(request.query)})


# ── the URL ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("template", "event", "segments"),
    [
        ("/{id}", {"id": "a/b?c#d é"}, ["a/b?c#d é"]),
        ("/{id}", {"id": "%2e+&=;:@"}, ["%2e+&=;:@"]),
        ("/{id}", {"id": "x HTTP/1.1\r\nX-Evil: 1"}, ["x HTTP/1.1\r\nX-Evil: 1"]),
        ("/{id}", {"id": "nul\0"}, ["nul\0"]),
        ("/{id}", {"id": "{id}"}, ["{id}"]),
        ("/{id}/x", {"id": "a/../b"}, ["a/../b", "x"]),
        ("/{id}", {"id": 7}, ["7"]),
        ("/{id}", {"id": 1.5}, ["1.5"]),
        ("/{id}", {"id": True}, ["true"]),
        ("/{id}", {"id": 0}, ["0"]),
        ("/{id}", {"id": [1, "a"]}, ['[1,"a"]']),
        ("/{a.b.c}", {"a": {"b": {"c": "x"}}}, ["x"]),
        ("/{a.b}", {"a.b": "whole", "a": {"b": "nested"}}, ["whole"]),
        ("/{a}/of/{b}?q={a}", {"a": "x", "b": "y"}, ["x", "of", "y"]),
        ("/{{id}}/{id}", {"id": 1}, ["{id}", "1"]),
        ("/fixed", {"id": 1}, ["fixed"]),
    ],
)
def test_fields_in_the_url_are_percent_encoded(template: str, event: Any, segments: list[str]) -> None:
    path = enriched(event, echo, template)["enrichment"]["path"]
    assert path.isascii()
    assert path.isprintable()
    assert " " not in path
    assert [unquote(segment) for segment in path.partition("?")[0].split("/")] == ["", *segments]


def test_percent_encoded_values_arrive_unchanged() -> None:
    value = "a/b?c#d é&=+%20"
    assert enriched({"id": value}, echo, "/x?q={id}")["enrichment"]["query"] == {"q": value}


@pytest.mark.parametrize("event", [{}, {"a": None}, {"a": {}}, {"a": {"b": None}}, {"a": "b"}])
def test_h7_an_event_without_a_field_of_the_url_fails_without_a_call(event: Any) -> None:
    async def main() -> None:
        async with sending(b"") as (base, heads):
            url = base.replace("//", "//user:PASSWORD@") + "/{a.b}?key=SECRET"
            with pytest.raises(PermanentError) as caught:
                await enrich(url, event)
            assert str(caught.value) == f"the URL at {base} needs the field 'a.b', which the event lacks"
            assert heads == []

    asyncio.run(main())


def test_the_url_can_be_a_function_and_the_method_another() -> None:
    async def main() -> Any:
        async with answering(echo) as base:
            return await enrich(lambda event: f"{base}/x/{event['id']}", {"id": 3}, method="POST")

    assert asyncio.run(main())["enrichment"] == {"method": "POST", "path": "/x/3", "query": {}}


@pytest.mark.parametrize(
    "url",
    [
        "/relative/{id}",
        "{host}/x",
        "http://{host}/x",
        "",
        "http://x/{host",
        "http://x/host}",
        "http://x/{}",
        "ftp://x/",
    ],
)
def test_h6_l23_a_template_that_is_no_url_raises(url: str) -> None:
    with pytest.raises(ArgumentError, match=f"url must be .* got {re.escape(repr(url))}"):
        HttpEnricher(url)


def test_h8_an_error_about_a_url_does_not_show_its_credentials() -> None:
    for make in (HttpEnricher, HttpSink):
        with pytest.raises(ArgumentError) as caught:
            make("ftp://user:PASSWORD@host/{id}?key=SECRET")
        assert "ftp://host/" in str(caught.value)
        assert not {"PASSWORD", "SECRET"} & set(re.findall("[A-Z]+", str(caught.value)))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:pw@host/x", "http://host/x"),
        ("http://u:p/w@host:80/x", "http://host:80/x"),
        ("http://u:p@w@host/x", "http://host/x"),
        ("http://u:p?w@host/x", "http://***"),
        ("http://u:p#w@host/x?key=pw", "http://***"),
        ("http://u:p//w@host", "http://host"),
        ("http://u:p://w@host", "http://host"),
        ("http://p/w@host/x", "http://host/x"),
        ("u:p/w@host:80/x", "host:80/x"),
        ("u:p?w@host", "***"),
        ("http://host/x?key=pw#pw", "http://host/x"),
        ("http://host/x?mail=a@b&key=pw", "http://***"),
        ("redis://:p/w@[::1]:6379/0/stream", "redis://[::1]:6379/0/stream"),
        ("http://host/{id}?key=pw", "http://host/{id}"),
        ("/hosts/{host}", "/hosts/{host}"),
        ("", ""),
    ],
)
def test_h7_h8_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redacted(url) == shown
    text = error_text(OSError(f"cannot reach {url} now"))
    if "://" in url:
        assert not re.search(r"p[/?#@:]*w", text), text
        assert text.endswith(" now")


def test_a_template_is_percent_encoded() -> None:
    async def main() -> bytes:
        async with sending(b"HTTP/1.1 204 No Content\r\n\r\n") as (base, heads):
            await enrich(base + "/a b/é/{id}", {"id": 1})
            return heads[0].split(b"\r\n")[0]

    assert asyncio.run(main()) == b"GET /a%20b/%C3%A9/1 HTTP/1.1"


def test_the_url_of_a_function_is_percent_encoded() -> None:
    async def main() -> bytes:
        async with sending(b"HTTP/1.1 204 No Content\r\n\r\n") as (base, heads):
            await enrich(lambda event: f"{base}/{event['id']}", {"id": "a b"})
            return heads[0].split(b"\r\n")[0]

    assert asyncio.run(main()) == b"GET /a%20b HTTP/1.1"


@pytest.mark.parametrize("value", ["..", ".", ""])
def test_a_value_cannot_lead_to_another_path(value: str) -> None:
    async def main() -> None:
        async with sending(b"HTTP/1.1 204 No Content\r\n\r\n") as (base, heads):
            with pytest.raises(PermanentError):
                await enrich(base + "/hosts/{id}/info", {"id": value})
            assert heads == []

    asyncio.run(main())


# ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_is_merged_by_name_or_by_function() -> None:
    event = {"id": 1, "api": "old"}
    assert enriched(event, answer(body=b'{"x":2}')) == event | {"enrichment": {"x": 2}}
    assert enriched(event, answer(body=b'{"x":2}'), merge="api") == {"id": 1, "api": {"x": 2}}
    assert enriched(event, answer(body=b'{"x":2}'), merge=lambda old, new: {**old, **new}) == event | {"x": 2}
    assert event == {"id": 1, "api": "old"}


def test_w11_a_merge_function_gets_any_json() -> None:
    assert enriched({"id": 1}, answer(body=b"[1]"), merge=lambda old, new: {**old, "all": new}) == {"id": 1, "all": [1]}


@pytest.mark.parametrize("status", [204, 404])
@pytest.mark.parametrize("merge", ["enrichment", lambda old, new: 1 / 0])
def test_204_and_404_add_nothing(status: int, merge: Any) -> None:
    assert enriched({"id": 1}, answer(status, b""), merge=merge) == {"id": 1}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, PermanentError), (405, PermanentError), (418, PermanentError), (422, PermanentError),
        (301, PermanentError), (308, PermanentError),
        (401, TransientError), (403, TransientError), (410, TransientError), (408, TransientError),
        (425, TransientError), (429, RateLimitedError), (500, TransientError), (503, TransientError),
    ],
)  # fmt: skip
def test_a_status_is_an_error_of_its_class(status: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"HTTP {status}") as caught:
        enriched({"id": 1}, answer(status, b"no"))
    assert caught.type is kind
    assert caught.value.reason == f"HTTP {status}"


@pytest.mark.parametrize(
    ("value", "low", "high"), [("7", 7, 7), ("0", 0, 0), (100.0, 80, 100), (-100.0, 0, 0)], ids=str
)
def test_429_has_the_wait_of_retry_after(value: str | float, low: float, high: float) -> None:
    # the date is made now: the tests are collected minutes before this one runs
    header = value if isinstance(value, str) else formatdate(time.time() + value, usegmt=True)
    with pytest.raises(RateLimitedError) as caught:
        enriched({"id": 1}, answer(429, headers={"Retry-After": header}))
    assert caught.value.retry_after is not None
    assert low <= caught.value.retry_after <= high


@pytest.mark.parametrize("header", [None, "", "soon", "-3", "1.5", "Mon, 99 Foo 2020 00:00:00 GMT"])
def test_429_without_a_valid_retry_after_has_no_wait(header: str | None) -> None:
    with pytest.raises(RateLimitedError) as caught:
        enriched({"id": 1}, answer(429, headers=None if header is None else {"Retry-After": header}))
    assert caught.value.retry_after is None


def test_an_answer_of_max_answer_bytes_is_read() -> None:
    body = b'"' + b"x" * 998 + b'"'
    assert enriched({"id": 1}, answer(body=body), max_answer=1000)["enrichment"] == "x" * 998


# ── in a pipeline ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def ran(count: int = 1, **options: Any) -> tuple[list[Compacted], list[DeadLetter], Report]:
    """Run a few events through a pipeline; return the output, the dead letters and the report."""
    out: list[Compacted] = []
    letters: list[DeadLetter] = []
    options = {
        "source": [{"id": n} for n in range(count)], "key_mapper": "id", "timespan": 0.01, "sink": out.extend,
        "max_age": 30, "batch_timespan": 0.01, "wait": lambda _: 0.01,
    } | options  # fmt: skip
    orchestrator = Orchestrator(simple_pipeline(**options))
    orchestrator.dead_letters.subscribe(letters.append)
    async with asyncio.timeout(60):
        await orchestrator.start()
        report = await orchestrator.wait()
    return out, letters, report


def flaky(*statuses: int, headers: Any = None) -> tuple[Handler, list[float]]:
    """A handler that answers these, then 200; and the times of its requests."""
    asked: list[float] = []

    async def handler(_: web.Request) -> web.Response:
        asked.append(time.monotonic())
        status = statuses[len(asked) - 1] if len(asked) <= len(statuses) else 200
        return web.Response(status=status, body=b"{}", headers=headers if status != 200 else None)

    return handler, asked


def test_a_permanent_status_is_the_reason_of_the_dead_letter() -> None:
    async def main() -> None:
        handler, asked = flaky(418)
        async with answering(handler) as base:
            out, letters, report = await ran(enricher=HttpEnricher(base + "/{id}"))
        assert out == []
        assert len(asked) == 1
        [letter] = letters
        assert (letter.outcome, letter.stage, letter.reason, letter.attempts) == ("failed", "enrich", "HTTP 418", 1)
        assert report.account.failed == 1

    asyncio.run(main())


def test_an_event_without_the_field_fails_alone() -> None:
    async def main() -> None:
        async with answering(echo) as base:
            out, letters, _ = await ran(
                source=[{"id": 1, "h": "a"}, {"id": 2}, {"id": 3, "h": "c"}], enricher=HttpEnricher(base + "/{h}")
            )
        assert sorted(compacted.key for compacted in out) == [1, 3]
        assert [(letter.event.key, letter.outcome) for letter in letters] == [(2, "failed")]

    asyncio.run(main())


# ── the sink ──────────────────────────────────────────────────────────────────────────────────────────────────────────

BATCH = Batch(Compacted(n, {"n": n, "text": "é\n"}, 1, float(n), float(n)) for n in range(5))


class Store:
    """Stores batches, and the headers of their requests."""

    def __init__(self, answers: Callable[[list[int]], int] = lambda _: 200) -> None:
        self.answers = answers
        self.headers: list[Any] = []
        self.given: list[list[int]] = []
        self.taken: list[int] = []

    async def __call__(self, request: web.Request) -> web.Response:
        body = await request.read()
        rows = json.loads(body) if body.startswith(b"[") else [json.loads(line) for line in body.splitlines()]
        ids = [row["key"] for row in rows]
        self.headers.append(request.headers)
        self.given.append(ids)
        status = self.answers(ids)
        if status < 300:
            self.taken += ids
        return web.Response(status=status)


def published(handler: Handler, *, times: int = 1, batch: Batch = BATCH, **options: Any) -> Any:
    async def main() -> Any:
        async with answering(handler) as base:
            sink = HttpSink(base + "/", **options)
            try:
                for _ in range(times):
                    result = await sink.publish(batch)
            finally:
                await sink.aclose()
            return result

    return asyncio.run(main())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["ndjson", "array"])
def test_a_batch_is_posted_as_ndjson_or_array_gzip_or_not(form: Any, packed: bool) -> None:
    raw: list[tuple[Any, bytes]] = []

    async def main() -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            raw.append((headers, await reader.readexactly(int(headers["content-length"]))))
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        sink = HttpSink(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", format=form, gzip=packed,
            headers={"Authorization": "Bearer t"},
        )  # fmt: skip
        assert not await sink.publish(BATCH)
        await sink.aclose()
        server.close()

    asyncio.run(main())
    [(headers, body)] = raw
    assert headers.get("content-encoding") == ("gzip" if packed else None)
    assert headers["content-type"] == ("application/x-ndjson" if form == "ndjson" else "application/json")
    assert headers["authorization"] == "bearer t"
    assert headers["idempotency-key"] == BATCH.idempotency_key
    body = zlib.decompress(body, wbits=31) if packed else body
    if form == "ndjson":
        assert body.endswith(b"\n")
        assert body.count(b"\n") == 5
    rows = json.loads(body) if form == "array" else [json.loads(line) for line in body.splitlines()]
    assert rows == [
        {"key": n, "count": 1, "first_seen": n, "last_seen": n, "event": {"n": n, "text": "é\n"}} for n in range(5)
    ]


def test_to_json_and_the_name_of_the_idempotency_header_are_options() -> None:
    store = Store()
    published(store, to_json=lambda compacted: {"key": compacted.key * 10}, idempotency_header="webhook-id")
    assert store.given == [[0, 10, 20, 30, 40]]
    assert store.headers[0]["webhook-id"] == BATCH.idempotency_key
    assert "Idempotency-Key" not in store.headers[0]


def test_a_retry_has_the_same_idempotency_key_and_another_batch_another() -> None:
    async def main() -> None:
        store = Store(lambda _: 503 if len(store.given) < 3 else 200)
        async with answering(store) as base:
            await ran(3, sink=HttpSink(base))
            keys = [headers["Idempotency-Key"] for headers in store.headers]
            assert store.given == [[0, 1, 2]] * 3
            assert len(set(keys)) == 1
            await ran(3, sink=HttpSink(base), batch_count=1)
        assert len({headers["Idempotency-Key"] for headers in store.headers}) == 4
        assert sorted(store.taken) == [0, 0, 1, 1, 2, 2]

    asyncio.run(main())


def test_413_halves_a_batch_until_the_large_event_is_alone() -> None:
    async def main() -> None:
        store = Store(lambda ids: 413 if len(ids) > 2 or 3 in ids else 200)
        async with answering(store) as base:
            _, letters, report = await ran(5, sink=HttpSink(base))
        assert sorted(store.taken) == [0, 1, 2, 4]
        assert [(letter.event.key, letter.outcome, letter.reason) for letter in letters] == [(3, "failed", "HTTP 413")]
        assert isinstance(letters[0].error, PermanentError)
        assert report.account.published == 4
        assert len({headers["Idempotency-Key"] for headers in store.headers}) == len(store.headers)

    asyncio.run(main())


def test_413_for_everything_fails_each_event() -> None:
    async def main() -> None:
        store = Store(lambda _: 413)
        async with answering(store) as base:
            _, letters, report = await ran(7, sink=HttpSink(base))
        assert report.account.failed == 7
        assert {(letter.outcome, letter.reason) for letter in letters} == {("failed", "HTTP 413")}
        assert len(store.given) == 13  # the nodes of a tree of seven leaves

    asyncio.run(main())


def test_only_the_failed_half_of_a_batch_is_retried() -> None:
    async def main() -> None:
        failures = iter([503, 503])
        store = Store(lambda ids: 413 if len(ids) > 2 else next(failures, 200) if 0 in ids else 200)
        async with answering(store) as base:
            _, letters, report = await ran(4, sink=HttpSink(base))
        assert store.given == [[0, 1, 2, 3], [0, 1], [2, 3], [0, 1], [0, 1]]
        assert sorted(store.taken) == [0, 1, 2, 3]
        assert letters == []
        assert report.account.published == 4

    asyncio.run(main())


def test_permanent_and_transient_errors_of_a_halved_batch_are_kept_apart() -> None:
    async def main() -> None:
        failures = iter([500])

        def status(ids: list[int]) -> int:
            if len(ids) > 1:
                return 413
            return {1: 422, 2: next(failures, 200) if ids == [2] else 200}.get(ids[0], 200)

        store = Store(status)
        async with answering(store) as base:
            _, letters, report = await ran(4, sink=HttpSink(base))
        assert sorted(store.taken) == [0, 2, 3]
        assert [(letter.event.key, letter.reason) for letter in letters] == [(1, "HTTP 422")]
        assert (report.account.published, report.account.failed) == (3, 1)

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore:Sending a large body")
@pytest.mark.parametrize("gzip", [False, True])
def test_an_answer_with_the_events_themselves_is_read(gzip: bool) -> None:
    async def echoes(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())  # decompressed by aiohttp

    large = Batch(Compacted(number, {"text": "x" * 30_000}, 1, 0.0, 0.0) for number in range(100))
    assert published(echoes, batch=large, gzip=gzip) is None


def test_a_redirect_of_a_post_is_not_followed() -> None:
    async def main() -> None:
        async with sending(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (elsewhere, heads):
            moved = f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere}/\r\nContent-Length: 0\r\n\r\n".encode()
            async with sending(moved) as (base, _):
                _, letters, _ = await ran(1, sink=HttpSink(base))
            assert [letter.reason for letter in letters] == ["HTTP 307"]
            assert heads == []

    asyncio.run(main())


def test_two_adjacent_values_cannot_change_the_path() -> None:
    with pytest.raises(PermanentError, match="would change the path"):
        enriched({"a": ".", "b": "."}, echo, "/hosts/{a}{b}/info")


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_a_query_takes_any_value(value: str) -> None:
    assert enriched({"id": value}, echo, "/x?q={id}")["enrichment"]["query"] == {"q": value}


def test_an_event_without_a_json_form_fails_alone() -> None:
    async def main() -> None:
        store = Store()
        async with answering(store) as base:
            _, letters, _ = await ran(source=[{"id": 0}, {"id": 1, "x": "\ud800"}, {"id": 2}], sink=HttpSink(base))
        assert sorted(store.taken) == [0, 2]
        assert [letter.event.key for letter in letters] == [1]

    asyncio.run(main())


def test_503_waits_for_retry_after() -> None:
    async def main() -> None:
        handler, asked = flaky(503, headers={"Retry-After": "1"})
        async with answering(handler) as base:
            await ran(sink=HttpSink(base))
        assert asked[1] - asked[0] >= 0.99

    asyncio.run(main())


@pytest.mark.parametrize(("options", "argument"), [({"url": "/relative"}, "url"), ({"format": "xml"}, "format")])
def test_arguments_of_the_sink_out_of_range_raise(options: dict[str, Any], argument: str) -> None:
    with pytest.raises(ArgumentError, match=argument):
        HttpSink(**({"url": "http://127.0.0.1/"} | options))


# ── closing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_closed_client_leaves_no_session_and_can_be_reused() -> None:
    async def main() -> None:
        async with answering(echo) as base:
            enricher = HttpEnricher(base + "/{id}")
            sink = HttpSink(base)
            await enricher.aclose()  # never used
            for _ in range(2):
                assert await enricher.enrich({"id": 1})
                assert not await sink.publish(BATCH)
                await enricher.aclose()
                await enricher.aclose()
                await sink.aclose()
        del enricher, sink
        gc.collect()  # an open session warns when it is collected, and warnings are errors
        await asyncio.sleep(0)

    asyncio.run(main())


def test_a_pipeline_closes_its_sessions() -> None:
    async def main() -> None:
        store = Store()
        async with answering(echo) as api, answering(store) as base:
            enricher, sink = HttpEnricher(api + "/{id}"), HttpSink(base)
            await ran(3, enricher=enricher, sink=sink)
            assert sorted(store.taken) == [0, 1, 2]
            assert enricher._session is None
            assert sink._session is None
        gc.collect()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


async def by_aiohttp(url: str) -> Any:
    async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(url) as response:
        return await response.json()


async def by_httpx(url: str) -> Any:
    httpx = pytest.importorskip("httpx")
    async with httpx.AsyncClient() as client:
        return (await client.get(url)).raise_for_status().json()


def by_requests(url: str) -> Any:
    requests = pytest.importorskip("requests")
    response = requests.get(url, timeout=10)
    response.raise_for_status()
    return response.json()


@pytest.mark.parametrize("status", [400, 401, 403, 408, 409, 410, 422, 425, 429, 500, 503])
@pytest.mark.parametrize("client", [by_aiohttp, by_httpx, by_requests])
def test_w8_an_enricher_and_a_function_are_judged_alike(client: Any, status: int) -> None:
    async def raised(call: Awaitable[Any]) -> BaseException:
        with pytest.raises(Exception) as caught:
            await call
        return caught.value

    async def main() -> None:
        async with answering(answer(status, b"no", {"Retry-After": "7"})) as url:
            ours = await raised(enrich(url + "/x", {}))
            call = asyncio.to_thread(client, url + "/x") if client is by_requests else client(url + "/x")
            theirs = await raised(call)
        assert (verdict(theirs), reason(theirs), retry_after(theirs)) == (verdict(ours), f"HTTP {status}", 7)

    asyncio.run(main())
