"""The service as a process: curl, an API that fails, SIGTERM."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pipelines import simple_pipeline
from service import World, balances, ended, serve

from rxcompact import HttpEnricher, HttpSink, Orchestrator
from rxcompact.commands.common import run_loop

pytestmark = pytest.mark.slow


async def curl(url: str, *arguments: str) -> dict[str, Any] | None:
    """The answer; None for 503 and when the service is gone."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-s", "-w", "\n%{http_code}", *arguments, url, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    body, _, code = out.decode().rpartition("\n")
    if code in ("000", "503"):
        return None
    assert code == "202", out
    answer: dict[str, Any] = json.loads(body)
    return answer


def posts(shared: Path, tmp_path: Path) -> list[list[str]]:
    """Both sets as bodies of some hundred events: NDJSON, gzip, arrays."""
    found: list[list[str]] = []
    for name in ("zeek_dns", "apache_access"):
        lines = gzip.decompress((shared / name / "events.ndjson.gz").read_bytes()).splitlines()
        for number, start in enumerate(range(0, len(lines), 700)):
            chunk = lines[start : start + 700]
            path = tmp_path / f"{name}-{number}"
            if number % 3 == 0:
                path.write_bytes(b"\n".join(chunk))
                found.append(["--data-binary", f"@{path}"])
            elif number % 3 == 1:
                path.write_bytes(gzip.compress(b"\n".join(chunk) + b"\n"))
                found.append(["--data-binary", f"@{path}", "-H", "Content-Encoding: gzip"])
            else:
                path.write_bytes(b"[" + b",".join(chunk) + b"]")
                found.append(["--data-binary", f"@{path}", "-H", "Content-Type: application/json"])
    return found


def test_the_account_balances_through_an_outage_and_sigterm(shared: Path, tmp_path: Path) -> None:
    async def main() -> None:
        bodies = posts(shared, tmp_path)
        async with World().up() as world, serve(
            "--key=query,client,path", "--timespan=0.5", "--max-age=20", f"--publish={world.url}/store",
            f"--enrich={world.url}/api/{{ts}}", "--deadline=5",
        ) as (process, url):  # fmt: skip

            async def outage() -> None:
                await asyncio.sleep(0.5)
                world.down = True
                await asyncio.sleep(3)
                world.down = False

            failing = asyncio.create_task(outage())
            accepted = 0
            stopped = 0.0
            for number, body in enumerate(bodies):
                answer = await curl(url, *body)
                if answer is None:
                    assert stopped, "refused before it was asked to stop"
                    continue
                accepted += answer["accepted"]
                assert answer["rejected"] == 0
                if not stopped and failing.done() and number > len(bodies) / 2:
                    process.send_signal(signal.SIGTERM)  # posts go on
                    stopped = time.monotonic()
                await asyncio.sleep(0.04)
            if not stopped:
                process.send_signal(signal.SIGTERM)
                stopped = time.monotonic()
            account = await ended(process)
            await failing
            assert time.monotonic() - stopped < 5 + 1 + 0.08 * len(bodies)
            assert world.failed > 0
            assert account.received == accepted > 10_000
            assert balances(account), account
            assert account.expired == account.failed == account.dropped == 0
            assert account.published == len(world.stored())
            assert len(set(world.keys)) == len(world.keys)
            once = {(json.dumps(row["key"]), row["first_seen"]) for row in world.stored()}
            assert len(once) == len(world.stored()), "published twice"
            assert (
                sum(row["count"] for row in world.stored()) + account.abandoned >= account.received - account.abandoned
            )
            assert all(row["event"]["enrichment"]["asked"].startswith("/api/") for row in world.stored())

    asyncio.run(main())


def test_a_hung_api_does_not_delay_the_end_beyond_the_deadline() -> None:
    async def main() -> None:
        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1000):  # no answer, until the client closes
                pass
            writer.close()

        server = await asyncio.start_server(hang, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with serve(
            "--key=id", "--timespan=0.1", "--max-age=60", f"--enrich=http://127.0.0.1:{port}/{{id}}", "--deadline=2"
        ) as (process, url):
            assert await curl(url, "-d", '{"id":"a"}') == {"accepted": 1, "rejected": 0}
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            account = await ended(process)
            assert time.monotonic() - began < 30  # half of --max-age; the deadline is of virtual time elsewhere
            assert process.returncode == 1
            assert account.abandoned == 1
            assert balances(account)
        server.close()

    asyncio.run(main())


def test_without_capacity_posts_get_503_and_retried_posts_succeed() -> None:
    async def main() -> None:
        async with (
            World().up() as world,
            serve(
                "--key=id", "--timespan=0.2", "--max-age=60", f"--publish={world.url}/store", "--max-in-flight=200"
            ) as (process, url),
        ):
            refused = 0
            async with aiohttp.ClientSession() as session:
                for start in range(0, 2000, 100):
                    body = b"\n".join(b'{"id":%d}' % n for n in range(start, start + 100))
                    while True:
                        async with session.post(url, data=body) as response:
                            if response.status == 202:
                                break
                            assert response.status == 503
                            assert response.headers["Retry-After"] == "1"
                            refused += 1
                        await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            account = await ended(process)
            assert refused > 0
            assert account.published == len(world.stored()) == 2000
            assert balances(account)

    asyncio.run(main())


@pytest.mark.parametrize("arguments", [["--listen=nowhere"], ["--listen=:0", "--timespan=0"], ["--enrich=/relative"]])
def test_h6_wrong_usage_exits_with_2_and_names_the_value(arguments: list[str]) -> None:
    base = ["--listen=127.0.0.1:0", "--key=id", "--timespan=1", "--max-age=2"]
    done = subprocess.run(
        [sys.executable, "-m", "rxcompact", "serve", *base, *arguments], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "got" in done.stderr


def test_an_address_in_use_is_reported_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"--listen=127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", "rxcompact", "serve", address, "--key=id", "--timespan=1", "--max-age=2"],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    assert done.returncode == 2
    assert "address already in use" in done.stderr


@pytest.mark.parametrize("longer", [False, True])
def test_an_outage_of_an_api_expires_only_events_that_are_too_old(longer: bool) -> None:
    max_age = 1.5 if longer else 6.0

    async def main() -> None:
        async with World().up() as world:
            world.down = True

            async def events() -> AsyncIterator[dict[str, Any]]:
                for n in range(30):
                    yield {"id": n}
                    await asyncio.sleep(0.1)

            pipeline = simple_pipeline(
                source=events(), key_mapper="id", timespan=0.1, max_age=max_age, batch_timespan=0.05,
                enricher=HttpEnricher(world.url + "/api/{id}"), sink=HttpSink(world.url + "/store"),
            )  # fmt: skip
            async with Orchestrator(pipeline) as orchestrator:
                letters: list[Any] = []
                orchestrator.dead_letters.subscribe(letters.append)
                await asyncio.sleep(3.2)
                recovered = time.time()
                world.down = False
                report = await orchestrator.wait()
            assert report.account.published == len(world.stored())
            assert report.account.published + report.account.expired == 30
            if not longer:
                assert report.account.expired == 0
            for letter in letters:
                assert letter.outcome == "expired"
                assert letter.age == pytest.approx(max_age, abs=0.3)
            # of a dozen that were young enough some had their last attempt in the last milliseconds of their age
            assert sum(letter.event.first_seen + max_age > recovered + 0.3 for letter in letters) <= 6
            assert all(row["first_seen"] + max_age > recovered - 0.3 for row in world.stored())

    asyncio.run(main())


def test_the_demo_balances() -> None:
    done = subprocess.run([sys.executable, "-m", "rxcompact", "demo"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("✓") == 6
    assert "✗" not in done.stdout
    words = [line.partition(":")[0] for line in done.stdout.splitlines() if line.startswith("--- ")]
    assert words == ["--- 2 s", "--- 4 s", "--- 5 s", "--- 8 s"]
    for word in ("the API goes down", "the service restarts", "the API is back"):
        assert word in done.stdout


def test_commands_run_on_uvloop_where_it_is_installed() -> None:
    async def loop() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run_loop(loop()).startswith("uvloop")
