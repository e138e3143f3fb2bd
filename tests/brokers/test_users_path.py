"""The path of a user: a file, ``rxcompact run``, probes, a worker that is killed, dead letters, and back with them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from rxcompact.testing.proxy import free_port

from .support import PATIENCE, Rig, until

PROGRAM = """\
import os
from rxcompact import NdjsonSink, NdjsonSource, Pipeline, operators as rxo
from rxcompact.brokers.redis import RedisStreamSource

def owner(event):
    if event["host"] not in open("hosts").read():
        raise LookupError("no such host")
    return event | {"owner": "team-db"}

alerts = RedisStreamSource(os.environ["REDIS"], stream="events", group="alerts", min_idle_time=1)
operators = rxo.compact(0.5, key_mapper="host"), rxo.enrich(owner), rxo.publish(NdjsonSink("alerts.ndjson"))
pipeline = Pipeline(alerts, *operators, max_age=600)
again = Pipeline(NdjsonSource("dead.ndjson"), *operators, max_age=600)
"""


async def test_a_file_is_run_killed_and_its_dead_letters_are_fed_back(redis: Rig, tmp_path: Path) -> None:
    rig: Any = redis
    assert PROGRAM.count("\n") <= 15
    (tmp_path / "alerts.py").write_text(PROGRAM)
    (tmp_path / "hosts").write_text(" ".join(f"db{n}" for n in range(9)))
    port = free_port()

    async def command(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
        environment = os.environ | {"REDIS": rig.url}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rxcompact", *arguments, cwd=tmp_path, env=environment, **pipes, **options
        )

    def lines(name: str) -> list[dict[str, Any]]:
        path = tmp_path / name
        return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []

    def counted(rows: list[dict[str, Any]]) -> int:
        return sum(row["count"] for row in rows)

    running = await command(
        *("run", "alerts.py", "--workers=2", f"--status=127.0.0.1:{port}", "--dead-letters=dead.ndjson")
    )
    await rig.add({"host": f"db{n % 10}"} for n in range(100))
    async with ClientSession() as session, asyncio.timeout(PATIENCE):
        for each in (port, port + 1):
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{each}/readyz") as response:
                        if response.status == 200:
                            break
                except OSError:
                    pass  # it has not begun
                await asyncio.sleep(0.05)
    worker, *_ = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    await rig.add({"host": f"db{n % 10}"} for n in range(100))
    await until(lambda: counted(lines("alerts.ndjson")) >= 180 and counted(lines("dead.ndjson")) >= 20)

    running.send_signal(signal.SIGTERM)
    _, errors = await asyncio.wait_for(running.communicate(), PATIENCE)
    assert running.returncode == 0, errors.decode()
    assert b"worker 0 ended with -9, and is started again" in errors
    assert b"Traceback" not in errors
    assert {row["key"] for row in lines("alerts.ndjson")} == {f"db{n}" for n in range(9)}
    assert {(row["key"], row["dead_letter"], row["errors"][0]) for row in lines("dead.ndjson")} == {
        ("db9", "failed", "LookupError: no such host")
    }

    reading = await command("compact", "dead.ndjson", "--key=host", "--timespan=1h")
    output, _ = await asyncio.wait_for(reading.communicate(), PATIENCE)
    (row,) = map(json.loads, output.splitlines())
    assert (row["key"], row["count"]) == ("db9", counted(lines("dead.ndjson")))

    (tmp_path / "hosts").write_text("db9")
    again = await command("run", "alerts.py:again")
    _, errors = await asyncio.wait_for(again.communicate(), PATIENCE)
    assert again.returncode == 0, errors.decode()
    *_, last = lines("alerts.ndjson")
    assert (last["key"], last["count"], last["event"]["owner"]) == ("db9", row["count"], "team-db")
