"""JetStreamSink against a real server: ids, failures of one and of all, a broker that goes away."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import pytest

pytest.importorskip("nats")

from rxcompact.brokers import event_id
from rxcompact.brokers.jetstream import JetStreamSink
from rxcompact.errors import PermanentError, TransientError
from rxcompact.events import Batch, Compacted

from .nats_support import NatsRig, NatsServer
from .support import PATIENCE


def compacted(key: Any, event: Any = None, first_seen: float = 100.25, **more: Any) -> Compacted:
    return Compacted(key, event if event is not None else {"id": key}, 1, first_seen, 101.0).replace(**more)


async def messages(nats: NatsRig) -> list[tuple[str, str, Any]]:
    """Subject, id and body of what is in the stream."""
    subscription = await nats.stream.subscribe("in.>", ordered_consumer=True)
    found = []
    for _ in range((await nats.stream.stream_info("IN")).state.messages):
        message = await subscription.next_msg(5)
        found.append((message.subject, message.headers["Nats-Msg-Id"], json.loads(message.data)))
    return found


def test_an_id_is_that_of_the_key_and_the_birth() -> None:
    known = event_id(compacted("a"))
    assert known.isascii()
    assert event_id(compacted("a", {"other": 1}, count=7, last_seen=None)) == known
    others = {event_id(compacted("b")), event_id(compacted("a", first_seen=100.5)), event_id(compacted(("a",)))}
    assert len(others - {known}) == 3
    in_buckets = partial(event_id, timespan=0.5)
    births = [100.0, 100.25, 100.49, 100.5, 99.99]
    same = [in_buckets(compacted("a", first_seen=birth)) == in_buckets(compacted("a")) for birth in births]
    assert same == [True, True, True, False, False]


async def test_events_are_published_each_with_its_id_and_once(nats: NatsRig) -> None:
    sink = JetStreamSink(nats.url, subject=lambda event: f"in.{event.key}")
    batch = Batch([compacted("a"), compacted("b", b'{"id":\n"b"}')])
    assert await sink.publish(batch) is None
    assert await sink.publish(batch) is None  # as after a crash
    await sink.aclose()
    times = {"count": 1, "first_seen": 100.25, "last_seen": 101.0}
    assert await messages(nats) == [
        ("in.a", event_id(batch[0]), {"key": "a", "event": {"id": "a"}, **times}),
        ("in.b", event_id(batch[1]), {"key": "b", "event": {"id": "b"}, **times}),
    ]


async def test_what_cannot_be_published_harms_no_other(nats: NatsRig) -> None:
    subjects = {"nowhere": "nowhere", "bad": "in bad"}
    sink = JetStreamSink(nats.url, subject=lambda event: subjects.get(event.key) or f"in.{event.key[0]}")
    keys = ["a", "nowhere", "long", "not JSON", "bad", "", "z"]
    events = {"long": {"x": "x" * 2_000_000}, "not JSON": {"x": "\ud800"}}
    failed = await sink.publish(Batch([compacted(key, events.get(key)) for key in keys]))
    await sink.aclose()
    assert [body["key"] for _, _, body in await messages(nats)] == ["a", "z"]
    kinds = {keys[position]: type(error) for position, error in (failed or {}).items()}
    assert kinds.pop("nowhere") is TransientError  # a stream for it may be made
    assert kinds == dict.fromkeys(["long", "not JSON", "bad", ""], PermanentError)


async def test_a_full_stream_is_tried_again_later(nats: NatsRig) -> None:
    await nats.stream.update_stream(name="IN", subjects=["in.>"], max_msgs=1, discard="new")
    sink = JetStreamSink(nats.url, subject="in.a")
    failed = await sink.publish(Batch([compacted("a"), compacted("b")]))
    await sink.aclose()
    assert {position: type(error) for position, error in (failed or {}).items()} == {1: TransientError}


async def test_a_broker_that_goes_away_fails_the_batch_and_takes_the_next(nats: NatsRig) -> None:
    sink = JetStreamSink(nats.url, subject="in.a", timeout=10 * PATIENCE)
    assert await sink.publish(Batch([compacted("a")])) is None
    nats.server.kill()
    await asyncio.sleep(0.1)
    with pytest.raises(TransientError):
        await sink.publish(Batch([compacted("b")]))
    nats.server.start()
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                failed = await sink.publish(Batch([compacted("b")]))
            except TransientError:
                await asyncio.sleep(0.1)
                continue
            if failed is None:
                break
    assert [body["key"] for _, _, body in await messages(nats)] == ["a", "b"]
    # what is under way when the broker is killed is not waited for until the time is over
    publishing = asyncio.ensure_future(sink.publish(Batch([compacted(number) for number in range(3000)])))
    await asyncio.sleep(0.01)
    nats.server.kill()
    await asyncio.sleep(0)
    nats.server.start()
    failed = await asyncio.wait_for(publishing, PATIENCE)
    assert {type(error) for error in (failed or {}).values()} <= {TransientError}
    await sink.aclose()


async def test_without_a_server_there_is_no_publishing(make_server: Any) -> None:
    sink = JetStreamSink(make_server(NatsServer).url, subject="in.a")  # which was not started
    with pytest.raises(TransientError, match="no connection to NATS at 127.0.0.1"):
        await sink.publish(Batch([compacted("a")]))
    await sink.aclose()


async def test_events_from_one_stream_are_published_to_another_once(nats: NatsRig) -> None:
    await nats.stream.add_stream(name="OUT", subjects=["out"])
    sink = JetStreamSink(nats.url, subject="out", identity=partial(event_id, timespan=0.5))
    await nats.pipeline(sink=sink, key_mapper="id").start()
    await nats.send_events(range(100))
    await nats.settles()
    assert (await nats.stream.stream_info("OUT")).state.messages == 100
