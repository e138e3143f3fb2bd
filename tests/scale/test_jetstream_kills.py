"""Workers are killed with SIGKILL: every event is published or a dead letter, and what came twice can be told.

``RXCOMPACT_KILLS`` and ``RXCOMPACT_EVENTS`` make the random one longer.
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
from typing import TYPE_CHECKING

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("nats")

if TYPE_CHECKING:
    from .conftest import NatsServer, Rig

WORKER = Path(__file__).with_name("worker.py")
KILLS = int(os.environ.get("RXCOMPACT_KILLS", "3"))
EVENTS = int(os.environ.get("RXCOMPACT_EVENTS", "3000"))
LIFE = (0.2, 5.0)
"""Seconds after which a worker is killed at the earliest and the latest: it publishes from 2.5 on."""


class Worker:
    def __init__(self, url: str, folder: Path, *moment: str) -> None:
        with (folder / "worker.log").open("ab") as log:
            command = [sys.executable, str(WORKER), url, str(folder), *moment]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"running\n", (folder / "worker.log").read_text()

    async def ended(self, seconds: float = 20) -> int:
        with self.process.stdout or sys.stdout:
            return await asyncio.to_thread(self.process.wait, seconds)

    async def kill(self) -> None:
        self.process.kill()
        await self.ended()


async def feed(rig: Rig, events: int, seconds: float) -> None:
    """Send events of keys of which some are much more frequent, over so many seconds."""
    pick = random.Random(7)
    began, sent = time.monotonic(), 0
    while sent < events:
        due = events if not seconds else min(events, int(events * (time.monotonic() - began) / seconds) + 1)
        for number in range(sent, due):
            key = int(pick.paretovariate(0.7)) % 997
            body = {"id": key, "ts": time.time(), "n": number}
            await rig.stream.publish_async("in.a", json.dumps(body).encode())
        sent = due
        await asyncio.sleep(0.01)
    await rig.stream.publish_async_completed()


async def published(rig: Rig) -> list[tuple[str, list[int]]]:
    """Read what is in the stream: ids, and the numbers of the events that were merged."""
    subscription = await rig.stream.subscribe("out", ordered_consumer=True)
    found = []
    for _ in range((await rig.stream.stream_info("OUT")).state.messages):
        message = await subscription.next_msg(5)
        event = json.loads(message.data)["event"]
        found.append((message.headers["Nats-Msg-Id"], event["ns"] if "ns" in event else [event["n"]]))
    return found


class Result:
    def __init__(self, out: list[tuple[str, list[int]]], folder: Path) -> None:
        self.out = out
        self.dead = [json.loads(line) for line in (folder / "dead.ndjson").read_text().splitlines()]
        self.ids: defaultdict[int, list[str]] = defaultdict(list)
        for identity, numbers in out:
            for number in numbers:
                self.ids[number].append(identity)

    @property
    def twice(self) -> list[int]:
        return [number for number, ids in self.ids.items() if len(ids) > 1]

    def check(self, events: int) -> None:
        accounted = set(self.ids) | {number for letter in self.dead for number in letter["ns"]}
        assert accounted == set(range(events))
        # what comes again may be too late for its bucket; nothing else is set aside
        assert {letter["reason"] for letter in self.dead} <= {"late"}
        # each that was published twice has one id: whoever keeps them can tell
        assert [number for number in self.twice if len(set(self.ids[number])) > 1] == []


def lived(server: NatsServer, folder: Path, events: int, moments: Sequence[str], kills: int = 0) -> Result:
    """Run workers one after the other on a stream: those that kill themselves, those that are killed, and the last."""
    from .conftest import rigged

    async def main() -> Result:
        async with rigged(server.url) as rig:
            # so short a window drops nothing that comes again: the test wants to see it
            await rig.stream.add_stream(name="OUT", subjects=["out"], duplicate_window=0.1)
            feeding = asyncio.ensure_future(feed(rig, events, kills * sum(LIFE) / 2))
            for moment in moments:
                await feeding
                assert await Worker(server.url, folder, moment).ended() == -signal.SIGKILL
            for _ in range(kills):
                worker = Worker(server.url, folder)
                await asyncio.sleep(random.uniform(*LIFE))
                await worker.kill()
            last = Worker(server.url, folder)
            try:
                await feeding
                await rig.settles(seconds=30)
                last.process.terminate()
                assert await last.ended() == 0
            finally:
                last.process.kill()
            return Result(await published(rig), folder)

    return asyncio.run(main())


def test_without_a_kill_every_event_is_published_once(server: NatsServer, tmp_path: Path) -> None:
    result = lived(server, tmp_path, EVENTS, ())
    result.check(EVENTS)
    assert (result.twice, result.dead) == ([], [])
    assert len({identity for identity, _ in result.out}) == len(result.out) < EVENTS


@pytest.mark.parametrize("moment", ["window", "retry", "publish"])
def test_workers_that_are_killed_at_a_moment_lose_nothing(moment: str, server: NatsServer, tmp_path: Path) -> None:
    result = lived(server, tmp_path, EVENTS, [moment, moment])
    result.check(EVENTS)
    # what was published and not acknowledged is published again, and nothing else
    assert bool(result.twice) == (moment == "publish")


@pytest.mark.timeout(600 + 10 * KILLS)
def test_workers_that_are_killed_at_random_moments_lose_nothing(server: NatsServer, tmp_path: Path) -> None:
    result = lived(server, tmp_path, EVENTS, (), KILLS)
    result.check(EVENTS)
    again = sum(len(ids) - 1 for ids in result.ids.values())
    print(
        f"{KILLS} kills, {EVENTS} events: {len(result.out)} messages out, {again} events published again, "
        f"{sum(len(letter['ns']) for letter in result.dead)} dead letters"
    )
