"""HAProxy in front of a store: rate limits, tarpits, timeouts and idle connections."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

CONFIGURATION = """
defaults
    mode http
    timeout connect 200ms
    timeout queue 100ms
    timeout client 5s
    timeout server {patience}
    timeout http-keep-alive {idle}
    timeout tarpit 5s
    retries 0
frontend in
    bind 127.0.0.1:{port}
    stick-table type string size 1k expire 10s store http_req_cnt
    http-request track-sc0 path
    http-request return status 429 hdr Retry-After 1 if {{ path /limited/ }} {{ sc_http_req_cnt(0) le 1 }}
    http-request tarpit if {{ path /tarpit/ }} {{ sc_http_req_cnt(0) le 1 }}
    default_backend store
backend store
{servers}
"""


def binary() -> str:
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("haproxy is missing")
        pytest.skip("haproxy is not here")
    return found


@asynccontextmanager
async def proxy(
    store: str, folder: Path, *others: str, idle: str = "5s", patience: str = "5s", connections: int = 100
) -> AsyncIterator[str]:
    """Run it before a store, or several in turn; one that takes longer than ``patience`` leads to 504.

    The first request to ``/limited/`` gets 429, the first to ``/tarpit/`` gets no answer for a while.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = folder / "haproxy.cfg"
    ports = [each.rpartition(":")[2] for each in (store, *others)]
    servers = "\n".join(f"    server s{each} 127.0.0.1:{each} maxconn {connections}" for each in ports)
    file.write_text(CONFIGURATION.format(port=port, servers=servers, idle=idle, patience=patience))
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(binary(), "-db", "-q", "-f", str(file), stdin=null, stdout=null)
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except ConnectionRefusedError:
                    assert process.returncode is None
                    await asyncio.sleep(0.01)
        writer.close()
        await writer.wait_closed()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()
