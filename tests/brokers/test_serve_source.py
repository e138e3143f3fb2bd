"""``rxcompact serve --source`` as the whole deployment: partitioned workers, one of them killed and replaced."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter, defaultdict
from typing import Any

import pytest
from aiohttp import web

STREAM, KEYS, EACH = "EVENTS", 100, 20


class Worker:
    def __init__(self, server: str, partitions: str, publish: str) -> None:
        self._arguments = [
            f"--source={server}/{STREAM}", f"--partitions={partitions}", f"--publish={publish}", "--key=id",
            "--timespan=0.3", "--max-age=60",
        ]  # fmt: skip
        self.consumer = f"rxcompact-{partitions}"

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rxcompact", "serve", *self._arguments, stderr=asyncio.subprocess.PIPE
        )
        assert self.process.stderr
        assert b"consuming" in await asyncio.wait_for(self.process.stderr.readline(), 20)

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(self.process.communicate(), 20)
        assert self.process.returncode == 0, errors.decode()
        return errors.decode()


async def deployed(server: str, kills: bool) -> tuple[dict[str, Counter[int]], list[str]]:
    import nats
    from nats.js.api import StreamConfig, SubjectTransform

    stored: defaultdict[str, Counter[int]] = defaultdict(Counter)

    async def store(request: web.Request) -> web.Response:
        for event in map(json.loads, (await request.read()).splitlines()):
            stored[request.match_info["worker"]][event["event"]["id"]] += event["count"]
        return web.Response()

    app = web.Application()
    app.router.add_post("/{worker}", store)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    client = await nats.connect(server)
    stream = client.jetstream()
    by_partition = SubjectTransform("events.*", "events.{{partition(4,1)}}.{{wildcard(1)}}")
    await stream.add_stream(StreamConfig(STREAM, subjects=["events.*"], subject_transform=by_partition))
    workers = [Worker(server, "0-1", f"{base}/a"), Worker(server, "2-3", f"{base}/b")]
    await asyncio.gather(*(worker.start() for worker in workers))

    async def send() -> None:
        for number in range(KEYS * EACH // 2):
            await stream.publish(f"events.{number % KEYS}", json.dumps({"id": number % KEYS}).encode())

    await send()
    if kills:
        await workers[0].kill()
        await workers[0].start()
    await send()
    async with asyncio.timeout(60):  # the default ack_wait is part of it
        for worker in workers:
            while True:
                info = await stream.consumer_info(STREAM, worker.consumer)
                if not info.num_pending and not info.num_ack_pending:
                    break
                await asyncio.sleep(0.1)
    accounts = [await worker.stop() for worker in workers]
    await client.close()
    await runner.cleanup()
    return stored, accounts


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kills", [False, True])
def test_partitioned_workers_share_the_keys_and_one_that_is_killed_is_replaced(server: Any, kills: bool) -> None:
    stored, _ = asyncio.run(deployed(server.url, kills))
    assert set(stored) == {"a", "b"}
    assert not set(stored["a"]) & set(stored["b"])  # no key meets two workers
    counts = stored["a"] + stored["b"]
    if kills:
        assert set(counts) == set(range(KEYS))
        assert all(count >= EACH for count in counts.values())  # at least once
    else:
        assert counts == dict.fromkeys(range(KEYS), EACH)


def test_a_source_that_is_none_is_refused() -> None:
    async def main() -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rxcompact", "serve", "--source=kafka://x/y", "--key=id", "--timespan=1",
            "--max-age=9", stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await process.communicate()
        return process.returncode, errors

    code, errors = asyncio.run(main())
    assert code == 2
    assert b"nats://HOST:PORT/STREAM" in errors
