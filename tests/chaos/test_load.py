"""The service at saturation: 503 instead of growth, and every retried post succeeds in the end."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import aiohttp
from service import World, ended, resident, serve

MIB = 1024 * 1024
CAPACITY = 4000
SIZE = 200
"""Events of a body."""
TEXT = "x" * 800


def body(first: int) -> bytes:
    return b"\n".join(b'{"id":%d,"text":"%s"}' % (n, TEXT.encode()) for n in range(first, first + SIZE))


def test_overload_leads_to_503_in_bounded_memory_and_recovers() -> None:
    async def main() -> None:
        async with (
            World().up() as world,
            serve(
                "--key=id",
                "--timespan=0.2",
                "--max-age=60",
                f"--publish={world.url}/store",
                f"--max-in-flight={CAPACITY}",
            ) as (process, url),
            aiohttp.ClientSession() as session,
        ):
            taken: set[int] = set()
            rejected = 0

            async def post(first: int) -> bool:
                nonlocal rejected
                async with session.post(url, data=body(first)) as response:
                    if response.status == 202:
                        taken.add(first)
                        return True
                    assert response.status == 503
                    assert response.headers["Retry-After"] == "1"
                    assert (await response.json())["error"].startswith("no capacity: ")
                    rejected += 1
                    return False

            async def patiently(firsts: range) -> None:
                for first in firsts:
                    while not await post(first):
                        await asyncio.sleep(1)

            async def insistently(firsts: range, until: float) -> None:
                for first in firsts:
                    if time.monotonic() > until:
                        return
                    await post(first)

            async def gets(path: str) -> tuple[int, str]:
                async with session.get(url.rstrip("/") + path) as response:
                    return response.status, await response.text()

            def bodies(start: int, number: int) -> range:
                return range(start, start + number * SIZE, SIZE)

            async def in_time(everything: set[int]) -> float:
                began = time.monotonic()
                async with asyncio.timeout(60):
                    while len({row["key"] for row in world.stored()} & everything) < len(everything):
                        await asyncio.sleep(0.02)
                return time.monotonic() - began

            # without load
            warm = bodies(0, 10)
            for first in warm:
                assert await post(first)
            await in_time({n for first in warm for n in range(first, first + SIZE)})
            assert await gets("/readyz") == (200, "ready\n")
            before = resident(process)

            # the store hangs: several senders post far more than the capacity
            world.gate.clear()
            until = time.monotonic() + 3
            await asyncio.gather(*(insistently(bodies(10_000_000 * n, 10_000), until) for n in range(1, 7)))
            grown = [resident(process) - before]
            held = len(taken) * SIZE - len(warm) * SIZE
            assert CAPACITY - SIZE < held <= CAPACITY
            assert rejected * len(body(1)) > 20 * MIB, "so much it would have grown"
            assert await gets("/readyz") == (503, "full\n")
            assert (await gets("/healthz"))[0] == 200
            patient = [asyncio.create_task(patiently(bodies(900_000_000 + 1_000_000 * n, 8))) for n in range(4)]
            await asyncio.sleep(1.5)
            grown.append(resident(process) - before)
            assert len(taken) * SIZE - len(warm) * SIZE == held

            # it answers again: every retried post succeeds
            world.gate.set()
            async with asyncio.timeout(60):
                await asyncio.gather(*patient)
            everything: set[int] = {n for first in taken for n in range(first, first + SIZE)}
            await in_time(everything)
            assert await gets("/readyz") == (200, "ready\n")
            grown.append(resident(process) - before)
            assert max(grown) < 40 * MIB, grown

            # and it is as fast as before
            calm = rejected
            fresh = bodies(2_000_000_000, 15)
            began = time.monotonic()
            for first in fresh:
                assert await post(first)
            assert rejected == calm
            await in_time({n for first in fresh for n in range(first, first + SIZE)})
            assert time.monotonic() - began < 20

            process.send_signal(signal.SIGTERM)
            account: Any = await ended(process)
            stored = [row["key"] for row in world.stored()]
            assert account.received == account.published == len(stored) == len(set(stored)) == len(taken) * SIZE

    asyncio.run(main())
