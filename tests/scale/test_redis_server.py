"""RedisStreamSource and what a server may do: forget, refuse, hang, be killed; and what is told of credentials."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("redis")

from rxcompact.brokers.redis import RedisStreamSource
from rxcompact.errors import ArgumentError, TransientError

from .conftest import Gate
from .redis_support import GROUP, STREAM

if TYPE_CHECKING:
    from .redis_support import RedisRig


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# ── what the server does ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_group_that_is_removed_is_made_again(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        await rig.pipeline().start()
        await rig.send({"id": 1})
        await rig.settles()
        await rig.client.xgroup_destroy(STREAM, GROUP)
        await until(lambda: rig.failures)
        await rig.settles()
        await rig.send({"id": 2})
        await rig.settles()
        assert isinstance(rig.failures[0].error, TransientError)
        assert "group" in str(rig.failures[0].error)
        assert rig.ids() == [1, 1, 2]  # a new group begins at the beginning

    with_redis(test)


def test_a_key_that_is_no_stream_is_told_and_waited_for(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        await rig.client.set(STREAM, "text")
        await rig.pipeline().start()
        await until(lambda: len(rig.failures) > 1)
        assert isinstance(rig.failures[0].error, ArgumentError)
        assert str(rig.failures[0].error) == "stream must be the key of a stream, got 'events'"
        await rig.client.delete(STREAM)
        await rig.send({"id": 1})
        await rig.settles()
        assert rig.ids() == [1]

    with_redis(test)


def test_a_server_that_hangs_is_noticed_and_what_it_sent_to_nobody_is_not_lost(
    with_redis: Any, redis_server: Any
) -> None:
    async def test(rig: RedisRig) -> None:
        gate = Gate(rig.out)
        await rig.pipeline(sink=gate, source={"options": {"socket_timeout": 0.5}}).start()
        await rig.send({"id": 1})
        await rig.settles(unacknowledged=1)
        await asyncio.wait_for(gate.asked.wait(), 5)
        await rig.send_events(range(2, 10))
        redis_server.process.send_signal(signal.SIGSTOP)
        await until(lambda: rig.failures)
        gate.open.set()  # what settles meanwhile is acknowledged later
        await until(lambda: rig.out)
        redis_server.process.send_signal(signal.SIGCONT)
        await rig.settles()
        assert sorted(rig.ids()) == list(range(1, 10))
        assert {type(failure.error) for failure in rig.failures} == {TransientError}
        assert str(redis_server.port) in str(rig.failures[0].error)

    with_redis(test)


def test_a_reply_that_was_lost_is_asked_for_again(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        await rig.pipeline(source={"min_idle_time": 60}).start()
        await rig.send_events(range(10))
        await rig.settles()
        # delivered to this worker's name, and to nobody
        await rig.deliver("one", *({"id": number} for number in range(10, 20)))
        await rig.client.client_kill_filter(_type="normal", skipme=True)
        await until(lambda: rig.failures)
        await rig.settles()
        assert sorted(rig.ids()) == list(range(20))

    with_redis(test)


@pytest.mark.parametrize("paused", [0.0, 0.7])
def test_a_server_that_is_killed_and_started_again_loses_nothing(make_redis: Any, paused: float) -> None:
    from .redis_support import rigged

    server = make_redis("--appendfsync", "always")
    server.start()

    async def main() -> None:
        async def slow(event: Any) -> Any:
            await asyncio.sleep(0.001)
            return event

        async with rigged(server.url) as rig:
            orchestrator = rig.pipeline(enricher=slow, timespan=0.1, source={"prefetch": 200})
            await orchestrator.start()
            for start in range(0, 3000, 1000):
                await rig.send_events(range(start, start + 1000))
                await until(lambda: orchestrator.account.published > start)
                server.kill()
                await asyncio.sleep(paused)
                server.start()
                await rig.client.connection_pool.disconnect()
            await rig.settles(seconds=20)
            assert set(rig.ids()) == set(range(3000))
            assert (rig.letters, len(rig.failures) > 0) == ([], True)
            # a live worker knows what it has done already
            assert len(rig.out) == 3000

    asyncio.run(main())


def test_what_settled_before_the_server_forgot_is_acknowledged_and_not_done_again(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        await rig.pipeline(source={"min_idle_time": 0.4}).start()
        entries = await rig.send(*({"id": number} for number in range(10)))
        await rig.settles()
        # as if the acknowledgements were lost: pending again, for this worker and for another
        await rig.client.xclaim(STREAM, GROUP, "one", 0, entries[:5], force=True, justid=True)
        await rig.client.xclaim(STREAM, GROUP, "two", 0, entries[5:], force=True, justid=True)
        assert len(await rig.pending()) == 10
        await rig.settles()
        assert rig.ids() == list(range(10))

    with_redis(test)


def test_what_settled_without_a_server_is_told_when_the_worker_stops(redis_server: Any) -> None:
    from .redis_support import rigged

    async def main() -> None:
        async with rigged(redis_server.url) as rig:
            gate = Gate(rig.out)
            orchestrator = rig.pipeline(sink=gate)
            await orchestrator.start()
            await rig.send_events(range(10))
            await rig.settles(unacknowledged=10)
            redis_server.kill()
            gate.open.set()
            await until(lambda: len(rig.out) == 10)
            stopping = asyncio.ensure_future(orchestrator.stop())
            await asyncio.sleep(0.5)
            redis_server.start()
            assert (await stopping).in_time
            await rig.settles()

    asyncio.run(main())


def test_a_stop_is_quick_with_and_without_a_server(redis_server: Any) -> None:
    from .redis_support import rigged

    async def main() -> None:
        async with rigged(redis_server.url) as rig:
            orchestrator = rig.pipeline(timespan=30)
            for kills in (False, True):
                await orchestrator.start()
                await rig.settles()
                if kills:
                    redis_server.kill()
                began = time.monotonic()
                await orchestrator.stop()
                assert time.monotonic() - began < 1

    asyncio.run(main())


def test_what_the_server_refuses_is_told(with_redis: Any) -> None:
    async def test(rig: RedisRig) -> None:
        await rig.pipeline(source={"start": "nowhere"}).start()
        await until(lambda: len(rig.failures) > 1)
        assert "Invalid stream ID" in str(rig.failures[0].error)

    with_redis(test)


# ── credentials ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_credentials_are_told_to_nobody_but_the_server(make_redis: Any, capfd: pytest.CaptureFixture[str]) -> None:
    server = make_redis("--requirepass", "s3cret")
    url = server.url.replace("//", "//default:s3cret@")
    wrong = server.url.replace("//", "//default:wr0ng@")
    secrets = {"s3cret", "wr0ng", "default"}

    async def main() -> None:
        from loguru import logger

        from .redis_support import rigged

        logged: list[str] = []
        handler = logger.add(logged.append, level="TRACE")
        try:
            queried = RedisStreamSource(f"{server.url}?password=s3cret", stream=STREAM, group=GROUP)
            async with rigged(url) as rig:
                early = rig.pipeline()  # before there is a server
                await early.start()
                await until(lambda: rig.failures)
                await early.stop()
                server.start()
                rig.url = wrong
                refused = rig.pipeline()
                await refused.start()
                await until(lambda: "invalid username-password" in str(rig.failures[-1].error))
                await refused.stop()
                rig.url = url
                await rig.pipeline().start()
                await rig.send({"id": 1})
                await rig.settles()
                shown = [*map(repr, (queried, *rig.sources)), *logged]
                shown += [str(failure) + repr(failure.error.__cause__) for failure in rig.failures]
        finally:
            logger.remove(handler)
        text = "\n".join([*shown, *capfd.readouterr()])
        assert str(server.port) in repr(queried)
        assert not {secret for secret in secrets if secret in text}

    asyncio.run(main())


@pytest.mark.parametrize("url", ["nats://host:1", "host:1", "redis://u:pa/s3cret@host:1", "redis://host:s3cret", ""])
def test_a_url_that_is_none_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ArgumentError, match="url") as raised:
        RedisStreamSource(url, stream=STREAM, group=GROUP)
    assert "s3cret" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("options", [{"max_pending": 0}, {"prefetch": 0}, {"min_idle_time": 0}, {"together": 0}])
def test_arguments_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        RedisStreamSource("redis://nowhere", stream=STREAM, group=GROUP, **options)
