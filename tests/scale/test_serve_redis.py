"""``rxcompact serve --source redis://…``: takes from a stream until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("redis")

from rxcompact.commands.serve import _broker
from rxcompact.errors import ArgumentError

from .redis_support import STREAM, rigged


def test_the_service_takes_from_a_stream_and_acknowledges_what_it_published(redis_server: Any) -> None:
    async def main() -> None:
        async with rigged(redis_server.url) as rig:
            await rig.client.xgroup_create(STREAM, "workers", "0", mkstream=True)
            await rig.send(*({"id": number % 10} for number in range(100)))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "rxcompact", "serve", f"--source={redis_server.url}/{STREAM}", "--key=id",
                "--timespan=60", "--max-age=600", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stderr
            assert b"consuming RedisStreamSource" in await asyncio.wait_for(process.stderr.readline(), 20)
            (_, group) = sorted(await rig.client.xinfo_groups(STREAM), key=lambda it: it["name"] == b"rxcompact")
            assert (group["name"], group["pending"]) == (b"rxcompact", 100)
            process.send_signal(signal.SIGTERM)
            out, errors = await asyncio.wait_for(process.communicate(), 20)
            assert process.returncode == 0, errors.decode()
            assert [(it["key"], it["count"]) for it in map(json.loads, out.splitlines())] == [
                (n, 10) for n in range(10)
            ]
            assert (await rig.client.xpending(STREAM, "rxcompact"))["pending"] == 0

    asyncio.run(main())


@pytest.mark.parametrize("url", ["redis://host:6379/0", "redis://host:6379/events", "redis://host:6379/0/", "redis://"])
def test_a_url_has_a_database_and_a_stream(url: str) -> None:
    with pytest.raises(ArgumentError, match="redis://HOST:PORT/DB/STREAM"):
        _broker(url, None)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:s3cret@host:6379/0",
        "redis://u:s3/cret@host:6379/0/x",
        "redis://host/0/x?password=s3cret",
        "nats://u:s3cret@host/",
    ],
)
def test_a_url_that_is_refused_is_shown_without_credentials(url: str) -> None:
    with pytest.raises(ArgumentError, match="host") as raised:
        _broker(url, None)
    assert "cret" not in str(raised.value)


def test_a_stream_has_no_partitions() -> None:
    with pytest.raises(ArgumentError, match="partitions"):
        _broker("redis://host:6379/0/events", range(4))
