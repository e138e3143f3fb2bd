"""JetStreamSource and what a server may do: forget, refuse, be killed; and what is told of credentials."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("nats")
from nats.js.api import AckPolicy, ConsumerConfig

from rxcompact.brokers.jetstream import JetStreamSink, JetStreamSource, pulls
from rxcompact.brokers.jetstream.connection import Servers
from rxcompact.errors import ArgumentError

if TYPE_CHECKING:
    from .conftest import NatsServer, Rig


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# ── what the server does ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_that_expires_is_made_again(with_rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulls, "EXPIRES", 0.2)

    async def test(rig: Rig) -> None:
        await rig.pipeline(source={"prefetch": 3}).start()
        for number in range(4):
            await asyncio.sleep(0.35)
            await rig.send({"id": number})
        await rig.settles()
        assert sorted(rig.ids()) == list(range(4))
        assert rig.failures == []

    with_rig(test)


def test_a_consumer_that_is_deleted_is_made_again(with_rig: Any) -> None:
    async def test(rig: Rig) -> None:
        await rig.pipeline().start()
        await rig.send({"id": 1})
        await rig.settles()
        await rig.stream.delete_consumer("IN", "workers")
        await until(lambda: rig.failures)
        await rig.settles()
        await rig.send({"id": 2})
        await rig.settles()
        assert "Consumer Deleted" in str(rig.failures[0].error)
        assert rig.ids() == [1, 1, 2]  # a new consumer begins at the beginning

    with_rig(test)


def test_a_consumer_of_subjects_takes_those_alone(with_rig: Any) -> None:
    async def test(rig: Rig) -> None:
        await rig.pipeline(source={"subjects": ["in.b", "in.c.*"], "ack_wait": 7, "max_ack_pending": 11}).start()
        for subject in ("in.a", "in.b", "in.c.1"):
            await rig.stream.publish(subject, b'{"id": "%s"}' % subject.encode())
        await rig.settles()
        assert sorted(rig.ids()) == ["in.b", "in.c.1"]
        config = (await rig.info()).config
        assert (config.ack_wait, config.max_ack_pending, config.ack_policy) == (7, 11, "explicit")

    with_rig(test)


def test_a_consumer_without_explicit_acknowledgements_is_refused(with_rig: Any) -> None:
    async def test(rig: Rig) -> None:
        await rig.stream.add_consumer("IN", ConsumerConfig(durable_name="workers", ack_policy=AckPolicy.ALL))
        await rig.pipeline().start()
        await until(lambda: rig.failures)
        assert isinstance(rig.failures[0].error, ArgumentError)

    with_rig(test)


def test_a_stream_that_is_not_there_yet_is_waited_for(with_rig: Any) -> None:
    async def test(rig: Rig) -> None:
        await rig.stream.delete_stream("IN")
        await rig.pipeline().start()
        await until(lambda: len(rig.failures) > 1)
        await rig.stream.add_stream(name="IN", subjects=["in.>"])
        await rig.send({"id": 1})
        await rig.settles()
        assert rig.ids() == [1]

    with_rig(test)


def test_a_flush_waits_for_all_that_was_said_before_it(server: NatsServer) -> None:
    async def test() -> None:
        client = await Servers(server.url, None).connect()
        await client.subscribe("to.me")
        await client.publish_many([b"to.me"] * 10_000, b".")
        await client.flush()
        assert client.stats["in_msgs"] == 10_000  # which the server has sent before it answered
        await client.close()

    asyncio.run(test())


@pytest.mark.parametrize("paused", [0.0, 0.7])
def test_a_broker_that_is_killed_and_started_again_loses_nothing(
    with_rig: Any, server: NatsServer, paused: float
) -> None:
    async def test(rig: Rig) -> None:
        async def slow(event: Any) -> Any:
            await asyncio.sleep(0.001)
            return event

        orchestrator = rig.pipeline(enricher=slow, timespan=0.1, source={"ack_wait": 2.0, "prefetch": 200})
        await orchestrator.start()
        for start in range(0, 3000, 1000):
            await rig.send_events(range(start, start + 1000))
            await until(lambda: orchestrator.account.published > start)  # noqa: B023
            server.kill()
            await asyncio.sleep(paused)
            server.start()
        await rig.settles(seconds=20)
        assert set(rig.ids()) == set(range(3000))
        assert rig.letters == []
        # a live worker knows what it has done already, though the server may not
        assert len(rig.out) == 3000

    with_rig(test)


# ── credentials ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_credentials_are_told_to_nobody_but_the_server(make_server: Any, capfd: pytest.CaptureFixture[str]) -> None:
    server = make_server("--user", "worker", "--pass", "s3cret")
    url = server.url.replace("//", "//worker:s3cret@")
    wrong = server.url.replace("//", "//worker:wr0ng@")
    secrets = {"s3cret", "wr0ng", "worker:"}

    async def main() -> None:
        from loguru import logger

        from .conftest import rigged

        logged: list[str] = []
        handler = logger.add(logged.append, level="TRACE")
        try:
            early = JetStreamSource(url, stream="IN", consumer="workers")
            server.start()
            async with rigged(url) as rig:
                rig.url = wrong
                refused = rig.pipeline()
                await refused.start()
                await until(lambda: rig.failures)
                await refused.stop()
                rig.url = url
                await rig.pipeline().start()
                await rig.send({"id": 1})
                await rig.settles()
                sink = JetStreamSink([wrong, url], subject="x")
                shown = [*map(repr, (early, sink, *rig.sources)), *logged]
                shown += [str(failure) + repr(failure.error.__cause__) for failure in rig.failures]
        finally:
            logger.remove(handler)
        text = "\n".join([*shown, *capfd.readouterr()])
        assert "Authorization Violation" in text
        assert str(server.port) in repr(early)
        assert not {secret for secret in secrets if secret in text}

    asyncio.run(main())


@pytest.mark.parametrize(
    "options", [{"max_ack_pending": 0}, {"prefetch": 0}, {"max_bytes": 0}, {"ack_wait": 0}, {"together": 0}]
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        JetStreamSource("nats://nowhere", stream="IN", consumer="workers", **options)


@pytest.mark.parametrize("servers", ["", [], ["nats://a", ""]])
def test_a_source_needs_a_server(servers: Any) -> None:
    with pytest.raises(ArgumentError, match="servers"):
        JetStreamSource(servers, stream="IN", consumer="workers")
