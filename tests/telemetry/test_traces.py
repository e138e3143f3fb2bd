"""Traces of posts, through windows, to the calls for them: read back from an OTLP receiver on loopback."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self

import aiohttp
import pytest
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from rxcompact import CallEnded, HttpSource, Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.errors import TransientError
from rxcompact.observers import TracingObserver
from rxcompact.observers.tracing import LINKS

ID = "4bf92f3577b34da6a3ce929d0e0e{:04x}"
SPAN = "00f067aa0ba9{:04x}"


class Receiver:
    """An OTLP receiver, and the spans that it was sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        receiver.spans += scope.spans
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        exporter = OTLPSpanExporter(f"http://127.0.0.1:{self.server.server_port}/v1/traces")
        self.provider = TracerProvider()
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self.provider.get_tracer("test")

    def named(self, name: str) -> list[Any]:
        self.provider.force_flush()
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_time_unix_nano)

    def close(self) -> None:
        self.provider.shutdown()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def links(span: Any) -> list[tuple[str, str]]:
    return [(each.trace_id.hex(), each.span_id.hex()) for each in span.links]


def of(*numbers: int) -> list[tuple[str, str]]:
    return [(ID.format(number), SPAN.format(number)) for number in numbers]


def is_below(span: Any, parent: Any) -> bool:
    return (span.trace_id, span.parent_span_id) == (parent.trace_id, parent.span_id)


class Service:
    """A pipeline behind a real server, posted to with and without spans."""

    def __init__(self, receiver: Receiver, *operators: Any) -> None:
        self.source = HttpSource(port=0)
        self.orchestrator = Orchestrator(Pipeline(self.source, *operators, max_age=7200, name="traced"))
        self.orchestrator.attach(TracingObserver(receiver.tracer))
        self.calls: list[CallEnded] = []
        self.orchestrator.calls.subscribe(self.calls.append)

    async def __aenter__(self) -> Self:
        await self.orchestrator.start()
        await self.source.listening()
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        await self.orchestrator.stop()

    async def post(self, number: int, *ids: str, flags: str = "01") -> None:
        headers = {"traceparent": f"00-{ID.format(number)}-{SPAN.format(number)}-{flags}"}
        body = b"\n".join(b'{"id":"%s"}' % each.encode() for each in ids)
        async with self.session.post(self.source.url, data=body, headers=headers) as answer:
            assert answer.status == 202


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_counted_windows_link_to_their_posts_and_calls_are_below_their_own_window(receiver: Receiver) -> None:
    seen: defaultdict[str, list[Any]] = defaultdict(list)
    published: list[Any] = []

    async def lookup(event: Any) -> Any:
        seen[event["id"]].append(trace.get_current_span().get_span_context())
        with receiver.tracer.start_as_current_span("client"):  # of an instrumented client
            await asyncio.sleep(0)
        if event["id"] == "c" and len(seen["c"]) < 3:
            raise TransientError("again")
        return event

    async def sink(batch: Any) -> None:
        await asyncio.sleep(0)
        published.extend(batch)

    async def main() -> None:
        operators = (
            rxo.compact(3600, key_mapper="id", count=2),
            rxo.enrich(lookup, wait=0.001),
            rxo.publish(sink, count=4, timespan=3600),
        )
        async with Service(receiver, *operators) as service:
            with receiver.tracer.start_as_current_span("whoever pushes"):  # no parent of anything
                await service.post(1, "a", "a")
                await service.post(2, "a", flags="00")  # is not sampled
                await service.post(3, "b")  # closes the first window
                await service.post(4, "c", "d")  # is the second
            await until(lambda: len(published) == 4)
        ended = [each for each in service.calls if each.stage == "enrich"]
        assert sorted((each.attempt, each.outcome) for each in ended if each.error) == [
            (1, "transient"), (2, "transient"),
        ]  # fmt: skip
        assert {each.trace_id for each in ended} == {span.trace_id.hex() for span in receiver.named("window")}

    asyncio.run(main())
    first, second = receiver.named("window")
    assert (links(first), links(second)) == (of(1, 3), of(4))
    assert not first.parent_span_id and not second.parent_span_id
    assert attributes(first) == {
        "rxcompact.trigger": "count", "rxcompact.received": 4, "rxcompact.distinct": 2, "rxcompact.pipeline": "traced",
    }  # fmt: skip
    assert first.start_time_unix_nano < first.end_time_unix_nano
    calls = {span.span_id: span for span in receiver.named("enrich")}
    for key, window in {"a": first, "b": first, "c": second, "d": second}.items():
        assert all(is_below(calls[each.span_id.to_bytes(8)], window) for each in seen[key])
    of_c = [calls[each.span_id.to_bytes(8)] for each in seen["c"]]
    assert [attributes(span)["rxcompact.attempt"] for span in of_c] == [1, 2, 3]
    assert [attributes(span).get("error.type") for span in of_c] == ["transient", "transient", None]
    assert [span.status.code for span in of_c] == [2, 2, 0]
    assert len(calls) == len(receiver.named("client")) == 6
    assert all(span.parent_span_id in calls for span in receiver.named("client"))
    (batch,) = receiver.named("publish")  # of two windows
    parent, other = (first, second) if is_below(batch, first) else (second, first)
    assert is_below(batch, parent)
    assert links(batch) == [(other.trace_id.hex(), other.span_id.hex())]


def test_timed_windows_link_to_the_first_sampled_posts_of_their_own(receiver: Receiver) -> None:
    windows: list[Any] = []

    async def main() -> None:
        operators = (rxo.compact(0.3, key_mapper="id"), rxo.publish(lambda _: None, timespan=0))
        async with Service(receiver, *operators) as service:
            service.orchestrator.windows.subscribe(windows.append)
            for number in range(1, LINKS + 9):
                await service.post(number, "a")
            await until(lambda: sum(window.received for window in windows) == LINKS + 8)
            await service.post(1000, "b", "c")
            await until(lambda: sum(window.received for window in windows) == LINKS + 10)

    asyncio.run(main())
    spans, expected, at = receiver.named("window"), [], 1
    assert len(spans) == len(windows)
    for window in windows[:-1]:
        expected.append(of(*range(at, at + window.received))[:LINKS])
        at += window.received
    assert [links(span) for span in spans] == [*expected, of(1000)]
    assert all(attributes(span)["rxcompact.trigger"] == "time" for span in spans)
    batches = receiver.named("publish")
    assert all(is_below(batch, window) for batch, window in zip(batches, spans, strict=True))


@pytest.mark.parametrize("per_key", [{"per_key": True}, {"leading": True}, {"gap": 0.2}], ids=str)
def test_windows_of_every_kind_link_to_the_posts_of_their_keys(receiver: Receiver, per_key: Any) -> None:
    published: list[Any] = []

    async def main() -> None:
        compact = rxo.compact(0.3, key_mapper="id", **per_key)
        async with Service(receiver, compact, rxo.publish(published.extend, timespan=0)) as service:
            await service.post(1, "a")
            await until(lambda: any(each.key == "a" for each in published))
            await service.post(2, "b")
            await until(lambda: any(each.key == "b" for each in published))

    asyncio.run(main())
    found = [links(span) for span in receiver.named("window")]
    assert found == [of(1), of(2)]


def test_without_a_tracer_nothing_is_kept_of_a_post(receiver: Receiver) -> None:
    async def main() -> None:
        service = Service(receiver, rxo.compact(3600, key_mapper="id"), rxo.publish(lambda _: None))
        service.orchestrator.trace_with(None)
        windows: list[Any] = []
        service.orchestrator.windows.subscribe(windows.append)
        async with service:
            await service.post(1, "a")
        assert [list(window.acks) for window in windows] == [[]]
        assert {each.trace_id for each in service.calls} == {""}

    asyncio.run(main())
    assert receiver.named("window") == receiver.named("publish") == []


def test_a_tracer_that_raises_is_reported_and_harms_nothing(receiver: Receiver) -> None:
    class Broken(TracingObserver):
        def trace_window(self, window: Any) -> None:
            raise RuntimeError("exporter")

        def start_call(self, *_: Any) -> Any:
            raise RuntimeError("exporter")

    failures: list[Any] = []
    published: list[Any] = []

    async def main() -> None:
        service = Service(receiver, rxo.compact(3600, key_mapper="id"), rxo.publish(published.extend))
        service.orchestrator.attach(Broken(receiver.tracer))
        service.orchestrator.signals.subscribe(failures.append)
        async with service:
            await service.post(1, "a")

    asyncio.run(main())
    assert len(published) == 1
    assert [str(each.error) for each in failures if hasattr(each, "observer")] == ["exporter"] * 2


def test_the_context_of_a_caller_is_left_as_it_was(receiver: Receiver) -> None:
    observer, before = TracingObserver(receiver.tracer), context.get_current()
    assert observer.extract({}) is None
    assert observer.extract({"traceparent": "00-bad"}) is None
    assert context.get_current() == before
