"""A source of your own, as the manual has it: RabbitMQ whose connections are cut loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aio_pika")

import aio_pika
from pipelines import simple_pipeline

from rxcompact import Orchestrator
from rxcompact.errors import TransientError
from rxcompact.signals import SourceFailed
from rxcompact.testing.proxy import Proxy, free_port

from .rabbitmq_source import RabbitSource
from .support import PATIENCE, Gate, Server, until


class RabbitServer(Server):
    scheme, package, binary, ready = "amqp", "aio_pika", "rabbitmq-server", "Starting broker... completed"

    def arguments(self, folder: Path) -> list[str]:
        return []

    def __init__(self, folder: Path, *flags: str) -> None:
        super().__init__(folder, *flags)
        self._epmd = f"ERL_EPMD_PORT={free_port()}"
        settings = {
            "HOME": folder,
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "true",  # may be killed though it knows a node
            "RABBITMQ_MNESIA_BASE": folder,
            "RABBITMQ_LOG_BASE": folder,
            "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": free_port(),
        }
        # not Debian's own script, which does not run it as root
        program = "/usr/lib/rabbitmq/bin/rabbitmq-server"
        self._command = ["setsid", "env", self._epmd, *(f"{name}={value}" for name, value in settings.items()), program]

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            subprocess.run(["env", self._epmd, "epmd", "-kill"], capture_output=True)


async def publish(url: str, bodies: list[bytes]) -> None:
    async with await aio_pika.connect(url) as connection, await connection.channel() as channel:
        await channel.declare_queue("events", durable=True)
        for number, body in enumerate(bodies):
            message = aio_pika.Message(body, message_id=str(number))
            await channel.default_exchange.publish(message, routing_key="events")


async def waiting(url: str) -> int:
    """Return how many messages are in the queue, without those that were delivered and not acknowledged."""
    async with await aio_pika.connect(url) as connection, await connection.channel() as channel:
        queue = await channel.declare_queue("events", durable=True)
        return queue.declaration_result.message_count or 0


@pytest.mark.timeout(240)
async def test_a_queue_whose_connections_are_cut_loses_nothing(make_server: Any) -> None:
    server = make_server(RabbitServer)
    server.start()
    failures: list[SourceFailed] = []
    letters: list[Any] = []
    out: list[Any] = []
    async with Proxy(server.port) as proxy:
        source = RabbitSource(server.url.replace(str(server.port), str(proxy.port)), "events", prefetch=500)
        settings: dict[str, Any] = {"key_mapper": "id", "timespan": 0.1, "max_age": 6000, "batch_timespan": 0.05}
        orchestrator = Orchestrator(simple_pipeline(source, sink=out.extend, **settings))
        orchestrator.signals.subscribe(lambda it: failures.append(it) if isinstance(it, SourceFailed) else None)
        orchestrator.dead_letters.subscribe(letters.append)
        await orchestrator.start()
        for start in range(0, 2000, 200):
            await publish(server.url, [b'{"id": %d}' % number for number in range(start, start + 200)])
            await until(lambda: len(out) > start)  # noqa: B023
            proxy.cut()
        await publish(server.url, [b"{oops"])
        await until(lambda: set(range(2000)) <= {it.key for it in out} and letters)
        await orchestrator.stop()
    assert failures
    assert {type(failure.error) for failure in failures} == {TransientError}
    assert Counter(it.key for it in out).keys() == set(range(2000))
    assert letters[0].origin == "queue events, message 0"
    assert await waiting(server.url) == 0
    # what a stop leaves unsettled is given back
    await publish(server.url, [b'{"id": %d}' % number for number in range(50)])
    gate = Gate(out)
    source = RabbitSource(server.url, "events")
    orchestrator = Orchestrator(simple_pipeline(source, sink=gate, **settings))
    await orchestrator.start()
    await asyncio.wait_for(gate.asked.wait(), PATIENCE)
    await orchestrator.stop(0.5)
    async with asyncio.timeout(PATIENCE):
        while await waiting(server.url) != 50:
            await asyncio.sleep(0.1)
