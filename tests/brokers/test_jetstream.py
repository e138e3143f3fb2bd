"""JetStreamSource: requests, consumers, partitions, and what the server refuses."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig, SubjectTransform
from nats.js.errors import NotFoundError

from rxcompact.brokers import jetstream
from rxcompact.brokers.jetstream import JetStreamSource, identity_of
from rxcompact.brokers.nats import Connection
from rxcompact.commands.serve import broker_source
from rxcompact.errors import ArgumentError, TransientError

from .nats_support import CONSUMER, STREAM, NatsRig, NatsServer
from .support import PATIENCE, logged, until

# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_that_expires_is_made_again(nats: NatsRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetstream, "EXPIRES", 0.2)
    await nats.pipeline(source={"prefetch": 3}).start()
    for number in range(4):
        await asyncio.sleep(0.35)
        await nats.send({"id": number})
    await nats.settles()
    assert sorted(nats.ids()) == list(range(4))
    assert nats.failures == []


async def test_messages_of_many_bytes_come_in_several_requests(nats: NatsRig, monkeypatch: pytest.MonkeyPatch) -> None:
    blank = b" " * 400_000
    await nats.send(*(b'{"id": %d}' % number + blank for number in range(20)))
    monkeypatch.setattr(jetstream, "MAX_BYTES", 1)
    await nats.pipeline().start()  # that is, as few as the longest message has
    await nats.settles()
    assert sorted(nats.ids()) == list(range(20))


async def test_headers_are_no_part_of_an_event_and_its_compression_is_recognised(nats: NatsRig) -> None:
    await nats.pipeline().start()
    packed = gzip.compress(b'{"id": 1}\n{"id": 2}')
    await nats.stream.publish("in.a", packed, headers={"Content-Encoding": "gzip", "Nats-Msg-Id": "one"})
    await nats.stream.publish("in.a", b'{"id": 3}', headers={"traceparent": "00-1-1-00"})
    await nats.settles()
    assert sorted(nats.ids()) == [1, 2, 3]
    assert nats.letters == []


async def test_a_flush_waits_for_all_that_was_published_before_it(nats: NatsRig) -> None:
    client = Connection()
    await client.connect(nats.url)
    await client.subscribe("to.me")
    await client.publish_many([b"to.me"] * 10_000, b".")
    await client.flush()
    assert client.stats["in_msgs"] == 10_000  # which the server sends before it answers
    await client.close()


# ── consumers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_consumer_of_subjects_takes_those_alone(nats: NatsRig) -> None:
    await nats.pipeline(source={"subjects": ["in.b", "in.c.*"], "ack_wait": 7, "max_ack_pending": 11}).start()
    for subject in ("in.a", "in.b", "in.c.1"):
        await nats.stream.publish(subject, b'{"id": "%s"}' % subject.encode())
    await nats.settles()
    assert sorted(nats.ids()) == ["in.b", "in.c.1"]
    config = (await nats.info()).config
    assert (config.ack_wait, config.max_ack_pending, config.ack_policy) == (7, 11, "explicit")


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"ack_policy": AckPolicy.ALL}, "explicit acknowledgements"), ({"deliver_subject": "to.me"}, "a pull consumer")],
)
async def test_a_consumer_that_cannot_be_pulled_from_is_refused_until_it_is_another(
    nats: NatsRig, config: dict[str, Any], expected: str
) -> None:
    await nats.stream.add_consumer(STREAM, ConsumerConfig(durable_name=CONSUMER, **config))
    await nats.pipeline().start()
    await until(lambda: nats.failures)
    assert isinstance(nats.failures[0].error, ArgumentError)
    assert expected in str(nats.failures[0].error)
    await nats.remove_consumer()
    await nats.send({"id": 1})
    await nats.settles()


async def test_a_stream_that_is_not_there_yet_is_waited_for(nats: NatsRig) -> None:
    await nats.stream.delete_stream(STREAM)
    await nats.pipeline().start()
    await until(lambda: len(nats.failures) > 1)
    assert isinstance(nats.failures[0].error, TransientError)
    text = f"stream 'IN' at NATS 127.0.0.1:{nats.server.port}: stream not found"
    assert str(nats.failures[0].error) == text
    await nats.stream.add_stream(name=STREAM, subjects=["in.>"])
    await nats.send({"id": 1})
    await nats.settles()
    assert nats.ids() == [1]


@pytest.mark.parametrize(("start", "expected"), [("all", [0, 1, 2]), ("new", [2]), ("instant", [1, 2])])
async def test_a_consumer_that_is_made_begins_at_its_start(nats: NatsRig, start: Any, expected: list[int]) -> None:
    await nats.send({"id": 0})
    await asyncio.sleep(0.1)
    instant = datetime.now(UTC)
    await nats.send({"id": 1})
    orchestrator = nats.pipeline(source={"start": instant if start == "instant" else start})
    await orchestrator.start()
    await nats.settles()
    await orchestrator.stop()
    await nats.send({"id": 2})
    await orchestrator.start()
    await nats.settles()
    assert nats.ids() == expected


# ── partitions ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def partitioned(nats: NatsRig, **options: Any) -> None:
    await nats.stream.delete_stream(STREAM)
    by_partition = SubjectTransform("events.*", "events.{{partition(4,1)}}.{{wildcard(1)}}")
    config = StreamConfig(STREAM, subjects=["events.*"], subject_transform=by_partition, **options)
    await nats.stream.add_stream(config)


async def send_partitioned(nats: NatsRig, numbers: range) -> None:
    for number in numbers:
        await nats.stream.publish(f"events.{number}", json.dumps({"id": number}).encode())


async def all_settled(nats: NatsRig, partitions: range) -> None:
    async with asyncio.timeout(60):
        for number in partitions:
            found = None
            while found is None or (found.num_pending, found.num_ack_pending) != (0, 0):
                await asyncio.sleep(0.02)
                with suppress(NotFoundError):  # not there yet
                    found = await nats.info(f"{CONSUMER}-{number}")


@pytest.mark.parametrize("retention", [RetentionPolicy.LIMITS, RetentionPolicy.WORK_QUEUE])
async def test_any_split_of_the_partitions_finds_its_position(nats: NatsRig, retention: Any) -> None:
    await partitioned(nats, retention=retention)
    splits = [[range(4)], [range(2), range(2, 4)], [range(n, n + 1) for n in range(4)], [range(3), range(3, 4)]]
    for number, split in enumerate(splits):
        workers = [nats.pipeline(source={"partitions": partitions}) for partitions in split]
        for worker in workers:
            await worker.start()
        await send_partitioned(nats, range(100 * number, 100 * number + 100))
        await all_settled(nats, range(4))
        for worker in workers:
            await worker.stop()
            assert worker.account.received > 0
    assert sorted(nats.ids()) == list(range(400))
    assert nats.failures == []


async def test_partitions_share_the_capacity(nats: NatsRig) -> None:
    await partitioned(nats)
    await send_partitioned(nats, range(200))
    orchestrator = nats.pipeline(max_in_flight=10, timespan=0.05, batch_timespan=0, source={"partitions": range(4)})
    await orchestrator.start()
    await all_settled(nats, range(4))
    assert sorted(nats.ids()) == list(range(200))
    assert nats.letters == []


async def test_partitions_are_hashes_of_keys(make_server: Any, tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text('mappings = {"keys.*": "shard.{{partition(7,1)}}.{{wildcard(1)}}"}\n')
    server = make_server(NatsServer, "-c", str(config))
    server.start()
    client = Connection()
    await client.connect(server.url)
    subscription = await client.subscribe("shard.*.*")
    keys = ["foobar", "ä", *(f"host{number}" for number in range(200))]
    for key in keys:
        await client.publish(f"keys.{key}")
    subjects = [(await subscription.next_msg(PATIENCE)).subject.split(".") for _ in keys]
    await client.close()
    assert {key: int(shard) for _, shard, key in subjects} == {key: fnv1a(key.encode()) % 7 for key in keys}


def fnv1a(data: bytes) -> int:
    """As in tests/workers/simulation.py."""
    found = 0x811C9DC5
    for byte in data:
        found = (found ^ byte) * 0x01000193 & 0xFFFFFFFF
    return found


@pytest.mark.parametrize("partitions", [[], [-1], range(0)])
def test_partitions_are_numbers(partitions: Any) -> None:
    with pytest.raises(ArgumentError, match="partitions"):
        JetStreamSource("nats://nowhere", stream=STREAM, consumer=CONSUMER, partitions=partitions)
    with pytest.raises(ArgumentError, match="partitions"):
        JetStreamSource("nats://nowhere", stream=STREAM, consumer=CONSUMER, partitions=range(2), subjects="a")


# ── identities ────────────────────────────────────────────────────────────────────────────────────────────────────────


def v1(sequence: int, *, delivered: int = 1, stamp: int = 7) -> bytes:
    return b"$JS.ACK.IN.workers.%d.%d.%d.%d.5" % (delivered, sequence, sequence + delivered, stamp)


def v2(sequence: int, *, delivered: int = 1, stamp: int = 7) -> bytes:
    """With a domain, an account and a token, as in ADR-15."""
    return b"$JS.ACK.hub.ABC.IN.workers.%d.%d.%d.%d.5.tok" % (delivered, sequence, sequence + delivered, stamp)


@pytest.mark.parametrize("reply", [v1, v2])
def test_a_message_is_the_same_however_often_it_is_delivered_and_another_in_a_stream_made_anew(reply: Any) -> None:
    assert identity_of(reply(1)) == identity_of(reply(1, delivered=2)) == b"1.7"
    assert identity_of(reply(1, stamp=8)) == b"1.8"


# ── warnings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("subjects", [["in.*"], ["in.>"]])
async def test_a_stream_without_subjects_of_the_partitions_is_warned_of(nats: NatsRig, subjects: list[str]) -> None:
    await nats.stream.update_stream(name=STREAM, subjects=subjects)
    await nats.send({"id": 1})
    with logged() as lines:
        await nats.pipeline(source={"partitions": range(2)}).start()
        await until(lambda: lines)
    text = f"stream IN has no messages of the partitions *.0.>, *.1.>: the subjects that it stores are {subjects[0]}"
    assert [line.strip() for line in lines] == [text]


async def test_a_consumer_of_the_operator_that_loses_or_limits_messages_is_warned_of(nats: NatsRig) -> None:
    config = ConsumerConfig(
        durable_name=CONSUMER,
        ack_policy=AckPolicy.EXPLICIT,
        max_deliver=4,
        max_ack_pending=5,
        filter_subjects=["in.a"],
    )
    await nats.stream.add_consumer(STREAM, config)
    with logged() as lines:
        orchestrator = nats.pipeline()
        await orchestrator.start()
        await until(lambda: len(lines) == 3)
        await orchestrator.restart()
        await nats.send({"id": 1})
        await nats.settles()
    assert [line.strip().removeprefix("consumer workers of stream IN: ") for line in lines] == [  # once
        "max_deliver is 4: a message is lost when 4 workers stopped while they held it",
        "max_ack_pending is 5, not 20000: no more than 5 messages are compacted together",
        "its subjects are in.a, not all",
    ]


# ── what the server refuses ───────────────────────────────────────────────────────────────────────────────────────────


async def failure_at(rig: NatsRig, **options: Any) -> str:
    """Start a pipeline; return the text of its second failure: it is tried again."""
    await rig.pipeline(source=options).start()
    await until(lambda: len(rig.failures) > 1)
    await rig.orchestrators[-1].stop()
    assert {type(failure.error) for failure in rig.failures} == {TransientError}
    return str(rig.failures[1].error)


async def test_a_server_without_jetstream_is_named(make_server: Any, tmp_path: Path) -> None:
    server = make_server(NatsServer)
    server._command = [it for it in server._command if it not in {"-js", "-sd", str(tmp_path / "store")}]
    server.start()
    text = await failure_at(NatsRig(server))
    assert text == f"stream 'IN' at NATS 127.0.0.1:{server.port}: JetStream is not enabled, or has no leader"


async def test_of_several_servers_one_that_is_up_is_used(nats: NatsRig, make_server: Any) -> None:
    down = make_server(NatsServer)
    await nats.send({"id": 1})
    nats.url = [down.url, nats.url]  # type: ignore[assignment]
    await nats.pipeline().start()
    await nats.settles()
    assert nats.failures == []


async def test_a_permission_that_is_missing_is_a_failure_of_the_source(make_server: Any, tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(
        "authorization { users = [ {user: admin, password: a}, "
        '{user: worker, password: b, permissions: {publish: {deny: "$JS.ACK.>"}}} ] }'
    )
    server = make_server(NatsServer, "-c", str(config))
    server.start()
    async with NatsRig(server, server.url.replace("//", "//admin:a@")).running() as rig:
        rig.url = server.url.replace("//", "//worker:b@")
        await rig.pipeline().start()
        await rig.send({"id": 1})
        await until(lambda: rig.failures)
        assert "permissions violation" in str(rig.failures[0].error).lower()
        assert "$js.ack" in str(rig.failures[0].error).lower()


async def test_an_unknown_certificate_fails_with_the_reason_and_is_tried_again(
    make_server: Any, tmp_path: Path
) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    server = make_server(
        NatsServer, "--tls", "--tlscert", str(tmp_path / "cert.pem"), "--tlskey", str(tmp_path / "key.pem")
    )
    server.start()
    url = server.url.replace("nats:", "tls:")
    unknown, known = NatsRig(server, url), NatsRig(server, url)
    began = asyncio.get_running_loop().time()
    await unknown.pipeline().start()
    await until(lambda: unknown.failures)
    assert asyncio.get_running_loop().time() - began < 20
    await until(lambda: len(unknown.failures) > 1)
    await unknown.orchestrators[0].stop()
    for failure in unknown.failures:
        assert isinstance(failure.error, TransientError)
        assert f"no connection to NATS at 127.0.0.1:{server.port}: " in str(failure.error)
        assert "certificate verify failed" in str(failure.error)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    text = await failure_at(known, options={"tls": trusting})
    assert "stream not found" in text
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    by_url: Any = NatsRig(server, url)
    by_url.source = lambda **_: broker_source(f"{url}/{STREAM}?ca={tmp_path / 'ca.pem'}", None, None)
    assert "stream not found" in await failure_at(by_url)


@pytest.mark.parametrize("servers", ["", [], ["nats://a", ""]])
def test_a_source_needs_a_server(servers: Any) -> None:
    with pytest.raises(ArgumentError, match="servers"):
        JetStreamSource(servers, stream=STREAM, consumer=CONSUMER)
