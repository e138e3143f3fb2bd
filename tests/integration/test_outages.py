"""What an operator sees of an outage, what becomes of the events, and the log: rows B9, H11, I4, I8 and issue 15."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from commands import run_command
from service import World, ended, serve

from rxcompact import HttpSource
from rxcompact.__main__ import main

RXCOMPACT = [sys.executable, "-m", "rxcompact"]


class Services(World):
    """An API and a store on loopback that answer 503 while they are down."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []

    async def _api(self, request: web.Request) -> web.Response:
        if self.down:
            return web.Response(status=503, text="the database is gone")
        return web.json_response({"asked": request.path})

    async def _store(self, request: web.Request) -> web.Response:
        rows = [json.loads(line) for line in (await request.read()).splitlines()]
        if self.down:
            return web.Response(status=503, text="no leader")
        self.rows += rows
        return web.Response()


async def post(url: str, body: bytes) -> int:
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as response:
        return response.status


def ids(*numbers: int) -> bytes:
    return b"".join(b'{"id":%d}\n' % number for number in numbers)


# ── an outage ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("enriched", [True, False], ids=["the API and the store", "the store"])
def test_h11_b9_an_outage_is_reported_and_what_expires_is_delivered_from_its_file(
    tmp_path: Path, enriched: bool
) -> None:
    path = tmp_path / "dead.ndjson"
    lines: list[tuple[float, str]] = []

    async def main() -> None:
        services = Services()
        async with services.up():
            places = [f"--publish={services.url}/store", *[f"--enrich={services.url}/api/{{id}}"] * enriched]
            options = ["--key=id", "--timespan=0.1", *places]
            stage, answer = ("enrich", "the database is gone") if enriched else ("publish", "no leader")
            service = f"{stage} {services.url.removeprefix('http://')}"
            services.down = True
            async with serve(*options, "--max-age=4", f"--dead-letters={path}") as (process, url):

                async def read() -> None:
                    assert process.stderr
                    async for line in process.stderr:
                        lines.append((time.monotonic(), line.decode()))

                def seen(text: str) -> float:
                    return next((at for at, line in lines if text in line), 0.0)

                reading = asyncio.ensure_future(read())
                began = time.monotonic()
                assert await post(url, ids(*range(20), 3, 3)) == 202
                async with asyncio.timeout(60):
                    while not seen("expired"):
                        await asyncio.sleep(0.05)
                    # a window, a call, and a second
                    assert 0 < seen(f"WARNING: {service}: ") - began < 5, lines
                    services.down = False
                    number = 100
                    while not seen(f"INFO: {service} works again"):
                        assert await post(url, ids(number)) == 202
                        number += 1
                        await asyncio.sleep(0.2)
                process.send_signal(signal.SIGTERM)
                await reading
                await process.wait()
            text = "".join(line for _, line in lines)
            assert text.count(f"WARNING: {service}: ") == 1
            assert f"last error: TransientError: HTTP 503: {answer}" in text
            assert "Traceback" not in text
            letters = list(map(json.loads, path.read_text().splitlines()))
            expired = {letter["event"]["id"]: letter for letter in letters}
            published = {row["key"] for row in services.rows}
            assert set(range(20)) <= expired.keys() | published
            assert not expired.keys() & published
            assert set(range(10)) <= expired.keys()  # the last attempt of some may have come through
            assert {letter["dead_letter"] for letter in letters} == {"expired"}
            assert {letter["stage"] for letter in letters} == {stage}
            assert all(f"HTTP 503: {answer}" in json.dumps(letter["errors"]) for letter in letters)
            assert expired[3]["count"] == 3
            # what expired is an input like any other
            services.rows.clear()
            async with serve(*options, "--max-age=60") as (process, url):
                assert await post(url, path.read_bytes()) == 202
                process.send_signal(signal.SIGTERM)
                account = await ended(process)
            assert {row["key"]: row["count"] for row in services.rows} == {
                key: letter["count"] for key, letter in expired.items()
            }
            assert account.published == len(expired)
            assert not enriched or all("asked" in row["event"]["enrichment"] for row in services.rows)
            done = run_command("compact", "--key=id", "--timespan=1m", path, given=b"")
            rows = list(map(json.loads, done.stdout.splitlines()))
            assert {row["key"]: row["count"] for row in rows} == {
                key: letter["count"] for key, letter in expired.items()
            }

    asyncio.run(main())


# ── dead letters of compact ───────────────────────────────────────────────────────────────────────────────────────────

BAD = b'{"id":1,"ts":100}\nbad\n{"id":2,"ts":"x"}\n{"id":3,"ts":99}\n{"id":1,"ts":100}\n{"id":4,"ts":1}\n'


def compact(*options: Any, given: bytes = BAD) -> subprocess.CompletedProcess[bytes]:
    return run_command("compact", "--key=id", "--timespan=10s", "--time=ts", *options, given=given)


def test_dead_letters_of_compact_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "dead.ndjson"
    path.write_text("torn")
    assert compact(f"--dead-letters={path}").returncode == 0
    torn, *letters = path.read_text().splitlines()
    assert torn == "torn"
    found = [(it["dead_letter"], it["reason"], it["origin"], it["event"]) for it in map(json.loads, letters)]
    assert found == [
        ("rejected", "malformed", "-:2", "bad"),
        ("rejected", "time", "-:3", {"id": 2, "ts": "x"}),
        ("rejected", "late", "-:4", {"id": 3, "ts": 99}),
        ("rejected", "late", "-:6", {"id": 4, "ts": 1}),
    ]
    done = compact("--lateness=inf", path, given=b"")
    assert [json.loads(line)["key"] for line in done.stdout.splitlines()] == [4, 3]
    assert b"received 5, duplicates 0, distinct 2, late 0, rejected 3 (malformed 2, time 1)" in done.stderr


def test_dead_letters_of_compact_are_posted() -> None:
    async def main() -> None:
        async with Services().up() as services:
            command = [*RXCOMPACT, "compact", "--key=id", "--timespan=10s", "--time=ts"]
            process = await asyncio.create_subprocess_exec(
                *command, f"--dead-letters={services.url}/store", stdin=subprocess.PIPE, stderr=subprocess.PIPE
            )
            await asyncio.wait_for(process.communicate(BAD), 60)
            assert process.returncode == 0
            assert [row["reason"] for row in services.rows] == ["malformed", "time", "late", "late"]

    asyncio.run(main())


@pytest.mark.slow
def test_dead_letters_that_cannot_be_delivered_are_reported() -> None:
    done = compact("--dead-letters=http://127.0.0.1:9/?key=SECRET", given=BAD + b"bad\n" * 50)
    assert done.returncode == 1
    assert b"\nrxcompact: 54 dead letters could not be delivered\n" in done.stderr
    # one line a cause: malformed, time, late
    assert done.stderr.count(b" ERROR: a dead letter (rejected at compact, ") == 3
    assert done.stderr.count(b" WARNING: dead letters cannot be delivered, and are tried again: ") == 1
    assert done.stderr.count(b"Cannot connect to host 127.0.0.1:9") == 4
    assert b"SECRET" not in done.stderr


def test_a_file_for_dead_letters_that_cannot_be_written_is_wrong_usage(tmp_path: Path) -> None:
    done = compact(f"--dead-letters={tmp_path}/no/such")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"No such file" in done.stderr
    assert b"Traceback" not in done.stderr


# ── fields that are missing ───────────────────────────────────────────────────────────────────────────────────────────


def test_i4_the_account_has_how_many_events_lack_a_field() -> None:
    given = b'{"host":"a","alert":"x"}\n{"host":"a"}\n{"alert":"y"}\n{"host":"b"}\n'
    done = run_command("compact", "--key=host,alert", "--timespan=1", given=given)
    assert done.returncode == 0
    assert done.stderr == (
        b"received 4, duplicates 0, distinct 4, late 0, rejected 0, without host 1, without alert 2, ratio 0.0000\n"
    )


def test_i2_a_wrapper_taken_for_an_event_brings_a_warning_that_names_items() -> None:
    done = run_command("compact", "--key=id", "--timespan=1", given=b'{"Records":[{"id":"a"},{"id":"b"}]}\n')
    assert done.returncode == 1
    assert b"'id', so far: is the name right? Events in a list of it need items" in done.stderr


@pytest.mark.parametrize(("key", "code"), [("idd", 1), ("id,idd", 1), ("id", 0)])
def test_i4_serve_exits_with_1_when_no_event_has_a_field_that_was_named(key: str, code: int) -> None:
    async def main() -> None:
        async with serve(f"--key={key}", "--timespan=0.1", "--max-age=60") as (process, url):
            assert await post(url, ids(1, 2)) == 202
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            _, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == code
        assert (b"none of 2 events has the field 'idd'" in errors) == (code == 1)

    asyncio.run(main())


# ── a pipe that pauses ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_i8_the_windows_of_a_pipe_that_pauses_close() -> None:
    command = [*RXCOMPACT, "compact", "--key=id", "--timespan=1", "--time=ts"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr

        def send(number: int, ts: float) -> None:
            process.stdin.write(b'{"id":%d,"ts":%f}\n' % (number, ts))
            process.stdin.flush()

        now = time.time()
        send(1, now - 3 * 86400)  # days behind, as of `tail -F` with a long history
        send(2, now)
        assert json.loads(process.stdout.readline())["key"] == 1
        send(2, now)  # a pause shorter than the grace makes nothing late
        began = time.monotonic()
        row = json.loads(process.stdout.readline())  # though the input stays open
        assert (row["key"], row["count"]) == (2, 2)
        assert 1.5 < time.monotonic() - began < 10
        process.stdin.close()
        assert process.wait(30) == 0
        assert b"late 0, rejected 0" in process.stderr.read()


# ── the log ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_reports_of_compact_are_json_lines_where_asked_for() -> None:
    done = compact("--log-format=json", "--log-level=ERROR", "--strict")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["level"] for line in lines] == ["WARNING", "WARNING", "INFO"]
    assert lines[0]["message"].startswith("-:2: rejected: ")
    assert lines[2]["message"].startswith("received 6, duplicates 1, distinct 1, late 2")
    assert all(line.keys() == {"time", "level", "message"} for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(("level", "warned"), [("WARNING", True), ("ERROR", False)])
def test_the_log_of_serve_is_json_lines_from_a_level_on(level: str, warned: bool) -> None:
    async def main() -> None:
        options = ["--key=id", "--timespan=0.1", "--max-age=1", "--publish=http://127.0.0.1:9/"]
        process = await asyncio.create_subprocess_exec(
            *RXCOMPACT, "serve", "--listen=127.0.0.1:0", *options, "--log-format=json", f"--log-level={level}",
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr
        first = json.loads(await asyncio.wait_for(process.stderr.readline(), 60))
        assert first["message"].startswith("listening on ")
        assert await post(first["message"].split()[-1], ids(1)) == 202
        lines: list[Any] = []
        async with asyncio.timeout(60):
            while warned and (not lines or lines[-1].get("event") != "lost"):
                lines.append(json.loads(await process.stderr.readline()))
        await asyncio.sleep(2.5)
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        *more, account = map(json.loads, errors.splitlines())
        lines += more
        assert (account["received"], account["published"]) == (1, 0)
        assert account["expired"] + account["abandoned"] == 1
        warnings = [line for line in lines if line["level"] == "WARNING"]
        assert ({line["event"] for line in warnings} == {"failing", "lost"}) == warned
        assert all("stage" in line for line in warnings)
        assert process.returncode == 1

    asyncio.run(main())


def test_h6_an_address_that_cannot_be_listened_on_is_named() -> None:
    command = [*RXCOMPACT, "serve", "--listen=no.such.host.invalid:80", "--key=id", "--timespan=1", "--max-age=2"]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"error: --listen no.such.host.invalid:80: " in done.stderr.splitlines()[-1]


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_h5_every_limit_of_the_http_source_is_a_flag_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    parameters = inspect.signature(HttpSource).parameters
    for name in parameters.keys() - {"host", "port", "basic"}:  # --listen has these two
        assert re.search(rf"--{name.replace('_', '-')}\b", text), name
        default = parameters[name].default
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert f"({default})" in text, name
