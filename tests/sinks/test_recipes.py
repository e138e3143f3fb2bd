"""The recipes of the manual's page on stores, run for real: databases, credentials, streams."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from shapes import BLOCK, PAGE, Got, answering, batch, publish, real_time, recipes

from rxcompact import Orchestrator, Pipeline
from rxcompact import operators as rxo

FIFTEEN = (
    "ClickHouse", "InfluxDB", "VictoriaMetrics", "PostgreSQL", "webdis", "SQS", "S3", "Kinesis", "Loki", "Splunk",
    "Slack", "PagerDuty", "Kafka", "BigQuery", "PostgREST",
)  # fmt: skip


@pytest.mark.parametrize("target", FIFTEEN)
def test_w6_each_of_the_fifteen_targets_is_on_the_page(target: str) -> None:
    assert target in PAGE


def test_w6_each_sink_is_configured_in_at_most_eight_lines() -> None:
    stores = PAGE.partition("## Stores")[2].partition("## Credentials")[0]
    parts = [
        part for block in BLOCK.findall(stores) for part in re.split(r"(?<=\n)\n\n(?=def messages|def records)", block)
    ]
    for part in parts:
        lines = [line for line in part.splitlines() if line.strip() and not line.startswith(("import ", "def aws"))]
        assert len(lines) <= 8, part


ROWS = [{"host": f"h{n}"} for n in range(20)]


@real_time
async def test_w1_w9_sqlite_takes_all_but_the_row_at_fault_and_nothing_twice(tmp_path: Path) -> None:
    path = str(tmp_path / "alerts.db")
    with closing(sqlite3.connect(path)) as base:
        base.execute("create table alerts (id text primary key, host text not null, count integer)")
        base.commit()
    letters: list[Any] = []
    sink = recipes()["SqliteSink"](path)
    events = [{"host": None if n == 7 else f"h{n}", "n": n} for n in range(20)]
    pipeline = Pipeline(events, rxo.compact(0.01, key_mapper="n"), rxo.publish(sink, count=8, wait=0.01), max_age=60)
    async with Orchestrator(pipeline, report=False) as orchestrator:
        orchestrator.dead_letters.subscribe(letters.append)
        account = (await orchestrator.wait()).account
    assert (account.published, account.failed) == (19, 1)
    assert "NOT NULL constraint failed: alerts.host" in str(letters[0].error)
    await sink.publish(batch(*ROWS))
    await sink.publish(batch(*ROWS))  # as after a crash
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("select count(*), count(distinct host) from alerts where host like 'h%'").fetchone() == (
            39,
            20,
        )


@real_time
async def test_w9_sqlite_without_its_table_fails_at_once(tmp_path: Path) -> None:
    sink = recipes()["SqliteSink"](str(tmp_path / "alerts.db"))
    pipeline = Pipeline(ROWS, rxo.compact(0.01, key_mapper="host"), rxo.publish(sink), max_age=60)
    async with asyncio.timeout(30), Orchestrator(pipeline, report=False) as orchestrator:
        account = (await orchestrator.wait()).account
    assert account.failed == 20


@real_time
async def test_w6_a_token_is_kept_until_it_expires_and_a_signature_is_of_the_body() -> None:
    def provider(got: Got) -> tuple[int, Any]:
        if got.path == "/token":
            assert b"client_credentials" in got.body
            return 200, {"access_token": f"T{len(server.got)}", "expires_in": 3600}
        return 200, {}

    async with answering(provider) as server:
        found = recipes(**{"https://idp/token": server.url + "/token", "https://store/alerts": server.url + "/in"})
        sink = found["sink"] = found["HttpSink"](server.url + "/in", headers=found["Token"]())
        assert [await sink.publish(batch(1)), await sink.publish(batch(2))] == [None, None]
        await sink.aclose()
        await publish(found["HttpSink"](server.url + "/in", headers=found["signature"]), batch(3))
    assert [got.headers.get("Authorization") for got in server.got] == [None, "Bearer T1", "Bearer T1", None]
    digest = found["hmac"].new(b"secret", server.got[3].body, "sha256").hexdigest()
    assert server.got[3].headers["X-Signature"] == digest


@real_time
async def test_w6_redis_by_webdis() -> None:
    async with answering(
        lambda got: (200, {"RPUSH": 1} if b"ok" in got.body else {"RPUSH": [False, "WRONGTYPE no"]})
    ) as server:
        found = recipes()
        sink = found["HttpSink"](server.url, body=found["command"], max_batch=1)
        wrong = await publish(sink, batch({"a": "ok / 1"}, {"a": "2"}))
    bodies = [b"RPUSH/alerts/%7B%22a%22%3A%222%22%7D", b"RPUSH/alerts/%7B%22a%22%3A%22ok%20%2F%201%22%7D"]
    assert sorted(got.body for got in server.got) == bodies
    assert {n: str(error) for n, error in wrong.items()} == {1: "WRONGTYPE no"}


@real_time
async def test_w6_sqs_and_kinesis_by_their_answers() -> None:
    def queue(got: Got) -> tuple[int, Any]:
        assert got.headers["Content-Type"] == "application/x-amz-json-1.0"
        ids = [entry["Id"] for entry in got.json["Entries"]]
        failed = [{"Id": "1", "SenderFault": True, "Code": "InvalidMessageContents", "Message": "bad"}]
        return 200, {"Successful": [{"Id": each} for each in ids if each != "1"], "Failed": failed}

    def stream(got: Got) -> tuple[int, Any]:
        assert all(entry.keys() == {"Data", "PartitionKey"} for entry in got.json["Records"])
        results = [{"SequenceNumber": "1"}, {"ErrorCode": "InternalFailure", "ErrorMessage": "no"}]
        return 200, {"FailedRecordCount": 1, "Records": results}

    found = recipes()
    for shape, body in ((queue, "messages"), (stream, "records")):
        async with answering(shape) as server:
            wrong = await publish(
                found["HttpSink"](server.url, body=found[body], max_batch=10), batch({"a": 1}, {"a": 2})
            )
        assert [*wrong] == [1]


# ── W14: sources ──────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def streaming(handler: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("kind", ["server_sent_events", "websocket"])
@real_time
async def test_w14_streams_cut_at_random_are_subscribed_to_again(kind: str) -> None:
    sent = iter(range(40))

    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse() if kind == "websocket" else web.StreamResponse()
        await socket.prepare(request)
        for _ in range(10):  # then it is cut
            if (number := next(sent, None)) is None:
                await asyncio.sleep(30)
            line = json.dumps({"host": f"h{number}"})
            await (
                socket.send_str(line)
                if kind == "websocket"
                else socket.write(f": hi\nevent: x\ndata: {line}\n\n".encode())
            )
        return socket

    out: list[Any] = []
    async with streaming(handler) as url:
        pipeline = Pipeline(
            recipes()[kind](url), rxo.compact(0.05, key_mapper="host"), rxo.publish(out.extend, timespan=0), max_age=60
        )
        async with asyncio.timeout(60), Orchestrator(pipeline, report=False) as orchestrator:
            while len(out) < 40:
                await asyncio.sleep(0.02)
            await orchestrator.stop()
    assert sorted(c.key for c in out) == sorted(f"h{n}" for n in range(40))
