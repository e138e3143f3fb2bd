"""Traces through brokers: the window of a message links to the span that its headers carry."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rxcompact.observers import TracingObserver

from .support import Rig, until

TRACES = [f"4bf92f3577b34da6a3ce929d0e0e{number:04x}" for number in range(8)]
SPAN = "00f067aa0ba902b7"


def traceparent(number: int, flags: str = "01") -> str:
    return f"00-{TRACES[number]}-{SPAN}-{flags}"


async def send_to_nats(rig: Any, *messages: tuple[bytes, dict[str, str]]) -> None:
    for body, headers in messages:
        await rig.stream.publish("in.a", body, headers=headers or None)


async def send_to_kafka(rig: Any, *messages: tuple[bytes, dict[str, str]]) -> None:
    for body, headers in messages:
        await rig.put((0, body), headers=[(name, value.encode()) for name, value in headers.items()])


async def linked(rig: Rig, send: Any) -> list[list[str]]:
    """Return the traces that the windows of two messages each link to."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    messages = [
        (b'{"id": 0}', {"traceparent": traceparent(0)}),
        (b'{"id": 1}', {"Traceparent": traceparent(1), "Content-Type": "application/json"}),
        (b'{"id": 2}', {}),
        (b'{"id": 3}', {"traceparent": traceparent(3, "00")}),  # is not sampled
        (b'{"id": 4}', {"traceparent": "nonsense"}),
        (b'{"id": 5}', {"traceparent": traceparent(5)}),
    ]
    await send(rig, *messages)  # before it starts: they come together
    orchestrator = rig.pipeline(timespan=3600, count=2)
    orchestrator.attach(TracingObserver(provider.get_tracer("test")))
    await orchestrator.start()
    await until(lambda: len(rig.out) == len(messages))
    await rig.settles()
    windows = [span for span in exporter.get_finished_spans() if span.name == "window"]
    assert all(f"{link.context.span_id:016x}" == SPAN for span in windows for link in span.links)
    return [[f"{link.context.trace_id:032x}" for link in span.links] for span in windows]


async def test_windows_link_to_the_spans_of_messages_of_jetstream(nats: Rig) -> None:
    assert await linked(nats, send_to_nats) == [[TRACES[0], TRACES[1]], [], [TRACES[5]]]


async def test_windows_link_to_the_spans_of_messages_of_kafka(kafka_mock: Rig) -> None:
    assert await linked(kafka_mock, send_to_kafka) == [[TRACES[0], TRACES[1]], [], [TRACES[5]]]
