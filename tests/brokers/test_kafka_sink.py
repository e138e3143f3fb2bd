"""KafkaSink on the stand-ins: keys, failures of one and of all, a broker that goes away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("aiokafka")

from aiokafka import AIOKafkaConsumer, TopicPartition

from rxcompact.brokers.kafka import KafkaSink
from rxcompact.errors import ArgumentError, PermanentError, TransientError
from rxcompact.events import Batch, Compacted
from rxcompact.testing.proxy import Proxy

from .kafka_support import TOPIC, KafkaRig, TansuServer
from .support import PATIENCE

NOT_IDEMPOTENT = {"enable_idempotence": False}  # which Tansu does not know


def compacted(key: Any, event: Any = None) -> Compacted:
    return Compacted(key, event if event is not None else {"id": key}, 1, 100.25, 101.0)


async def messages(rig: KafkaRig, topic: str = TOPIC) -> list[tuple[bytes | None, Any, int]]:
    """Key, body and partition of what is in a topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=f"127.0.0.1:{rig.server.port}", auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition(topic, number) for number in range(4)])
    found: list[Any] = []
    while batches := await consumer.getmany(timeout_ms=1_000):
        found += [(it.key, json.loads(it.value), it.partition) for each in batches.values() for it in each]
    await consumer.stop()
    return found


async def test_events_are_published_under_their_keys(kafka_mock: KafkaRig) -> None:
    sink = KafkaSink(kafka_mock.url, topic=TOPIC)
    keys = ["a", "b", 7, ("x", 1), None]
    assert await sink.publish(Batch([compacted(key, {"id": 1}) for key in keys])) is None
    assert await sink.publish(Batch([compacted("a", b'{"id":\n"a"}')])) is None
    await sink.aclose()
    await sink.aclose()
    found = await messages(kafka_mock)
    assert sorted(key for key, _, _ in found if key) == [b"7", b'["x",1]', b"a", b"a", b"b", b"null"]
    times = {"count": 1, "first_seen": 100.25, "last_seen": 101.0}
    bodies = [body for key, body, _ in found if key == b"a"]
    assert bodies == [{"key": "a", "event": {"id": 1}, **times}, {"key": "a", "event": {"id": "a"}, **times}]
    assert len({partition for key, _, partition in found if key == b"a"}) == 1
    assert len({partition for _, _, partition in found}) > 1


async def test_what_cannot_be_published_harms_no_other(kafka_mock: KafkaRig) -> None:
    sink = KafkaSink(kafka_mock.url, topic=lambda event: "bad topic" if event.key == "bad" else f"to-{event.key[0]}")
    keys = ["a", "long", "not JSON", "bad", "", "\ud800", "z"]
    events = {"long": {"x": "x" * 2_000_000}, "not JSON": {"x": "\ud800"}}
    failed = await sink.publish(Batch([compacted(key, events.get(key)) for key in keys]))
    await sink.aclose()
    found = await messages(kafka_mock, "to-a") + await messages(kafka_mock, "to-z")
    assert [body["key"] for _, body, _ in found] == ["a", "z"]
    kinds = {keys[position]: type(error) for position, error in (failed or {}).items()}
    kinds.pop("bad", None)  # the mock takes any name
    assert kinds == dict.fromkeys(["long", "not JSON", "", "\ud800"], PermanentError)


async def test_without_a_broker_there_is_no_publishing(make_server: Any) -> None:
    sink = KafkaSink(make_server(TansuServer).url, topic=TOPIC)  # which was not started
    with pytest.raises(TransientError, match="Kafka at 127.0.0.1:.*Connect call failed"):
        await sink.publish(Batch([compacted("a")]))
    await sink.aclose()


async def test_a_topic_that_is_missing_fails_its_events_in_time() -> None:
    class Producer:  # both of the stand-ins make what is missing
        closed = False

        async def send(self, topic: str, body: bytes, key: bytes) -> Any:
            if topic == "nowhere":
                await asyncio.Event().wait()
            return asyncio.sleep(0)

        async def stop(self) -> None:
            self.closed = True

    sink = KafkaSink("kafka://host", topic=lambda event: event.key, timeout=10)
    producer = sink._servers.client = Producer()
    began = asyncio.get_running_loop().time()
    failed = await sink.publish(Batch([compacted(key) for key in ["nowhere", TOPIC, "nowhere"]]))
    assert asyncio.get_running_loop().time() - began == 10
    assert {position: str(error) for position, error in (failed or {}).items()} == dict.fromkeys(
        [0, 2], "Kafka at host: TimeoutError"
    )
    assert producer.closed  # what waits in it is not sent as well


async def test_a_connection_that_is_cut_fails_at_most_a_batch_and_the_next_is_taken(make_server: Any) -> None:
    server = make_server(TansuServer)
    async with Proxy(server.port) as proxy:
        server._command[-1] = f"tcp://127.0.0.1:{proxy.port}"
        server.start()
        async with KafkaRig(server, f"kafka://127.0.0.1:{proxy.port}").running() as rig:
            sink = KafkaSink(rig.url, topic=TOPIC, timeout=2, options=NOT_IDEMPOTENT)
            for number in range(10):
                proxy.cut()
                batch = Batch([compacted(10 * number + each) for each in range(10)])
                async with asyncio.timeout(PATIENCE):
                    while batch:
                        try:
                            failed = await sink.publish(batch) or {}
                        except TransientError:
                            failed = dict.fromkeys(range(len(batch)), TransientError())
                        assert {type(error) for error in failed.values()} <= {TransientError}
                        batch = Batch([batch[position] for position in failed])
            await sink.aclose()
            assert {body["key"] for _, body, _ in await messages(rig)} == set(range(100))


async def test_events_from_one_topic_are_published_to_another_once(kafka_mock: KafkaRig) -> None:
    await kafka_mock.send_events(range(100))
    await kafka_mock.pipeline(sink=KafkaSink(kafka_mock.url, topic="out")).start()
    await kafka_mock.settles()
    assert sorted(body["key"] for _, body, _ in await messages(kafka_mock, "out")) == list(range(100))


def test_credentials_are_not_shown() -> None:
    sink = KafkaSink("kafkas://worker:s3cret@host:9092", topic=TOPIC)
    assert repr(sink) == "KafkaSink('host:9092', topic='events')"
    with pytest.raises(ArgumentError, match="servers"):
        KafkaSink("nats://worker:s3cret@host", topic=TOPIC)
