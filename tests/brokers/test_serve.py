"""``rxcompact serve --source`` as the whole deployment: partitioned workers, one killed and replaced; other URLs."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from argparse import ArgumentTypeError
from collections import Counter, defaultdict
from typing import Any

import pytest
from aiohttp import ClientSession, web

from rxcompact.commands.serve import broker_source, partitions
from rxcompact.errors import ArgumentError

from .support import PATIENCE, Rig


class Service:
    def __init__(self, source: str, *options: str) -> None:
        self._arguments = [f"--source={source}", "--key=id", *options]

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rxcompact", "serve", *self._arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def line(self) -> str:
        assert self.process.stderr
        return (await asyncio.wait_for(self.process.stderr.readline(), PATIENCE)).decode()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        out, errors = await asyncio.wait_for(self.process.communicate(), PATIENCE)
        assert self.process.returncode == 0, errors.decode()
        return out.decode()


async def test_the_service_acknowledges_what_it_published(redis: Rig) -> None:
    client: Any = redis.client  # type: ignore[attr-defined]
    await redis.send(*({"id": number % 10} for number in range(100)))
    service = Service(f"{redis.url}/events?field=data", "--timespan=1", "--max-age=600")
    await service.start()
    assert "consuming RedisStreamSource" in await service.line()
    async with asyncio.timeout(PATIENCE):
        while (await client.xinfo_groups("events"))[0]["lag"] or (await client.xpending("events", "rxcompact"))[
            "pending"
        ]:
            await asyncio.sleep(0.02)
    counts: Counter[int] = Counter()
    for row in map(json.loads, (await service.stop()).splitlines()):
        counts[row["key"]] += row["count"]
    assert counts == dict.fromkeys(range(10), 10)


async def test_the_service_commits_what_it_published(tansu: Any) -> None:
    await tansu.send(*({"id": number % 10} for number in range(100)))
    service = Service(f"{tansu.url}/events?group=workers", "--timespan=500ms", "--max-age=600")
    await service.start()
    assert "consuming KafkaSource" in await service.line()
    await tansu.settles()
    counts: Counter[int] = Counter()
    for row in map(json.loads, (await service.stop()).splitlines()):
        counts[row["key"]] += row["count"]
    assert counts == dict.fromkeys(range(10), 10)


async def test_a_broker_that_is_not_there_yet_is_waited_for(broker: Rig) -> None:
    broker.server.kill()
    stream = "IN" if broker.server.package == "nats" else "events"
    field = "" if broker.server.package == "nats" else "?field=data"
    service = Service(f"{broker.url}/{stream}{field}", "--timespan=500ms", "--max-age=600")
    await service.start()
    line = await service.line()
    assert "source" in line
    assert str(broker.server.port) in line
    assert "Traceback" not in line
    broker.server.start()
    await broker.reconnect()
    await broker.send({"id": 1})
    while "consuming" not in line:
        line = await service.line()
        assert "Traceback" not in line
    assert service.process.stdout
    assert json.loads(await asyncio.wait_for(service.process.stdout.readline(), PATIENCE))["count"] == 1
    assert not await service.stop()


# ── partitions ────────────────────────────────────────────────────────────────────────────────────────────────────────

KEYS, EACH = 100, 20


async def deployed(nats: Any, splits: list[list[str]], *, kills: bool) -> list[dict[str, Counter[int]]]:
    """Run a worker for each part of each split, one split after the other; return what their stores have."""
    from nats.js.api import StreamConfig, SubjectTransform

    stored: defaultdict[str, Counter[int]] = defaultdict(Counter)

    async def store(request: web.Request) -> web.Response:
        for event in map(json.loads, (await request.read()).splitlines()):
            stored[request.match_info["worker"]][event["event"]["id"]] += event["count"]
        return web.Response()

    app = web.Application()
    app.router.add_post("/{worker}", store)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    by_partition = SubjectTransform("events.*", "events.{{partition(4,1)}}.{{wildcard(1)}}")
    await nats.stream.add_stream(StreamConfig("EVENTS", subjects=["events.*"], subject_transform=by_partition))

    async def send() -> None:
        for number in range(KEYS * EACH // 2):
            await nats.stream.publish(f"events.{number % KEYS}", json.dumps({"id": number % KEYS}).encode())

    async def settled() -> None:
        async with asyncio.timeout(PATIENCE):  # the default ack_wait is part of it
            for number in range(4):
                found = None
                while found is None or found.num_pending or found.num_ack_pending:
                    await asyncio.sleep(0.1)
                    found = await nats.stream.consumer_info("EVENTS", f"rxcompact-{number}")

    options = ["--timespan=300ms", "--max-age=600"]
    found = []
    for split in splits:
        workers = [
            Service(f"{nats.url}/EVENTS", f"--partitions={part}", f"--publish={base}/{part}", *options)
            for part in split
        ]
        for worker in workers:
            await worker.start()
            assert "consuming" in await worker.line()
        await send()
        if kills:
            await workers[0].kill()
            await workers[0].start()
        await send()
        await settled()
        for worker in workers:
            await worker.stop()
        found.append(dict(stored))
        stored.clear()
    await runner.cleanup()
    return found


@pytest.mark.timeout(300)
async def test_partitioned_workers_share_the_keys_and_one_that_is_killed_is_replaced(nats: Rig) -> None:
    [stored] = await deployed(nats, [["0-1", "2-3"]], kills=True)
    assert not set(stored["0-1"]) & set(stored["2-3"])  # a key is in one worker alone
    counts = stored["0-1"] + stored["2-3"]
    assert set(counts) == set(range(KEYS))
    assert all(count >= EACH for count in counts.values())  # at least once


@pytest.mark.timeout(300)
async def test_partitions_divided_otherwise_publish_nothing_again(nats: Rig) -> None:
    splits = [["0-3"], ["0-1", "2-3"], ["0", "1", "2", "3"], ["0-3"]]  # 1, 2, 4, 1 workers
    for split, stored in zip(splits, await deployed(nats, splits, kills=False), strict=True):
        assert set(stored) == set(split)
        assert sum(stored.values(), Counter()) == dict.fromkeys(range(KEYS), EACH)


@pytest.mark.parametrize(("text", "expected"), [("0", range(1)), ("0-3", range(4)), ("2-2", range(2, 3))])
def test_partitions_are_a_number_or_a_range(text: str, expected: range) -> None:
    assert partitions(text) == expected


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "0-", "1-2-3"])
def test_other_partitions_are_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="not partitions"):
        partitions(text)


# ── URLs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        "redis://host:6379/0",
        "redis://host:6379/events",
        "redis://host:6379/0/",
        "redis://",
        "nats://host/",
        "nats://host/a/b",
        "amqp://x/y",
        "kafka://host:9092/",
        "kafka://host/a/b",
    ],
)
def test_a_url_has_a_server_and_a_stream(url: str) -> None:
    with pytest.raises(ArgumentError, match="redis://HOST:PORT/DB/STREAM"):
        broker_source(url, None, None)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:s3cret@host:6379/0",
        "redis://u:s3/cret@host:6379/0/x",
        "redis://host/0/x?password=s3cret",
        "nats://u:s3cret@host/",
        "nats://u:s3cret@host/x?token=s3cret",
    ],
)
def test_a_url_that_is_refused_is_shown_without_credentials(url: str) -> None:
    with pytest.raises(ArgumentError, match="host") as raised:
        broker_source(url, None, None)
    assert "cret" not in str(raised.value)


def test_options_are_in_the_query_of_the_url() -> None:
    url = "redis://u:pw@host:6379/0/events%2Fa?group=g&consumer=c&field=data&min_idle_time=1m&start=new"
    source: Any = broker_source(url, None, None)
    assert repr(source) == "RedisStreamSource('host:6379/0', stream='events/a', group='g', consumer='c')"
    assert (source._field, source._min_idle_time, source._start) == (b"data", 60, "$")
    sentinel: Any = broker_source("rediss://u:pw@a:1,b/2/events?sentinel=main", None, None)
    assert (sentinel._sentinel, sentinel._sentinels) == ("main", [("a", 1), ("b", 26379)])
    assert (sentinel._options["db"], sentinel._options["password"]) == (2, "pw")
    nats: Any = broker_source("nats://a:1,b:2/EVENTS?consumer=c&ack_wait=5s", range(2), "2026-11-28T00:00:00Z")
    assert repr(nats) == "JetStreamSource('a:1,b:2', stream='EVENTS', consumer='c')"
    assert nats._unacked.ack_wait == 5
    assert [consumer.subjects for consumer in nats._consumers] == [["*.0.>"], ["*.1.>"]]
    pytest.importorskip("aiokafka")
    kafka: Any = broker_source("kafkas://u:p%40w@a:1,b:2/events?group=g&grace=1m&mechanism=SCRAM-SHA-256", None, None)
    assert repr(kafka) == "KafkaSource('a:1,b:2', topic='events', group='g')"
    options = kafka._servers._options
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-256")
    assert (options["sasl_plain_username"], options["sasl_plain_password"], kafka._grace) == ("u", "p@w", 60)


@pytest.mark.parametrize(
    ("url", "start", "match"),
    [
        ("redis://host/0/x?max_pending=many", None, "max_pending"),
        ("nats://host/x?ack_wait=soon", None, "ack_wait"),
        ("nats://host/x?field=data", None, "without field; its options are consumer"),
        ("nats://host/x", "yesterday", "start"),
        ("nats://host/x?credentials=/no/such", None, "credentials of --source must be .*No such file"),
        ("redis://host/0/x?ca=/no/such", None, "ca of --source must be .*No such file"),
        ("kafka://host/x?consumer=c", None, "without consumer; its options are group"),
    ],
)
def test_options_that_cannot_be_used_are_named(url: str, start: str | None, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        broker_source(url, None, start)


@pytest.mark.parametrize("url", ["redis://host:6379/0/events", "kafka://host:9092/events"])
def test_partitions_are_given_for_nats_alone(url: str) -> None:
    with pytest.raises(ArgumentError, match="partitions"):
        broker_source(url, range(4), None)


async def test_b7_a_worker_answers_probes_and_reports_how_far_behind_it_is(
    broker: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RXCOMPACT_MAX_IN_FLIGHT", "10")
    nats = broker.server.package == "nats"
    await broker.send(*({"id": number} for number in range(100)))
    stream = "IN" if nats else "events"
    source = f"{broker.url}/{stream}?prefetch=20{'' if nats else '&field=data'}"
    service = Service(source, "--timespan=1000", "--max-age=6000", "--status=127.0.0.1:0", "--log-format=json")
    await service.start()
    status, text = json.loads(await service.line())["message"].split()[-1], ""
    async with ClientSession() as session, asyncio.timeout(PATIENCE):
        lag = re.escape(
            f'rxcompact_source_lag_events{{partition="rxcompact",pipeline="default",source="stream {stream}"}}'
        )
        while (found := re.search(rf"{lag} (\S+)", text)) is None or float(found[1]) == 100:  # as it was at first
            async with session.get(f"{status}/metrics") as response:
                text = await response.text()
            await asyncio.sleep(0.05)
        async with session.get(f"{status}/readyz?verbose") as response:
            assert response.status == 503
            assert (await response.text()).startswith("source: ok\ncapacity: full, 10 of 10 held (max_in_flight), ")
        async with session.get(f"{status}/healthz") as response:
            assert response.status == 200
    rig: Any = broker
    there = (await rig.info("rxcompact")).num_pending if nats else (await rig.client.xinfo_groups("events"))[0]["lag"]
    assert float(found[1]) == there < 100
    assert len((await service.stop()).splitlines()) == 10
