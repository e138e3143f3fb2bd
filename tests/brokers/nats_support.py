"""A real NATS server with file storage, and a stream in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nats

from rxcompact.brokers.jetstream import JetStreamSource

from .support import Rig, Server

STREAM, CONSUMER = "IN", "workers"


class NatsServer(Server):
    scheme, package, binary, ready = "nats", "nats", "nats-server", "Server is ready"

    def arguments(self, folder: Path) -> list[str]:
        return ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(folder / "store")]


class NatsRig(Rig):
    async def connect(self) -> None:
        options: dict[str, Any] = {"reconnect_time_wait": 0.1, "max_reconnect_attempts": -1, "error_cb": _ignored}
        self.client = await nats.connect(self.url, **options)
        self.stream = self.client.jetstream()
        await self.stream.add_stream(name=STREAM, subjects=["in.>"])

    async def disconnect(self) -> None:
        await self.client.close()

    def source(self, **options: Any) -> Any:
        return JetStreamSource(self.url, **({"stream": STREAM, "consumer": CONSUMER} | options))

    async def send_raw(self, *bodies: bytes) -> list[Any]:
        return [(await self.stream.publish("in.a", body)).seq for body in bodies]

    async def send_events(self, numbers: Iterable[int]) -> None:
        await self.send_numbered({number: b'{"id": %d}' % number for number in numbers})

    async def send_numbered(self, bodies: dict[int, bytes]) -> None:
        left = set(bodies)
        while left:
            sent = {
                number: await self.stream.publish_async("in.a", bodies[number], headers={"Nats-Msg-Id": str(number)})
                for number in sorted(left)
            }
            done, _ = await asyncio.wait(sent.values(), timeout=1)
            left = {number for number, future in sent.items() if future not in done or future.exception()}

    async def delivered_numbers(self) -> set[int]:
        # messages above the acknowledged floor, up to what was delivered; a number is a sequence less one
        info = await self.info()
        return set(range(info.ack_floor.stream_seq, info.delivered.stream_seq))

    async def info(self, consumer: str = CONSUMER) -> Any:
        return await self.stream.consumer_info(STREAM, consumer)

    async def pending(self) -> tuple[int, int]:
        info = await self.info()
        return info.num_pending, info.num_ack_pending

    def origin(self, sent: Any) -> str:
        return f"stream IN, message {sent}"

    async def redelivered(self) -> int:
        info = await self.info()
        return info.delivered.consumer_seq - info.delivered.stream_seq

    async def remove_consumer(self) -> None:
        await self.stream.delete_consumer(STREAM, CONSUMER)


async def _ignored(_: Exception) -> None: ...
