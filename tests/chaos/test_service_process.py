"""The service in real time, with everything around it failing: what got 202 is accounted for."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from service import World, ended, serve


class Posters:
    """Posts bodies with every event twice; records which were accepted."""

    def __init__(self, seed: int, url: str) -> None:
        self.dice = random.Random(seed)
        self.url = url
        self.number = 0
        self.taken: set[int] = set()
        self.unanswered: set[int] = set()
        self.rejected = 0
        self.stopped = False

    async def post(self, session: aiohttp.ClientSession) -> None:
        while not self.stopped:
            size = self.dice.choice([1, 3, 30])
            numbers = range(self.number, self.number + size)
            self.number += size
            body = b"".join(b'{"id":%d}\n' % n for n in [*numbers, *numbers])
            try:
                async with session.post(self.url, data=body) as response:
                    answer = await response.json()
                    if response.status == 202:
                        assert answer == {"accepted": 2 * size, "rejected": 0}
                        self.taken.update(numbers)
                    else:
                        assert response.status == 503, answer
                        assert response.headers["Retry-After"]
                        self.rejected += 1
            except aiohttp.ClientConnectorError:  # it listens no more: nothing was sent
                self.rejected += 1
            except (aiohttp.ClientError, ConnectionError):
                self.unanswered.update(numbers)
            await asyncio.sleep(self.dice.uniform(0, 0.03))


@pytest.mark.parametrize("seed", [1, 2])
def test_sigterm_during_posts_loses_no_accepted_event(seed: int) -> None:
    async def main() -> None:
        async with World(seed).up() as world:
            world.faults = 0.3
            async with (
                serve(
                    "--key=id", "--timespan=0.2", "--max-age=5", f"--publish={world.url}/store",
                    f"--enrich={world.url}/api/{{id}}", "--deadline=3", "--max-in-flight=2000",
                ) as (process, url),
                aiohttp.ClientSession() as session,
            ):  # fmt: skip
                posters = Posters(seed, url)
                posting = [asyncio.create_task(posters.post(session)) for _ in range(6)]
                async with asyncio.timeout(60):
                    while len(posters.taken) <= 500 or world.injected.total() <= 100 or len(world.injected) <= 8:
                        await asyncio.sleep(0.1)
                process.send_signal(signal.SIGTERM)
                began = time.monotonic()
                ending = asyncio.create_task(ended(process))
                await asyncio.sleep(0.2)
                world.faults = 0.1
                account = await ending
                assert time.monotonic() - began < 3 + 15  # the deadline, and the start of a busy machine
                posters.stopped = True
                await asyncio.gather(*posting)

            taken, unanswered = posters.taken, posters.unanswered
            assert posters.rejected > 0, "no post came while it was stopping"
            assert 2 * len(taken) <= account.received <= 2 * (len(taken) + len(unanswered))
            assert account.duplicates == account.distinct
            assert account.rejected == account.dropped == 0
            stored = world.stored()
            keys = {row["key"] for row in stored}
            assert all(row["count"] == 2 for row in stored)
            assert keys <= taken | unanswered
            assert account.published <= len(keys), "published, but not stored"
            # what is not stored has another outcome; what is stored may have one too, where the store failed after it
            assert len(taken - keys) <= account.expired + account.failed + account.abandoned
            assert account.abandoned or process.returncode == 0

    asyncio.run(main())


def test_the_exit_code_is_1_when_events_were_abandoned() -> None:
    async def main() -> None:
        async with (
            World().up() as world,
            serve("--key=id", "--timespan=0.1", "--max-age=60", f"--publish={world.url}/store") as (process, url),
            aiohttp.ClientSession() as session,
        ):
            world.faults, world.only = 1.0, "503"
            async with session.post(url, data=b'{"id":1}') as response:
                assert response.status == 202
            await asyncio.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            assert (await ended(process)).abandoned == 1
            assert process.returncode == 1

    asyncio.run(main())


@pytest.mark.parametrize("replay", [["--time=t", "--lateness=2"], []], ids=["replay", "by count"])
def test_a_killed_compaction_of_a_file_can_be_repeated(tmp_path: Path, replay: list[str]) -> None:
    dice = random.Random(3)
    path = tmp_path / "events.ndjson"
    with path.open("w") as lines:
        for n in range(25_000):
            event = {"t": 1_700_000_000 + n / 100 - dice.uniform(0, 1), "k": dice.randrange(200), "n": n}
            lines.write(json.dumps(event) + "\n")
    limits = replay or ["--count=150"]  # else the clock closes windows, and no two runs are the same
    span = "--timespan=5" if replay else "--timespan=1000"
    command = [sys.executable, "-m", "rxcompact", "compact", str(path), "--key=k", span, *limits]

    def rows(output: bytes) -> list[tuple[object, ...]]:
        found = [json.loads(line) for line in output.splitlines()]
        return [(row["key"], row["count"], row["event"]["n"]) for row in found]

    whole = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    assert sum(count for _, count, _ in rows(whole)) > 24_000  # but for the late ones
    for kept in (1, 200_000):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as killed:
            assert killed.stdout
            part = killed.stdout.read(kept)  # a pipe holds little: the command is in the middle now
            killed.send_signal(signal.SIGKILL)
            part += killed.stdout.read()
            assert killed.wait(30) == -signal.SIGKILL
        assert kept <= len(part) < len(whole)
        complete = part[: part.rfind(b"\n") + 1]
        assert rows(complete) == rows(whole)[: complete.count(b"\n")]
        if replay:
            assert whole.startswith(part)
    again = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    assert rows(again) == rows(whole)
    if replay:
        assert again == whole
