"""How the commands end: signals, readers that are gone, full disks, events that are lost; rows I7, H8, H9, H10, W13."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

RXCOMPACT = [sys.executable, "-m", "rxcompact"]
SERVE = ["serve", "--listen=127.0.0.1:0", "--key=id"]
PIPE = asyncio.subprocess.PIPE


async def started(process: asyncio.subprocess.Process) -> str:
    """The URL of a service, once it listens."""
    assert process.stderr
    line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
    assert line.startswith("listening on "), line
    return line.split()[-1]


@asynccontextmanager
async def service(*arguments: str, **options: Any) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        *RXCOMPACT, *SERVE, *arguments, **({"stdout": PIPE, "stderr": PIPE} | options)
    )
    try:
        yield process, await started(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def post(url: str, *ids: int) -> int:
    async with aiohttp.ClientSession() as session:
        async with session.post(url, data=b"\n".join(b'{"id":%d}' % n for n in ids)) as response:
            return response.status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=["TERM", "INT", "HUP"])
def test_i7_serve_drains_on_a_signal(number: int) -> None:
    async def main() -> None:
        async with service("--timespan=1000", "--max-age=2000") as (process, url):
            assert await post(url, 1, 2, 1) == 202
            process.send_signal(number)
            output, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
        assert [(row["key"], row["count"]) for row in map(json.loads, output.splitlines())] == [(1, 2), (2, 1)]
        assert errors.splitlines()[-1].startswith(b"received 3, duplicates 1, distinct 2, rejected 0, published 2,")

    asyncio.run(main())


def test_i7_a_signal_that_nohup_ignores_ends_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "events"
        os.mkfifo(path)
        arguments = ["nohup", *RXCOMPACT, "compact", "--key=id", "--timespan=1000", "--count=1", str(path)]
        process = await asyncio.create_subprocess_exec(*arguments, stdout=PIPE, stderr=PIPE, stdin=PIPE)
        assert process.stdout
        with await asyncio.to_thread(path.open, "wb", 0) as feed:
            feed.write(b'{"id":1}\n')
            await asyncio.wait_for(process.stdout.readline(), 60)
            process.send_signal(signal.SIGHUP)
            feed.write(b'{"id":2}\n')
            assert b'"id":2' in await asyncio.wait_for(process.stdout.readline(), 60)
        await process.communicate()
        assert process.returncode == 0

    asyncio.run(main())


def test_h10_serve_whose_reader_is_gone_drains_and_exits_with_1() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        async with service("--timespan=0.1", "--max-age=60", stdout=writing) as (process, url):
            os.close(writing)
            assert await post(url, 1) == 202
            assert b'"key":1' in await asyncio.to_thread(os.read, reading, 1000)
            os.close(reading)  # as `| head -1` does
            with suppress(aiohttp.ClientError):
                await post(url, 2)
            _, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 1
        assert b"Traceback" not in errors
        assert b"standard output is closed" in errors
        assert b"published 1, expired 0, failed 1," in errors.splitlines()[-1]

    asyncio.run(main())


def test_h10_serve_without_standard_output_exits_with_1() -> None:
    async def main() -> None:
        line = " ".join([*RXCOMPACT, *SERVE, "--timespan=0.1", "--max-age=60", ">&-"])
        process = await asyncio.create_subprocess_exec("bash", "-c", f"exec {line}", stderr=PIPE)
        url = await started(process)
        assert await post(url, 1) == 202
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 1
        assert b"Traceback" not in errors

    asyncio.run(main())


@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
def test_h9_events_are_published_when_a_full_disk_has_space_again(tmp_path: Path, environment: dict[str, str]) -> None:
    path = tmp_path / "out"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    async def main() -> None:
        with path.open("ab") as out:
            async with service(
                "--timespan=0.1", "--max-age=60", stdout=out, preexec_fn=limit, env=os.environ | environment
            ) as (process, url):
                assert await post(url, *range(2000)) == 202
                await asyncio.sleep(2)
                assert path.read_bytes() in (b"", path.read_bytes()[: path.read_bytes().rfind(b"\n") + 1])
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
                process.send_signal(signal.SIGTERM)
                _, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
        assert b"published 2000," in errors.splitlines()[-1]
        rows = list(map(json.loads, path.read_text().splitlines()))
        assert sorted(row["key"] for row in rows) == list(range(2000))

    asyncio.run(main())


@pytest.mark.parametrize(("status", "code"), [(400, 1), (204, 0)])
def test_w13_serve_that_published_nothing_exits_with_1(status: int, code: int) -> None:
    requests: list[web.Request] = []

    async def store(request: web.Request) -> web.Response:
        requests.append(request)
        rows.extend(map(json.loads, (await request.read()).splitlines()))
        return web.Response(status=status, text="no\x00 such\ntable" if status == 400 else None)

    rows: list[dict[str, Any]] = []

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/t", store)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        publish = f"http://user:PASSWORD@127.0.0.1:{runner.addresses[0][1]}/t?key=SECRET"
        secrets = os.environ | {"RXCOMPACT_PUBLISH": publish, "RXCOMPACT_HEADER": "X-Token: TOKEN"}
        try:
            async with service("--timespan=0.1", "--max-age=60", "--flat", "--gzip", env=secrets) as (process, url):
                command = Path(f"/proc/{process.pid}/cmdline").read_text()
                assert not any(secret in command for secret in ("PASSWORD", "SECRET", "TOKEN"))
                assert await post(url, 1, 2, 1) == 202
                while len(rows) < 2:
                    await asyncio.sleep(0.05)
                process.send_signal(signal.SIGTERM)
                _, errors = await asyncio.wait_for(process.communicate(), 60)
        finally:
            await runner.cleanup()
        assert process.returncode == code
        assert not any(secret in errors for secret in (b"PASSWORD", b"SECRET", b"TOKEN"))
        assert (b"HTTP 400: no such table" in errors) == (status == 400)

    asyncio.run(main())
    assert {request.headers["X-Token"] for request in requests} == {"TOKEN"}
    assert {request.headers["Content-Encoding"] for request in requests} == {"gzip"}
    assert sorted((row["id"], row["count"]) for row in rows[:2]) == [(1, 2), (2, 1)]  # flat


def test_h8_serve_takes_the_token_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")

    async def main() -> None:
        async with service("--timespan=1", "--max-age=60", f"--token-file={path}") as (process, url):
            assert await post(url, 1) == 401
            async with aiohttp.ClientSession(headers={"Authorization": "Bearer secret"}) as session:
                async with session.post(url, data=b'{"id":1}') as response:
                    assert response.status == 202
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.communicate(), 60)

    asyncio.run(main())


def test_h6_serve_listens_on_ipv6() -> None:
    process = subprocess.Popen(
        [*RXCOMPACT, "serve", "--listen=[::1]:0", "--key=id", "--timespan=1", "--max-age=2"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr
    line = process.stderr.readline()
    process.terminate()
    process.communicate(timeout=60)
    assert line.startswith((b"listening on http://[::1]:", b"usage: ")), line
    if line.startswith(b"usage: "):
        pytest.skip("no IPv6 here")


def test_w6_w13_serve_puts_each_event_to_a_url_of_its_own() -> None:
    requests: list[tuple[str, str, str, Any]] = []

    async def store(request: web.Request) -> web.Response:
        kind = request.headers["Content-Type"]
        requests.append((request.method, request.path_qs, kind, json.loads(await request.read())))
        return web.Response(status=204)

    async def main() -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", store)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        publish = f"http://127.0.0.1:{runner.addresses[0][1]}/alerts/{{id}}?at={{id}}"
        flags = ("--method=PUT", "--format=object", "--flat", "--header=content-type: application/vnd.x+json")
        try:
            async with service("--timespan=0.1", "--max-age=60", f"--publish={publish}", *flags) as (process, url):
                assert await post(url, 1, 2, 1) == 202
                process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(process.communicate(), 60)
        finally:
            await runner.cleanup()
        assert process.returncode == 0
        assert [
            (method, path, kind, row["id"], row["count"]) for method, path, kind, row in sorted(requests, key=str)
        ] == [
            ("PUT", "/alerts/1?at=1", "application/vnd.x+json", 1, 2),
            ("PUT", "/alerts/2?at=2", "application/vnd.x+json", 2, 1),
        ]

    asyncio.run(main())
