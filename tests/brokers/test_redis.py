"""RedisStreamSource: fields of entries, consumers of a group, and what a server may do."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("redis")

from redis.asyncio import Redis
from redis.exceptions import RedisError

from rxcompact.brokers.redis import RedisStreamSource
from rxcompact.errors import ArgumentError, TransientError
from rxcompact.testing.proxy import free_port

from .redis_support import GROUP, STREAM, RedisRig, RedisServer, SentinelServer
from .support import PATIENCE, Gate, Server, logged, until

LONG = 10 * PATIENCE


def entry(number: int) -> bytes:
    return b'{"id": %d}' % number


# ── fields ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_fields_of_an_entry_are_an_event(redis: RedisRig) -> None:
    await redis.pipeline(source={"field": None}).start()
    await redis.add([{"id": 1, "host": "web1"}, {"id": 1, "host": "web1"}, {"id": "ä", "raw": b"\xff"}, {"id": '"'}])
    await redis.settles()
    found = sorted((compacted.count, json.dumps(compacted.event, sort_keys=True)) for compacted in redis.out)
    assert found == [
        (1, '{"id": "\\""}'),
        (1, '{"id": "\\u00e4", "raw": "\\\\xff"}'),
        (2, '{"host": "web1", "id": "1"}'),
    ]
    assert redis.letters == []


async def test_an_entry_without_the_field_is_a_dead_letter_with_its_content(redis: RedisRig) -> None:
    orchestrator = redis.pipeline()
    await orchestrator.start()
    [bad] = await redis.add([{"other": b"\n\xff", "more": "{}"}])
    await redis.add([{"other": "x", "data": '{"id": 5}'}])
    await redis.settles()
    assert redis.ids() == [5]
    [letter] = redis.letters
    assert (letter.outcome, letter.reason) == ("rejected", "malformed")
    assert str(letter.error) == "no field 'data'"
    assert letter.origin == f"stream events, entry {bad.decode()}"
    assert json.loads(letter.event.content) == {"other": "\n\\xff", "more": "{}"}
    assert orchestrator.account.rejected == 1


@pytest.mark.parametrize(("start", "expected"), [("all", [0, 1, 2]), ("new", [2]), ("instant", [1, 2])])
async def test_a_group_that_is_made_begins_at_its_start(redis: RedisRig, start: Any, expected: list[int]) -> None:
    await redis.send({"id": 0})
    await asyncio.sleep(0.05)
    [identity] = await redis.send({"id": 1})
    instant = int(identity.partition(b"-")[0]) / 1000
    orchestrator = redis.pipeline(source={"start": instant if start == "instant" else start})
    await orchestrator.start()
    await redis.settles()
    await orchestrator.stop()
    await redis.send({"id": 2})
    await orchestrator.start()
    await redis.settles()
    assert redis.ids() == expected


# ── consumers of a group ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_worker_that_starts_again_begins_with_what_it_left(redis: RedisRig) -> None:
    await redis.client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    await redis.send_events(range(25))
    left = await redis.client.xreadgroup(GROUP, "one", {STREAM: ">"}, 20)
    others = await redis.client.xreadgroup(GROUP, "two", {STREAM: ">"}, 2)
    await redis.client.xdel(STREAM, left[0][1][0][0])
    await redis.pipeline(source={"min_idle_time": LONG, "prefetch": 3}).start()
    await redis.settles(unacknowledged=2)
    assert set(await redis.delivered()) == {identity for identity, _ in others[0][1]}
    assert redis.ids() == [*range(1, 20), 22, 23, 24]


async def test_a_worker_that_is_gone_is_replaced_by_the_others_after_min_idle_time(redis: RedisRig) -> None:
    await redis.client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    await redis.send_events(range(3_000))
    left = await redis.client.xreadgroup(GROUP, "gone", {STREAM: ">"}, 2_500)
    # two of those that it left are removed meanwhile
    removed = [left[0][1][number][0] for number in (0, 1_700)]
    await redis.client.xdel(STREAM, *removed)
    with logged() as lines:
        await redis.pipeline(source={"min_idle_time": 0.4, "prefetch": 100}).start()
        await redis.settles()
    assert sorted(redis.ids()) == [number for number in range(3_000) if number not in (0, 1_700)]
    lost = [line for line in lines if "removed from the stream" in line]
    assert {identity.decode() for identity in removed} <= {line.split()[-2].rstrip(",") for line in lost}


async def test_what_others_left_is_found_behind_much_that_is_held(redis: RedisRig) -> None:
    orchestrator = redis.pipeline(timespan=LONG, source={"min_idle_time": 0.4, "prefetch": 10})
    await orchestrator.start()
    await redis.send_events(range(300))  # the server looks at ten times as many as it is asked for
    await until(lambda: orchestrator.account.received == 300)
    await redis.deliver("gone", *map(entry, range(300, 320)))
    await until(lambda: orchestrator.account.received == 320)
    await orchestrator.stop()
    await redis.settles()
    assert sorted(redis.ids()) == list(range(320))


async def consumers(redis: RedisRig) -> set[str]:
    return {it["name"].decode() for it in await redis.client.xinfo_consumers(STREAM, GROUP)}


async def test_consumers_that_hold_nothing_and_are_idle_are_removed(redis: RedisRig) -> None:
    await redis.client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    await redis.send_events(range(4))
    for dead in ("dead-1", "dead-2"):
        await redis.client.xreadgroup(GROUP, dead, {STREAM: ">"}, 1)
    orchestrator = redis.pipeline(source={"min_idle_time": 0.2, "consumer": "alive"})
    await orchestrator.start()
    await redis.settles()
    async with asyncio.timeout(PATIENCE):
        while await consumers(redis) != {"alive"}:  # after six times min_idle_time
            await asyncio.sleep(0.02)
    assert sorted(redis.ids()) == list(range(4))
    await orchestrator.stop()
    assert await consumers(redis) == set()


async def test_a_consumer_that_holds_entries_stays_when_its_worker_stops(redis: RedisRig) -> None:
    gate = Gate(redis.out)
    orchestrator = redis.pipeline(sink=gate, source={"min_idle_time": LONG})
    await orchestrator.start()
    await redis.send_events(range(3))
    await redis.settles(unacknowledged=3)
    await orchestrator.stop(0.1)
    assert await consumers(redis) == {"one"}
    assert len(await redis.delivered()) == 3


async def test_a_worker_that_may_not_remove_consumers_warns_once_and_goes_on(redis: RedisRig) -> None:
    await redis.client.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "~*", "+@all", "-eval")
    redis.url = redis.url.replace("//", "//worker:pw@")
    with logged() as lines:
        await redis.pipeline(source={"min_idle_time": 0.1}).start()
        await until(lambda: lines)
        await redis.send_events(range(3))
        await redis.settles()
        await asyncio.sleep(1.5)
    assert len(lines) == 1
    assert "removes no consumers" in lines[0]
    assert redis.failures == []


# ── what a server may do ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_key_of_something_else_is_named_and_waited_for(redis: RedisRig) -> None:
    await redis.client.set(STREAM, "text")
    await redis.pipeline().start()
    await until(lambda: len(redis.failures) > 1)
    assert isinstance(redis.failures[0].error, ArgumentError)
    assert str(redis.failures[0].error) == "stream must be the key of a stream, got 'events'"
    await redis.client.delete(STREAM)
    await redis.send({"id": 1})
    await redis.settles()
    assert redis.ids() == [1]


async def test_a_server_that_hangs_is_noticed_and_what_it_sent_meanwhile_is_not_lost(redis: RedisRig) -> None:
    gate = Gate(redis.out)
    await redis.pipeline(sink=gate, source={"options": {"socket_timeout": 0.5}}).start()
    await redis.send({"id": 1})
    await redis.settles(unacknowledged=1)
    await asyncio.wait_for(gate.asked.wait(), PATIENCE)
    await redis.send_events(range(2, 10))
    assert redis.server.process is not None
    redis.server.process.send_signal(signal.SIGSTOP)
    await until(lambda: redis.failures)
    gate.open.set()  # what settles meanwhile is acknowledged later
    await until(lambda: redis.out)
    redis.server.process.send_signal(signal.SIGCONT)
    await redis.settles()
    assert sorted(redis.ids()) == list(range(1, 10))
    assert {type(failure.error) for failure in redis.failures} == {TransientError}
    assert str(redis.server.port) in str(redis.failures[0].error)


async def test_a_reply_that_was_lost_is_asked_for_again(redis: RedisRig) -> None:
    await redis.pipeline(source={"min_idle_time": LONG}).start()
    await redis.send_events(range(10))
    await redis.settles()
    # delivered to this worker's name, and to nobody
    await redis.deliver("one", *map(entry, range(10, 20)))
    await redis.client.client_kill_filter(_type="normal", skipme=True)
    await until(lambda: redis.failures)
    await redis.settles()
    assert sorted(redis.ids()) == list(range(20))


async def test_what_settled_before_the_server_forgot_is_acknowledged_and_not_done_again(redis: RedisRig) -> None:
    await redis.pipeline(source={"min_idle_time": 0.4}).start()
    entries = await redis.send(*({"id": number} for number in range(10)))
    await redis.settles()
    # as if the acknowledgements were lost: pending again, for this worker and for another
    await redis.client.xclaim(STREAM, GROUP, "one", 0, entries[:5], force=True, justid=True)
    await redis.client.xclaim(STREAM, GROUP, "two", 0, entries[5:], force=True, justid=True)
    assert len(await redis.delivered()) == 10
    await redis.settles()
    assert redis.ids() == list(range(10))


async def test_an_acknowledgement_that_is_not_permitted_is_a_failure_of_the_source(redis: RedisRig) -> None:
    await redis.client.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "~*", "+@all", "-xack")
    redis.url = redis.url.replace("//", "//worker:pw@")
    await redis.pipeline(source={"min_idle_time": LONG}).start()
    await redis.send_events(range(3))
    await until(lambda: len(redis.failures) > 1)
    assert "xack" in str(redis.failures[0].error)
    await redis.client.execute_command("ACL", "SETUSER", "worker", "+xack")  # somebody puts it right
    await redis.settles()
    assert redis.ids() == list(range(3))


# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_credentials_in_the_query_of_a_url_are_not_shown() -> None:
    source = RedisStreamSource("redis://host:6379/0?password=s3cret", stream=STREAM, group=GROUP)
    assert "host:6379/0" in repr(source)
    assert "s3cret" not in repr(source)


@pytest.mark.parametrize("url", ["nats://host:1", "host:1", "redis://u:pa/s3cret@host:1", "redis://host:s3cret", ""])
def test_a_url_that_cannot_be_parsed_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ArgumentError, match="url") as raised:
        RedisStreamSource(url, stream=STREAM, group=GROUP)
    assert "s3cret" not in str(raised.value)
    assert raised.value.__suppress_context__


# ── Sentinel ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_with_sentinels_a_source_goes_on_with_the_replica_that_was_promoted(
    make_server: Any, tmp_path: Path
) -> None:
    master = make_server(RedisServer)
    (tmp_path / "replica").mkdir()
    of_master = "--replicaof", "127.0.0.1", str(master.port)
    replica = make_server(RedisServer, "--dir", str(tmp_path / "replica"), *of_master)
    sentinel = make_server(SentinelServer)
    master.start()
    replica.start()
    sentinel.watch(master)
    async with RedisRig(replica).running() as rig:
        await until_promotable(sentinel, rig)
        rig.url = f"redis://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/0"  # of which one is away
        await rig.pipeline(source={"sentinel": "main", "min_idle_time": 2.0}).start()
        async with Redis.from_url(master.url) as client:
            await client.xadd(STREAM, {"data": entry(1)})
        await until(lambda: rig.out)
        master.kill()
        await until_master(rig)
        await rig.send({"id": 2})
        await until(lambda: 2 in rig.ids())
        await rig.settles()
    assert {type(failure.error) for failure in rig.failures} <= {TransientError}
    assert repr(rig.sources[0]).startswith(f"RedisStreamSource('main of {rig.url[8:-2]}', ")


async def until_promotable(sentinel: Server, rig: RedisRig) -> None:
    """Wait until a Sentinel knows the replica, and that has what its master has."""
    async with Redis.from_url(sentinel.url, decode_responses=True) as client, asyncio.timeout(PATIENCE):
        while not (await client.sentinel_masters())["main"]["num-slaves"]:
            await asyncio.sleep(0.05)
        while (await rig.client.info("replication"))["master_link_status"] != "up":
            await asyncio.sleep(0.05)


async def until_master(rig: RedisRig) -> None:
    role = "slave"
    async with asyncio.timeout(PATIENCE):
        while role != "master":
            await asyncio.sleep(0.2)
            with suppress(RedisError):  # the Sentinel closes connections
                role = (await rig.client.info("replication"))["role"]


def test_several_addresses_without_the_name_of_a_master_are_refused() -> None:
    with pytest.raises(ArgumentError, match="sentinel"):
        RedisStreamSource("redis://u:s3cret@a:1,b:2/0", stream=STREAM, group=GROUP)
