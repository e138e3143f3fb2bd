"""Have everything around real workers and brokers fail, and count what is lost: see the manual, testing."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web
from tenacity import retry, stop_after_delay, wait_fixed

from rxcompact.testing.proxy import Proxy, free_port
from rxcompact.testing.servers import KINDS

BATCH, RATE, DEADLINE, PATIENCE = 20, 100, 3, 120
"""Events sent at once, and a second; seconds of a drain, and until the rig gives up."""
FAULTS = "connections cut", "handshakes reset", "black hole", "slow", "down"
again = retry(wait=wait_fixed(0.1), stop=stop_after_delay(PATIENCE), reraise=True)


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
        self.stored, self.repeated = dict[str, Counter[int]](), 0  # what each idempotency key came with

    async def api(self, request: web.Request) -> web.Response:
        _fail(request)
        number = int(request.match_info["id"])
        return web.json_response({"asked": number}, status=200 if number % 50 else 422)

    async def store(self, request: web.Request) -> web.Response:
        _fail(request)
        rows = [json.loads(line) for line in (await request.read()).splitlines()]
        counts = Counter[int]()
        for row in rows:
            if row["event"]["enrichment"] == {"asked": row["key"]}:
                counts[row["key"]] += row["count"]
        key = request.headers["Idempotency-Key"]
        self.repeated += counts.total() * (key in self.stored)
        self.stored[key] = counts
        _fail(request)  # though it is stored
        return web.Response()

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
        app = web.Application(client_max_size=1 << 28)
        app.add_routes([web.get("/api/{id}", self.api), web.post("/store", self.store)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.proxies["API"].target).start()
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
                while account["lost"] and quiet < self.broker.quiet:
                    await asyncio.sleep(1)
                    before, account = account, self.account()
                    quiet = quiet + 1 if account == before else 0
                    if quiet and quiet % self.broker.patience == 0:
                        await self.replace(1)
                while self.workers:
                    await self.stop(self.workers[0])
            await self.broker.close()
        finally:
            for process in [self.broker, *self.workers]:
                process.kill()
            await runner.cleanup()
        (self.folder / "stored").write_text("\n".join(map(str, self.stored.items())))
        account = self.account()
        print("", "| | |", "|---|---|", *(f"| {name} | {number} |" for name, number in account.items()), sep="\n")
        return int(account["lost"] + account["tracebacks"] > 0)

    def account(self) -> dict[str, int]:
        """Return how often what happened, and what became of what was sent."""
        stored, dead, letters = Counter[int](), Counter[int](), Counter[str]()
        for counts in self.stored.values():
            stored.update(counts)
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
            "twice": (stored + dead - self.sent).total() + self.repeated,
            "twice in the same batch": self.repeated,
            "lost": (self.sent - stored - dead).total(),
            "tracebacks": sum(file.read_text().count("Traceback") for file in self.folder.glob("*.log")),
        }


def _fail(request: web.Request) -> None:
    fault = random.randrange(100)
    if fault < 2:
        raise (web.HTTPServiceUnavailable, web.HTTPTooManyRequests)[fault]
    if fault == 2 and request.transport is not None:
        request.transport.close()


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
