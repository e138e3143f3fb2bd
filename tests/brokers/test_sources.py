"""Durable sources in pipelines, each against a real server, which knows what is acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from rxcompact.errors import ArgumentError, TransientError
from rxcompact.testing.proxy import Proxy

from .support import PATIENCE, Gate, Rig, Server, logged, until

LONG = 10 * PATIENCE


# ── acknowledged when settled ─────────────────────────────────────────────────────────────────────────────────────────


async def test_messages_are_acknowledged_when_all_their_events_are_published_or_rejected(broker: Rig) -> None:
    gate = Gate(broker.out)
    bodies: list[Any] = [{"id": 1}, [{"id": 1}, {"id": 2}], b'{"id": 2}\n{"id": 3}\n', b'{"id": 1}']
    sent = await broker.send(*bodies, b"[{oops", b"", b'{"id": [', b"[]", b'{"id": 4}{"id": 1}')
    await broker.pipeline(sink=gate).start()
    await asyncio.wait_for(gate.asked.wait(), PATIENCE)
    await broker.settles(unacknowledged=5)  # what was rejected, and what was empty, is acknowledged
    assert broker.out == []
    gate.open.set()
    await broker.settles()
    counts: Counter[Any] = Counter()
    for compacted in broker.out:
        counts[compacted.key] += compacted.count
    assert counts == {1: 4, 2: 2, 3: 1, 4: 1}
    assert [(letter.outcome, letter.reason) for letter in broker.letters] == [("rejected", "malformed")] * 3
    assert [letter.origin for letter in broker.letters] == [broker.origin(sent[number]) for number in (4, 5, 6)]


async def test_what_expired_is_acknowledged_when_it_is_a_dead_letter(broker: Rig) -> None:
    async def sink(_: Any) -> None:
        raise ConnectionError

    await broker.pipeline(sink=sink, max_age=1.0).start()
    await broker.send({"id": 1}, {"id": 1}, {"id": 2})
    await until(lambda: broker.letters)
    await broker.settles()
    assert sorted((letter.outcome, letter.event.key) for letter in broker.letters) == [("expired", 1), ("expired", 2)]


@pytest.mark.parametrize("stage", ["enrich", "publish"])
async def test_a_message_held_longer_than_ack_wait_is_not_delivered_again_while_its_worker_lives(
    stage: str, broker: Rig
) -> None:
    gate = Gate(broker.out)

    async def lookup(event: Any) -> Any:
        await gate.open.wait()
        return event

    held: dict[str, Any] = {"sink": gate} if stage == "publish" else {"enricher": lookup}
    # there is capacity for three of four events: the last message is held before it is pushed
    await broker.send([{"id": 0}, {"id": 1}], {"id": 2}, {"id": 3})
    orchestrator = broker.pipeline(**held, max_in_flight=3, source={"ack_wait": 4.0})
    await orchestrator.start()
    await broker.settles(unacknowledged=3)
    other = broker.pipeline(source=broker.another(ack_wait=4.0))
    await other.start()
    await asyncio.sleep(9)
    assert (broker.out, other.account.received) == ([], 0)
    await broker.settles(unacknowledged=3)
    gate.open.set()
    await broker.settles()
    assert sorted((compacted.key, compacted.count) for compacted in broker.out) == [(n, 1) for n in range(4)]
    assert await broker.redelivered() == 0


# ── stop, restart ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_stop_gives_back_what_was_not_settled_and_another_worker_gets_it_at_once(broker: Rig) -> None:
    gate = Gate(broker.out)
    first = broker.pipeline(sink=gate, max_in_flight=3, source={"ack_wait": LONG})
    await first.start()
    await broker.send_events(range(50))
    await asyncio.wait_for(gate.asked.wait(), PATIENCE)
    report = await first.stop(1.0)
    assert (report.in_time, broker.out) == (False, [])
    assert report.account.abandoned == report.account.received
    assert {letter.outcome for letter in broker.letters} == {"abandoned"}
    waiting, left = await broker.pending()
    assert waiting + left == 50
    assert left >= report.account.received
    await broker.pipeline(source=broker.another(ack_wait=LONG)).start()
    await broker.settles()  # a tenth of ack_wait
    assert sorted(broker.ids()) == list(range(50))


async def test_stop_publishes_what_it_can_and_acknowledges_that(broker: Rig) -> None:
    await broker.send_events(range(500))
    orchestrator = broker.pipeline(timespan=LONG, max_in_flight=300, source={"prefetch": 200})
    await orchestrator.start()
    await until(lambda: orchestrator.account.received)
    report = await orchestrator.stop()
    assert report.in_time
    taken = report.account.received
    assert sorted(broker.ids()) == list(range(taken))
    waiting, left = await broker.pending()
    assert waiting + left == 500 - taken  # what was on its way was given back
    while len(broker.out) < 500:
        await orchestrator.start()  # the same source again
        await until(lambda: orchestrator.account.received >= min(300, 500 - len(broker.out)))
        assert (await orchestrator.stop()).in_time
    await broker.settles()
    assert sorted(broker.ids()) == list(range(500))


async def test_a_restart_loses_nothing_and_gets_nothing_twice(broker: Rig) -> None:
    orchestrator = broker.pipeline(timespan=0.5)
    await orchestrator.start()
    for start in range(0, 2000, 100):
        sending = asyncio.ensure_future(broker.send_events(range(start, start + 100)))
        await asyncio.sleep(0)
        await orchestrator.restart()
        await sending
    await orchestrator.restart()
    await orchestrator.restart()
    await until(lambda: orchestrator.account.published == 2000)
    await broker.settles()
    assert sorted(broker.ids()) == list(range(2000))
    assert await broker.redelivered() == 0
    assert broker.failures == []


# ── backpressure ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_there_is_no_capacity_for_stays_with_the_server(broker: Rig) -> None:
    gate = Gate(broker.out)
    orchestrator = broker.pipeline(sink=gate, max_in_flight=10, timespan=0.05, batch_timespan=0)
    await orchestrator.start()
    await broker.send_events(range(500))
    await broker.settles(waiting=490, unacknowledged=10)
    assert orchestrator.account.in_flight == 10
    gate.open.set()
    await broker.settles()
    assert sorted(broker.ids()) == list(range(500))
    assert broker.letters == []


async def test_no_more_messages_are_held_than_allowed_whatever_their_keys(broker: Rig) -> None:
    gate = Gate(broker.out)
    await broker.send(*[{"id": 1}] * 500)
    await broker.pipeline(sink=gate, source={"max_pending": 100}).start()
    await asyncio.wait_for(gate.asked.wait(), PATIENCE)
    await broker.settles(waiting=400, unacknowledged=100)
    gate.open.set()
    await broker.settles()
    assert sum(compacted.count for compacted in broker.out) == 500
    assert max(compacted.count for compacted in broker.out) <= 100


async def test_a_message_of_more_events_than_there_can_be_capacity_for_is_taken_in_parts(broker: Rig) -> None:
    await broker.pipeline(max_in_flight=10, timespan=0.05, batch_timespan=0).start()
    await broker.send([{"id": number} for number in range(55)], {"id": 55}, [{"id": n} for n in range(56, 100)])
    await until(lambda: broker.out)
    await broker.settles()
    assert sorted(broker.ids()) == list(range(100))
    assert broker.letters == []


# ── what a server may do ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("paused", [0.0, 0.7])
async def test_a_server_that_is_killed_and_started_again_loses_nothing(broker: Rig, paused: float) -> None:
    async def slow(event: Any) -> Any:
        await asyncio.sleep(0.001)
        return event

    orchestrator = broker.pipeline(enricher=slow, timespan=0.1, source={"ack_wait": 2.0, "prefetch": 200})
    await orchestrator.start()
    for start in range(0, 3000, 1000):
        await broker.send_events(range(start, start + 1000))
        await until(lambda: orchestrator.account.published > start)  # noqa: B023
        broker.server.kill()
        await asyncio.sleep(paused)
        broker.server.start()
        await broker.reconnect()
    await broker.settles()
    assert broker.failures
    assert {type(failure.error) for failure in broker.failures} == {TransientError}
    assert broker.letters == []
    # a live worker knows what it has done already, though the server may not
    assert sorted(broker.ids()) == list(range(3000))


async def test_a_consumer_that_is_removed_is_made_again(broker: Rig) -> None:
    await broker.pipeline().start()
    await broker.send({"id": 1})
    await broker.settles()
    await broker.remove_consumer()
    await until(lambda: broker.failures)
    await broker.settles()
    await broker.send({"id": 2})
    await broker.settles()
    assert isinstance(broker.failures[0].error, TransientError)
    assert broker.ids() == [1, 1, 2]  # a new consumer begins at the beginning


async def test_what_settled_without_a_server_is_acknowledged_when_the_worker_stops(broker: Rig) -> None:
    gate = Gate(broker.out)
    orchestrator = broker.pipeline(sink=gate, source={"ack_wait": LONG})
    await orchestrator.start()
    await broker.send_events(range(10))
    await broker.settles(unacknowledged=10)
    broker.server.kill()
    gate.open.set()
    await until(lambda: len(broker.out) == 10)
    stopping = asyncio.ensure_future(orchestrator.stop(PATIENCE))
    await asyncio.sleep(0.5)
    broker.server.start()
    assert (await stopping).in_time
    await broker.reconnect()
    await broker.settles()


async def test_a_stop_is_quick_with_and_without_a_server(broker: Rig) -> None:
    orchestrator = broker.pipeline(timespan=LONG)
    for kills in (False, True):
        await orchestrator.start()
        await broker.settles()
        if kills:
            broker.server.kill()
        began = time.monotonic()
        await orchestrator.stop(PATIENCE)
        assert time.monotonic() - began < PATIENCE / 10


@pytest.mark.parametrize("messages", [1, 10])
async def test_an_error_while_acknowledging_fails_the_source_and_is_tried_again(broker: Rig, messages: int) -> None:
    orchestrator = broker.pipeline(source={"ack_wait": LONG})
    [source] = broker.sources
    send, errors = source._send, [RuntimeError("the handler is closed"), KeyError("x"), RuntimeError("once more")]

    async def failing(*arguments: Any) -> None:
        if errors:
            raise errors.pop(0)
        await send(*arguments)

    source._send = failing
    await orchestrator.start()
    await broker.send_events(range(messages))
    await broker.settles()
    await until(lambda: broker.failures)
    assert broker.ids() == list(range(messages))  # once
    assert "the handler is closed" in str(broker.failures[0].error)


@pytest.mark.parametrize("replies", [0, 1, 2])
def test_connections_that_are_reset_in_mid_handshake_on_uvloop_lose_no_acknowledgement(
    broker: Rig, replies: int
) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with broker.running(), Proxy(broker.server.port) as proxy:
            broker.url = broker.url.replace(str(broker.server.port), str(proxy.port))
            gate = Gate(broker.out)
            # what was sent when the connection was cut is delivered again, and recognised
            await broker.pipeline(sink=gate, source={"ack_wait": 2.0}).start()
            await broker.send_events(range(700))
            await broker.settles(unacknowledged=700)
            proxy.resets_after = replies
            proxy.cut()
            gate.open.set()
            accepted = proxy.accepted
            await until(lambda: proxy.accepted >= accepted + 8)
            proxy.resets_after = None
            await broker.settles()
            assert sorted(broker.ids()) == list(range(700))  # once each
            assert {type(failure.error) for failure in broker.failures} == {TransientError}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# ── credentials, arguments ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_credentials_are_shown_to_nobody_but_the_server(
    kind: str, make_server: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(kind)
    rig_on, server, user = locked(kind, make_server)
    url = server.url.replace("//", f"//{user}:s3cret@")
    wrong = server.url.replace("//", f"//{user}:wr0ng@")

    async def main() -> None:
        with logged("TRACE", "rxcompact") as lines:
            early = rig_on(server, url)  # before there is a server
            await early.pipeline().start()
            await until(lambda: early.failures)
            await early.orchestrators[0].stop()
            server.start()
            async with rig_on(server, url).running() as rig:
                rig.url = wrong
                refused = rig.pipeline()
                await refused.start()
                await until(lambda: len(rig.failures) > 1)  # tried again, since it may be put right
                await refused.stop()
                rig.url = url
                await rig.pipeline().start()
                await rig.send({"id": 1})
                await rig.settles()
                failures = early.failures + rig.failures
                shown = [*map(repr, early.sources + rig.sources), *lines]
                shown += [str(failure) + repr(failure.error.__cause__) for failure in failures]
        assert {type(failure.error) for failure in failures if "refused" not in str(failure)} <= {TransientError}
        text = "\n".join([*shown, *capfd.readouterr()])
        assert "uthorization" in text or "invalid username-password" in text
        assert str(server.port) in repr(early.sources)
        assert not {secret for secret in ("s3cret", "wr0ng", f"{user}:") if secret in text}

    asyncio.run(main())


def locked(kind: str, make_server: Any) -> tuple[Any, Server, str]:
    """Return a server with a password."""
    if kind == "nats":
        from .nats_support import NatsRig, NatsServer

        return NatsRig, make_server(NatsServer, "--user", "worker", "--pass", "s3cret"), "worker"
    from .redis_support import RedisRig, RedisServer

    return RedisRig, make_server(RedisServer, "--requirepass", "s3cret"), "default"


@pytest.mark.parametrize(
    "options",
    [
        {"prefetch": 0},
        {"ack_wait": 0},
        {"max_pending": 0},
        {"start": "yesterday"},
        {"start": float("nan")},
    ],
)
@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_arguments_out_of_range_are_refused(kind: str, options: dict[str, Any]) -> None:
    pytest.importorskip(kind)
    if kind == "nats":
        from rxcompact.brokers.jetstream import JetStreamSource as Source

        named, names = {"stream": "IN", "consumer": "workers"}, {"max_pending": "max_ack_pending"}
    else:
        from rxcompact.brokers.redis import RedisStreamSource as Source

        named, names = {"stream": "events", "group": "workers"}, {"ack_wait": "min_idle_time"}
    [(name, value)] = options.items()
    with pytest.raises(ArgumentError, match=names.get(name, name)):
        Source(f"{kind}://nowhere", **named, **{names.get(name, name): value})
