"""Workers and servers are killed with SIGKILL: every event is published or a dead letter, twice only with the same id.

``RXCOMPACT_KILLS`` and ``RXCOMPACT_EVENTS`` make it longer, ``RXCOMPACT_SEED`` kills at other moments.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from .support import PATIENCE, Rig

WORKER = Path(__file__).with_name("worker.py")
KILLS = int(os.environ.get("RXCOMPACT_KILLS", "5"))
EVENTS = int(os.environ.get("RXCOMPACT_EVENTS", "10000"))
SEED = int(os.environ.get("RXCOMPACT_SEED", "7"))
LIFE = (0.1, 1.6)
"""Seconds between two kills at the least and the most."""
LATE, NEVER_LATE = 0.6, 600.0
"""Lateness: what is delivered again may be late where windows have to close by themselves."""


class Worker:
    def __init__(self, rig: Rig, folder: Path, number: int, lateness: float, moment: str = "") -> None:
        kind = rig.server.package
        command = [sys.executable, str(WORKER), kind, rig.url, str(folder), str(SEED + number), str(lateness), moment]
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

    async def ended(self) -> int:
        await asyncio.to_thread(self.process.communicate, timeout=PATIENCE)
        return self.process.returncode

    async def stop(self) -> int:
        self.process.terminate()
        return await self.ended()


async def feed(rig: Rig, events: int, seconds: float) -> None:
    """Send events of keys of which some are much more frequent, over so many seconds."""
    pick = random.Random(SEED)
    began, sent = time.monotonic(), 0
    while sent < events:
        passed = time.monotonic() - began
        due = events if passed >= seconds else min(events, int(events * passed / seconds) + 1)
        now = time.time()
        bodies = {n: {"id": int(pick.paretovariate(0.7)) % 997, "ts": now, "n": n} for n in range(sent, due)}
        await rig.send_numbered({number: json.dumps(body).encode() for number, body in bodies.items()})
        sent = due
        await asyncio.sleep(0.01)


class Result:
    def __init__(self, folder: Path, pending: set[int]) -> None:
        self.out: list[tuple[str, list[int]]] = self._rows(folder / "out")
        self.dead: list[tuple[str, list[int]]] = self._rows(folder / "dead")
        self.pending = pending  # when a worker was killed
        self.ids: defaultdict[int, list[str]] = defaultdict(list)
        for identity, numbers in self.out:
            for number in numbers:
                self.ids[number].append(identity)
        self.dead_numbers = {number for _, numbers in self.dead for number in numbers}

    def _rows(self, file: Path) -> list[tuple[str, list[int]]]:
        return [(name, numbers) for name, numbers in map(json.loads, file.read_text().splitlines())]

    @property
    def twice(self) -> set[int]:
        return {number for number, ids in self.ids.items() if len(ids) > 1}

    def check(self) -> None:
        assert set(self.ids) | self.dead_numbers == set(range(EVENTS))
        # what is delivered again may be too late for its bucket; nothing else is rejected
        assert {reason for reason, _ in self.dead} <= {"late"}
        # what was acknowledged is never delivered again, and what was published twice has one id
        assert self.twice | (set(self.ids) & self.dead_numbers) <= self.pending
        assert {number for number in self.twice if len(set(self.ids[number])) > 1} == set()


async def waiting(rig: Rig) -> int:
    try:
        return (await rig.pending())[0]
    except Exception:  # there is no consumer yet
        return EVENTS


async def until_received(rig: Rig, messages: int = EVENTS) -> None:
    async with asyncio.timeout(PATIENCE):
        while await waiting(rig) > EVENTS - messages:
            await asyncio.sleep(0.05)


async def lived(
    rig: Rig,
    folder: Path,
    moments: Sequence[str] = (),
    victim: str = "",
    kills: int = 0,
    life: tuple[float, float] = LIFE,
    late: float = LATE,
) -> Result:
    """Run workers one after the other: those that kill themselves, those that are killed, and the last."""
    pick = random.Random(SEED)
    pending: set[int] = set()
    workers: list[Worker] = []
    feeding = asyncio.ensure_future(feed(rig, EVENTS, kills * sum(life) / 2))
    try:
        for moment in moments:
            await feeding
            workers.append(Worker(rig, folder, len(workers), late, moment))
            await workers[-1].go()
            assert await workers[-1].ended() == -signal.SIGKILL
            pending |= await rig.delivered_numbers()
        # without a kill nothing may be late, so the last windows stay open until the worker stops
        last = (late, "") if moments or kills else (NEVER_LATE, f"after {EVENTS}")
        workers.append(Worker(rig, folder, len(workers), *last))
        await workers[-1].go()
        await until_received(rig, 1)
        for _ in range(kills):
            if victim == "worker":
                workers.append(Worker(rig, folder, len(workers), late))
            await asyncio.sleep(pick.uniform(*life))
            if victim == "server":
                rig.server.kill()
                rig.server.start()
                continue
            workers[-2].kill()
            pending |= await rig.delivered_numbers()
            await workers[-1].go()
        await feeding
        await rig.reconnect()
        if kills or moments:
            await rig.settles()
            workers[-1].process.terminate()
        assert await workers[-1].ended() == 0
        await rig.settles()
    finally:
        feeding.cancel()
        for worker in workers:
            worker.kill()
    result = Result(folder, pending)
    result.check()
    return result


async def test_without_a_kill_every_event_is_published_once(broker: Rig, tmp_path: Path) -> None:
    result = await lived(broker, tmp_path)
    assert (result.twice, result.dead) == (set(), [])
    assert len({identity for identity, _ in result.out}) == len(result.out) < EVENTS


@pytest.mark.parametrize("moment", ["window", "retry", "publish"])
async def test_workers_that_are_killed_at_a_moment_lose_nothing(moment: str, broker: Rig, tmp_path: Path) -> None:
    result = await lived(broker, tmp_path, [moment, moment])
    # what was published and not acknowledged is published again, and nothing else
    assert bool(result.twice) == (moment == "publish")


@pytest.mark.timeout(120 + 10 * KILLS)
@pytest.mark.parametrize("victim", ["worker", "server"])
async def test_workers_and_servers_that_are_killed_at_random_moments_lose_nothing(
    victim: str, broker: Rig, tmp_path: Path
) -> None:
    result = await lived(broker, tmp_path, victim=victim, kills=KILLS)
    if victim == "server":
        assert result.twice == set()  # the worker knows what it has done
    else:
        assert result.pending  # they were killed at work
    print(
        f"{KILLS} kills, {EVENTS} events: {len(result.out)} rows out, {len(result.pending)} events unacknowledged, "
        f"{len(result.twice)} of them published again, {len(result.dead_numbers)} dead letters"
    )
