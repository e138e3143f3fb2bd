"""KafkaSource on two stand-ins for Kafka: commits and their metadata, groups, gaps, what a broker may do."""

from __future__ import annotations

import asyncio
import gc
import gzip
import random
import ssl
import struct
import time
from collections import Counter
from itertools import count
from typing import Any

import pytest

pytest.importorskip("aiokafka")

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError, UnknownMemberIdError
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.structs import OffsetAndTimestamp

from rxcompact.brokers import kafka
from rxcompact.brokers.kafka import KafkaSource
from rxcompact.commands.serve import broker_source
from rxcompact.errors import ArgumentError, TransientError
from rxcompact.testing.proxy import Proxy, free_port

from .kafka_support import PARTITIONS, TOPIC, KafkaRig, TansuServer
from .support import PATIENCE, Gate, logged, until

LONG = 10 * PATIENCE


def event(number: int) -> bytes:
    return b'{"id": %d}' % number


def test_a_connection_that_was_closed_under_uvloop_fails_as_any_other() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1") as server:
            _, port = server.sockets[0].getsockname()
            connection = AIOKafkaConnection("127.0.0.1", port)
            connection._versions = {HeartbeatRequest.API_KEY: (0, 1)}
            _, connection._writer = await asyncio.open_connection("127.0.0.1", port)
            connection._writer.transport.abort()
            await asyncio.sleep(0)
            with pytest.raises(KafkaConnectionError):
                connection.send(HeartbeatRequest("workers", 1, "member"))

    uvloop.run(main())


class Stuck:
    """An enricher that some events are stuck in."""

    def __init__(self, *stuck: int) -> None:
        self.stuck = set(stuck)
        self.open = asyncio.Event()

    async def __call__(self, event: Any) -> Any:
        if event["id"] in self.stuck:
            await self.open.wait()
        return event


# ── commits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_messages_are_committed_when_all_their_events_are_published_or_rejected(tansu: KafkaRig) -> None:
    gate = Gate(tansu.out)
    bodies = [b'{"id": 1}', b'[{"id": 1}, {"id": 2}]', b'{"id": 2}\n{"id": 3}\n', b"[{oops", b'{"id": 4}', b"[]"]
    sent = await tansu.put(*((0, body) for body in bodies))
    await tansu.pipeline(sink=gate).start()
    await asyncio.wait_for(gate.asked.wait(), PATIENCE)
    await until(lambda: tansu.letters)
    await tansu.settles(waiting=6)
    gate.open.set()
    await tansu.settles()
    assert sorted((compacted.key, compacted.count) for compacted in tansu.out) == [(1, 2), (2, 2), (3, 1), (4, 1)]
    assert [(letter.reason, letter.origin) for letter in tansu.letters] == [("malformed", tansu.origin(sent[3]))]
    assert tansu.letters[0].origin == "topic events, partition 0, offset 3"


async def test_an_event_that_is_stuck_keeps_no_other_from_being_committed(kafka_mock: KafkaRig) -> None:
    stuck = Stuck(3, 17, 18, 40)
    await kafka_mock.put(*((0, event(number)) for number in range(50)))
    first = kafka_mock.pipeline(enricher=stuck)
    await first.start()
    await until(lambda: len(kafka_mock.out) == 46)
    await kafka_mock.commits({0: (3, "rxcompact 1 13 2 21 1 9")})
    await first.stop(0.5)
    again: list[Any] = []
    await kafka_mock.pipeline(sink=again.extend).start()
    await kafka_mock.settles()
    assert sorted(it.key for it in again) == sorted(stuck.stuck)


async def test_no_more_is_fetched_of_a_partition_whose_metadata_is_full(
    kafka_mock: KafkaRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "METADATA", 256)
    monkeypatch.setattr(kafka, "COMMIT", 0.01)
    chosen = random.Random(7)
    stuck = Stuck(0, *(number for number in range(1000) if chosen.random() < 0.5))  # which compress badly
    orchestrator = kafka_mock.pipeline(enricher=stuck, max_concurrent=1000, timespan=0.05, source={"prefetch": 10})
    await kafka_mock.put((1, b'{"id": 1000}'))
    await orchestrator.start()
    await until(lambda: len(kafka_mock.owned()[0]) == PARTITIONS)
    for start in range(0, 1000, 10):
        await kafka_mock.put(*((0, event(number)) for number in range(start, start + 10)))
        await asyncio.sleep(0.02)
    await kafka_mock.put(*((1, event(number)) for number in range(1001, 1100, 2)))  # another partition goes on
    await until(lambda: 1099 in kafka_mock.ids())
    assert orchestrator.account.received < 900
    commit = (await kafka_mock.committed())[0]
    assert commit[0] == 0
    assert len(commit[1]) <= 256
    stuck.open.set()
    await kafka_mock.settles()
    assert Counter(kafka_mock.ids()) == Counter([*range(1001), *range(1001, 1100, 2)])


async def test_tombstones_and_gaps_do_not_hold_the_commit_back(kafka_mock: KafkaRig) -> None:
    await kafka_mock.put((0, event(1)), (0, None), (1, None), (1, None))
    producer = AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{kafka_mock.server.port}", transactional_id="t")
    await producer.start()
    async with producer.transaction():
        await producer.send_and_wait(TOPIC, event(2), partition=2)
    await producer.stop()
    kafka_mock.ends[2] = 2  # with the marker of the transaction's end, in which the mock has no right checksum
    await kafka_mock.pipeline(source={"options": kafka_mock.session | {"check_crcs": False}}).start()
    await kafka_mock.settles()
    assert sorted(kafka_mock.ids()) == [1, 2]
    assert kafka_mock.letters == []


async def test_headers_are_no_part_of_an_event_and_its_compression_is_recognised(kafka_mock: KafkaRig) -> None:
    await kafka_mock.put((0, gzip.compress(event(1))), headers=[("Content-Encoding", b"gzip"), ("traceparent", b"00")])
    await kafka_mock.put((0, event(2)), headers=[("Content-Type", b"application/json")])
    await kafka_mock.pipeline().start()
    await kafka_mock.settles()
    assert sorted(kafka_mock.ids()) == [1, 2]
    assert kafka_mock.letters == []


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_workers_that_come_and_go_publish_nothing_twice(tansu: KafkaRig) -> None:
    numbers = count()
    workers = [tansu.pipeline(timespan=0.1) for _ in range(4)]
    sending = True

    async def send() -> None:
        while sending:
            await tansu.send_events(next(numbers) for _ in range(20))
            await asyncio.sleep(0.02)

    task = asyncio.ensure_future(send())
    running: list[Any] = []
    for size in (1, 2, 4, 1):
        while len(running) < size:
            running.append(workers[len(running)])
            await running[-1].start()
        while len(running) > size:
            await running.pop().stop()
        await until(lambda: [bool(owned) for owned in tansu.owned()] == [number < size for number in range(4)])  # noqa: B023
        await until(lambda: sum(map(len, tansu.owned())) == PARTITIONS)
        assert len(set().union(*tansu.owned())) == PARTITIONS
        seen = sum(worker.account.received for worker in workers)
        await until(lambda: sum(worker.account.received for worker in workers) > seen + 200)  # noqa: B023
    sending = False
    await task
    await tansu.settles()
    assert sorted(tansu.ids()) == list(range(next(numbers)))
    assert tansu.failures == []


async def test_what_is_held_through_a_rebalance_is_not_taken_again(tansu: KafkaRig) -> None:
    stuck = Stuck(*range(0, 100, 7))
    await tansu.send_events(range(100))
    await tansu.pipeline(enricher=stuck, source={"grace": 0.5}).start()
    await until(lambda: len(tansu.out) == 85)
    [source] = tansu.sources
    assert len(source._messages.owned) == PARTITIONS
    before = source._assigned
    tansu.sources[0]._servers.client._coordinator.request_rejoin()
    await until(lambda: source._assigned and source._assigned is not before)
    await tansu.send_events(range(100, 200))
    await until(lambda: len(tansu.out) == 185)
    stuck.open.set()
    await tansu.settles()
    assert sorted(tansu.ids()) == list(range(200))


async def test_a_worker_that_stops_leaves_the_group_whatever_it_holds(
    kafka_mock: KafkaRig, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(kafka_mock.out)
    await kafka_mock.send_events(range(10))
    worker = kafka_mock.pipeline(sink=gate)
    await worker.start()
    await asyncio.wait_for(gate.asked.wait(), PATIENCE)
    began = time.monotonic()
    with caplog.at_level("INFO", "aiokafka"):
        assert not (await worker.stop(0.5)).in_time
    assert time.monotonic() - began < PATIENCE / 10
    assert "LeaveGroup request succeeded" in caplog.text


@pytest.mark.parametrize(("start", "expected"), [("all", [0, 1, 2]), ("new", [2])])
async def test_a_group_begins_at_its_start(kafka_mock: KafkaRig, start: Any, expected: list[int]) -> None:
    await kafka_mock.send_events([0])
    await kafka_mock.put((3, event(1)))
    orchestrator = kafka_mock.pipeline(source={"start": start})
    await orchestrator.start()
    await until(lambda: len(kafka_mock.owned()[0]) == PARTITIONS)
    await kafka_mock.settles()
    await orchestrator.stop()
    await kafka_mock.put((3, event(2)))
    await orchestrator.start()
    await kafka_mock.settles()
    assert sorted(kafka_mock.ids()) == expected


async def test_a_group_begins_at_an_instant_where_there_is_something_since_then() -> None:
    class Client:  # neither of the stand-ins finds offsets by timestamp
        async def end_offsets(self, partitions: Any) -> Any:
            return dict.fromkeys(partitions, 100)

        async def offsets_for_times(self, times: Any) -> Any:
            assert set(times.values()) == {1_500}
            return {it: OffsetAndTimestamp(40, 1_700) if it.partition else None for it in times}

    partitions = [TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)]
    source = KafkaSource("kafka://host", topic=TOPIC, group="workers", start=1.5)
    assert await source._starts(Client(), partitions) == {partitions[0]: 100, partitions[1]: 40}


async def test_what_was_removed_before_it_was_read_is_counted_in_the_log(kafka_mock: KafkaRig) -> None:
    orchestrator = kafka_mock.pipeline()
    await kafka_mock.put(*((0, event(number)) for number in range(5)))
    await orchestrator.start()
    await kafka_mock.settles()
    await orchestrator.stop()
    for number in range(5, 145):  # more than 5 MiB: the mock removes the first
        await kafka_mock.put((0, b'{"id": %d, "x": "%s"}' % (number, b"x" * 60_000)))
    with logged() as lines:
        await orchestrator.start()
        await kafka_mock.settles()
    first = kafka_mock.ids()[5]
    assert sorted(kafka_mock.ids()) == [*range(5), *range(first, 145)]
    [line] = [line for line in lines if "lost" in line]
    assert f"lost in partition 0: {first - 5} offsets" in line


# ── backpressure, stop, restart ───────────────────────────────────────────────────────────────────────────────────────


async def test_what_there_is_no_capacity_for_stays_with_the_broker(tansu: KafkaRig) -> None:
    gate = Gate(tansu.out)
    orchestrator = tansu.pipeline(sink=gate, max_in_flight=10, timespan=0.05, batch_timespan=0)
    await orchestrator.start()
    await tansu.send_events(range(500))
    await asyncio.wait_for(gate.asked.wait(), PATIENCE)
    await asyncio.sleep(3)  # three sessions: it stays in the group
    assert orchestrator.account.in_flight == orchestrator.account.received == 10
    gate.open.set()
    await tansu.settles()
    assert sorted(tansu.ids()) == list(range(500))
    assert tansu.failures == []


async def test_no_more_messages_are_held_than_allowed_whatever_their_keys(tansu: KafkaRig) -> None:
    gate = Gate(tansu.out)
    await tansu.send(*[{"id": 1}] * 500)
    orchestrator = tansu.pipeline(sink=gate, source={"max_pending": 100})
    await orchestrator.start()
    await asyncio.wait_for(gate.asked.wait(), PATIENCE)
    await until(lambda: orchestrator.account.received == 100)
    gate.open.set()
    await tansu.settles()
    assert sum(compacted.count for compacted in tansu.out) == 500
    assert max(compacted.count for compacted in tansu.out) <= 100


async def test_a_restart_loses_nothing_and_gets_nothing_twice(tansu: KafkaRig) -> None:
    orchestrator = tansu.pipeline(timespan=0.5)
    await orchestrator.start()
    for start in range(0, 2000, 100):
        sending = asyncio.ensure_future(tansu.send_events(range(start, start + 100)))
        await asyncio.sleep(0)
        await orchestrator.restart()
        await sending
    await until(lambda: orchestrator.account.published == 2000)
    await tansu.settles()
    assert sorted(tansu.ids()) == list(range(2000))
    assert tansu.failures == []


async def test_what_was_not_published_before_a_stop_is_taken_again_by_the_same_source(tansu: KafkaRig) -> None:
    await tansu.send_events(range(500))
    orchestrator = tansu.pipeline(timespan=LONG, max_in_flight=300, source={"prefetch": 200})
    while len(tansu.out) < 500:
        await orchestrator.start()
        await until(lambda: orchestrator.account.received >= min(300, 500 - len(tansu.out)))
        assert (await orchestrator.stop()).in_time
    await tansu.settles()
    assert sorted(tansu.ids()) == list(range(500))


# ── what a broker may do ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_connections_that_are_cut_lose_nothing(make_server: Any) -> None:
    server = make_server(TansuServer)
    async with Proxy(server.port) as proxy:
        server._command[-1] = f"tcp://127.0.0.1:{proxy.port}"  # where clients are sent to
        server.start()
        async with KafkaRig(server, f"kafka://127.0.0.1:{proxy.port}").running() as rig:
            await rig.pipeline(timespan=0.1).start()
            for start in range(0, 1000, 100):
                await rig.send_events(range(start, start + 100))
                await until(lambda: len(rig.out) > start - 100)  # noqa: B023
                proxy.cut()
            await rig.settles()
            assert sorted(rig.ids()) == list(range(1000))
            assert {type(failure.error) for failure in rig.failures} <= {TransientError}


async def test_a_broker_that_is_not_there_yet_is_named_and_waited_for(make_server: Any) -> None:
    server = make_server(TansuServer)
    rig = KafkaRig(server)
    orchestrator = rig.pipeline()
    await orchestrator.start()
    await until(lambda: len(rig.failures) > 1)
    text = str(rig.failures[0].error)
    assert text.startswith(f"Kafka at 127.0.0.1:{server.port}: ")
    assert "Connect call failed" in text
    server.start()
    rig.orchestrators.clear()
    async with rig.running():
        await rig.send_events(range(5))
        await rig.settles()
        await orchestrator.stop()
    assert sorted(rig.ids()) == list(range(5))


async def test_a_topic_that_is_missing_is_named_and_waited_for(tansu: KafkaRig) -> None:
    await tansu.pipeline(source={"topic": "nowhere"}).start()
    await until(lambda: len(tansu.failures) > 1)
    expected = f"Kafka at 127.0.0.1:{tansu.server.port}: topic 'nowhere' is missing, or not permitted"
    assert str(tansu.failures[0].error) == expected


async def refuse_password(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as a broker that takes no password."""
    versions = struct.pack(">hi", 0, 3) + b"".join(struct.pack(">hhh", key, 0, 1) for key in (3, 17, 36))
    answers = {
        18: versions,
        17: struct.pack(">hih5s", 0, 1, 5, b"PLAIN"),
        36: struct.pack(">hh22siq", 58, 22, b"Authentication failed!", 0, 0),
    }
    while head := await reader.read(4):
        request = await reader.readexactly(int.from_bytes(head))
        key, _, correlation = struct.unpack(">hhi", request[:8])
        answer = struct.pack(">i", correlation) + answers[key]
        writer.write(struct.pack(">i", len(answer)) + answer)
    writer.close()


async def test_a_wrong_password_is_a_line_without_it(make_server: Any, capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    async with await asyncio.start_server(refuse_password, "127.0.0.1", port):
        rig = KafkaRig(make_server(TansuServer), f"kafka://worker:wr0ng@127.0.0.1:{port}")
        orchestrator = rig.pipeline(source={"options": {"request_timeout_ms": 2_000}})
        await orchestrator.start()
        await until(lambda: len(rig.failures) > 1)
        await orchestrator.stop()
    text = str(rig.failures[0].error)
    assert text.startswith(f"Kafka at 127.0.0.1:{port}: ")
    assert "Authentication failed!" in text
    shown = text + repr(rig.sources) + "".join(capfd.readouterr())
    assert "wr0ng" not in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("kind", ["kafkas", "rediss"])
async def test_an_unknown_certificate_fails_with_the_reason_and_is_tried_again(kind: str, make_server: Any) -> None:
    trustme = pytest.importorskip("trustme")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    rig = KafkaRig(make_server(TansuServer))
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        url = f"{kind}://{address}/0/events" if kind == "rediss" else f"{kind}://{address}/events"
        rig.source = lambda **_: broker_source(url, None, None)  # type: ignore[method-assign]
        orchestrator = rig.pipeline()
        await orchestrator.start()
        await until(lambda: len(rig.failures) > 1)
        await orchestrator.stop()
    for failure in rig.failures:
        assert isinstance(failure.error, TransientError)
        assert address in str(failure.error)
        assert "certificate verify failed" in str(failure.error)


async def test_a_commit_that_is_refused_after_its_time_is_no_error_that_nobody_handles(
    kafka_mock: KafkaRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kafka_mock.put((0, event(0)))
    await kafka_mock.pipeline().start()
    await kafka_mock.settles()
    monkeypatch.setattr(kafka, "TIMEOUT", 0.5)
    refused = asyncio.Event()
    coordinator = kafka_mock.sources[0]._servers.client._coordinator
    send = coordinator._send_req

    async def slow(request: Any) -> Any:
        if isinstance(request, OffsetCommitRequest) and not refused.is_set():
            try:
                await asyncio.sleep(1)
            finally:
                refused.set()
            raise UnknownMemberIdError
        return await send(request)

    coordinator._send_req = slow
    await kafka_mock.put((0, event(1)))
    await asyncio.wait_for(refused.wait(), PATIENCE)
    await kafka_mock.settles()
    gc.collect()
    assert kafka_mock.faults == []


# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [{"prefetch": 0}, {"max_pending": 0}, {"grace": -1}, {"start": "yesterday"}],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(ArgumentError, match=name):
        KafkaSource("kafka://host:9092", topic="events", group="workers", **options)


@pytest.mark.parametrize("url", ["nats://host:1", "host:9092", "kafka://", "kafka://u:s3cret@"])
def test_a_url_that_cannot_be_parsed_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ArgumentError, match="servers") as raised:
        KafkaSource(url, topic="events", group="workers")
    assert "s3cret" not in str(raised.value)
