"""Brokers of the tests: each has a server of its own, of which nothing is left behind."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from .support import Rig, Server

SERVERS = {"nats", "redis", "broker", "make_server", "tansu", "kafka_mock"}


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run coroutine tests that have a broker in real time, with a rig on it that is running."""
    given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or not SERVERS & given.keys():
        return None

    async def main() -> None:
        async with AsyncExitStack() as stack:
            for name, it in given.items():
                if isinstance(it, Rig):
                    given[name] = await stack.enter_async_context(it.running())
            await pyfuncitem.obj(**given)

    asyncio.run(main())
    return True


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a source that failed subscribed to again at once."""
    monkeypatch.setattr("rxcompact.supervisor.backoff", lambda _: 0.1)


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Any]:
    """Return what makes a server of a kind, with flags; it is not started."""
    servers: list[Server] = []

    def make(kind: type[Server], *flags: str) -> Server:
        servers.append(kind(tmp_path, *flags))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def nats(make_server: Any) -> Rig:
    pytest.importorskip("nats")
    from .nats_support import NatsRig, NatsServer

    server = make_server(NatsServer)
    server.start()
    return NatsRig(server)


@pytest.fixture
def redis(make_server: Any) -> Rig:
    pytest.importorskip("redis")
    from .redis_support import RedisRig, RedisServer

    server = make_server(RedisServer)
    server.start()
    return RedisRig(server)


@pytest.fixture
def tansu(make_server: Any) -> Rig:
    """Kafka with groups."""
    pytest.importorskip("aiokafka")
    from .kafka_support import KafkaRig, TansuServer

    server = make_server(TansuServer)
    server.start()
    return KafkaRig(server)


@pytest.fixture
def kafka_mock() -> Iterator[Rig]:
    """Kafka that keeps the metadata of commits."""
    pytest.importorskip("aiokafka")
    pytest.importorskip("confluent_kafka")
    from .kafka_support import KafkaRig, MockServer

    server = MockServer()
    yield KafkaRig(server)
    server.kill()


@pytest.fixture(params=["nats", "redis"])
def broker(request: pytest.FixtureRequest) -> Rig:
    """Each of the brokers."""
    found: Rig = request.getfixturevalue(request.param)
    return found
