"""Workers and servers are killed with SIGKILL: every event is published or a dead letter, and what came twice is told.

``RXCOMPACT_KILLS`` and ``RXCOMPACT_EVENTS`` make it longer, ``RXCOMPACT_SEED`` kills at other moments.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("redis")
from redis.exceptions import RedisError

from .redis_support import STREAM, rigged

if TYPE_CHECKING:
    from .redis_support import RedisRig, RedisServer

WORKER = Path(__file__).with_name("redis_worker.py")
KILLS = int(os.environ.get("RXCOMPACT_KILLS", "10"))
EVENTS = int(os.environ.get("RXCOMPACT_EVENTS", "20000"))
SEED = int(os.environ.get("RXCOMPACT_SEED", "7"))
LIFE = (0.1, 1.6)
"""Seconds between two kills at the least and the most; a worker publishes from 0.8 on."""


class Worker:
    def __init__(self, url: str, folder: Path, number: int, lateness: float) -> None:
        # by turns: one that comes again finds what it left, and later what the other left
        command = [
            sys.executable,
            str(WORKER),
            url,
            str(folder),
            f"worker-{number % 2}",
            str(SEED + number),
            str(lateness),
        ]
        self._log = folder / "worker.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

    async def go(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line == b"ready\n", self._log.read_text()
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    async def stop(self) -> int:
        self.process.terminate()
        await asyncio.to_thread(self.process.communicate, timeout=20)
        return self.process.returncode


async def feed(rig: RedisRig, events: int, seconds: float) -> None:
    """Send events of keys of which some are much more frequent, over so many seconds; entry n + 1 has number n."""
    pick = random.Random(SEED)
    began, sent = time.monotonic(), 0
    while sent < events:
        due = min(events, int(events * (time.monotonic() - began) / seconds) + 1)
        now = time.time()
        bodies = {n: {"id": int(pick.paretovariate(0.7)) % 997, "ts": now, "n": n} for n in range(sent, due)}
        while not await added(rig, bodies):
            await asyncio.sleep(0.05)
        sent = due
        await asyncio.sleep(0.01)


async def added(rig: RedisRig, bodies: dict[int, Any]) -> bool:
    pipeline = rig.client.pipeline(transaction=False)
    for number, body in bodies.items():
        pipeline.xadd(STREAM, {"data": json.dumps(body)}, id=f"{number + 1}-0")
    try:
        replies = await pipeline.execute(raise_on_error=False)
    except RedisError:
        return False
    # that it is there already is told too
    return all(isinstance(reply, bytes) or "equal or smaller" in str(reply) for reply in replies)


class Result:
    def __init__(self, folder: Path, pending: set[int]) -> None:
        self.out: list[tuple[str, list[int]]] = self._rows(folder / "out")
        self.dead: list[tuple[str, list[int]]] = self._rows(folder / "dead")
        self.pending = pending  # when a worker was killed
        self.ids: defaultdict[int, list[str]] = defaultdict(list)
        for identity, numbers in self.out:
            for number in numbers:
                self.ids[number].append(identity)
        self.buried = {number for _, numbers in self.dead for number in numbers}

    def _rows(self, file: Path) -> list[tuple[str, list[int]]]:
        return [(name, numbers) for name, numbers in map(json.loads, file.read_text().splitlines())]

    @property
    def twice(self) -> set[int]:
        return {number for number, ids in self.ids.items() if len(ids) > 1}

    def check(self, events: int) -> None:
        assert set(self.ids) | self.buried == set(range(events))
        # what comes again may be too late for its bucket; nothing else is set aside
        assert {reason for reason, _ in self.dead} <= {"late"}
        # what was acknowledged never comes again, and what was published twice has one id: whoever keeps them can tell
        assert self.twice | (set(self.ids) & self.buried) <= self.pending
        assert {number for number in self.twice if len(set(self.ids[number])) > 1} == set()


def lived(server: RedisServer, folder: Path, victim: str = "", kills: int = 0) -> Result:
    """Have workers live one after the other on a stream, or one of them while the server does not."""
    seconds = kills * sum(LIFE) / 2 or 3.0
    lateness = 0.6 if kills else 3.0  # what comes again may be late; what comes once must not be, on a busy machine

    async def main() -> Result:
        pick = random.Random(SEED)
        pending: set[int] = set()
        workers = [Worker(server.url, folder, 0, lateness)]
        async with rigged(server.url) as rig:
            feeding = asyncio.ensure_future(feed(rig, EVENTS, seconds))
            try:
                await workers[0].go()
                for number in range(kills):
                    if victim == "worker":
                        workers.append(Worker(server.url, folder, number + 1, lateness))
                    await asyncio.sleep(pick.uniform(*LIFE))
                    if victim == "server":
                        server.kill()
                        server.start()
                        continue
                    workers[-2].kill()
                    pending |= {int(identity.partition(b"-")[0]) - 1 for identity in await rig.pending()}
                    await workers[-1].go()
                await feeding
                await rig.settles(seconds=20)
                assert await rig.client.xlen(STREAM) == EVENTS
                assert await workers[-1].stop() == 0
            finally:
                feeding.cancel()
                for worker in workers:
                    worker.kill()
        result = Result(folder, pending)
        result.check(EVENTS)
        return result

    return asyncio.run(main())


@pytest.fixture
def server(make_redis: Any) -> RedisServer:
    started: RedisServer = make_redis("--appendfsync", "always")
    started.start()
    return started


def test_without_a_kill_every_event_is_published_once(server: RedisServer, tmp_path: Path) -> None:
    result = lived(server, tmp_path)
    assert (result.twice, result.dead) == (set(), [])
    assert len({identity for identity, _ in result.out}) == len(result.out) < EVENTS


@pytest.mark.timeout(60 + 5 * KILLS)
def test_workers_that_are_killed_at_random_moments_lose_nothing(server: RedisServer, tmp_path: Path) -> None:
    result = lived(server, tmp_path, "worker", KILLS)
    assert result.pending  # they were killed at work
    print(
        f"{KILLS} kills, {EVENTS} events: {len(result.out)} rows out, {len(result.pending)} events unacknowledged, "
        f"{len(result.twice)} of them published again, {len(result.buried)} dead letters"
    )


@pytest.mark.timeout(60 + 5 * KILLS)
def test_a_server_that_is_killed_at_random_moments_loses_nothing(server: RedisServer, tmp_path: Path) -> None:
    result = lived(server, tmp_path, "server", KILLS)
    assert result.twice == set()  # the worker knows what it has done
    print(f"{KILLS} kills, {EVENTS} events: {len(result.out)} rows out, {len(result.buried)} dead letters")
