"""2,000 events with a bad one into ClickHouse, InfluxDB, VictoriaMetrics and PostgreSQL, restarted in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest
from shapes import real_time, recipes

from rxcompact import HttpSink, Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.sinks import stores
from rxcompact.sinks.encoding import flat_object

pytestmark = pytest.mark.debian

EVENTS, BAD = 2000, 777
CLICKHOUSE = """<yandex>
<logger><level>error</level><console>true</console></logger>
<http_port>{port}</http_port><listen_host>127.0.0.1</listen_host>
<path>{folder}/data/</path><tmp_path>{folder}/tmp/</tmp_path><users_config>{folder}/config</users_config>
<user_files_path>{folder}/files/</user_files_path><format_schema_path>{folder}/schemas/</format_schema_path>
<mark_cache_size>1000000</mark_cache_size>
<default_profile>default</default_profile><default_database>default</default_database>
<profiles><default></default></profiles><quotas><default></default></quotas>
<users><default><password></password><networks><ip>127.0.0.1</ip></networks>
<profile>default</profile><quota>default</quota></default></users>
</yandex>"""
INFLUXDB = """reporting-enabled = false
bind-address = "127.0.0.1:{other}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
"""


def find(program: str) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/lib/postgresql/15/bin")
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{program} is missing")
    return found or pytest.skip(f"{program} is not here")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Store:
    """A store as a process, that can be restarted."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.port, self.user = folder, free_port(), None
        self.url = f"http://127.0.0.1:{self.port}"
        config = folder / "config"
        match name:
            case "clickhouse-server":
                config.write_text(CLICKHOUSE.format(port=self.port, folder=folder))
                arguments = [f"--config-file={config}"]
            case "influxd":
                config.write_text(INFLUXDB.format(port=self.port, other=free_port(), folder=folder))
                arguments = ["run", "-config", str(config)]
            case "victoria-metrics":
                arguments = [f"-storageDataPath={folder}/data", f"-httpListenAddr=127.0.0.1:{self.port}",
                             "-loggerLevel=ERROR", "-retentionPeriod=100y"]  # fmt: skip
            case _:
                self.user = "postgres" if os.geteuid() == 0 else None
                if self.user:
                    shutil.chown(folder, self.user)
                data = folder / "data"
                subprocess.run([find("initdb"), "-D", data, "-U", "tests", "-A", "trust"], user=self.user, cwd=folder,
                               check=True, capture_output=True)  # fmt: skip
                arguments = ["-D", str(data), "-p", str(self.port), "-h", "127.0.0.1", "-k", "", "-F"]
        self._command = [find(name), *arguments]

    async def start(self) -> None:
        with (self.folder.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self.folder, user=self.user)
        async with asyncio.timeout(60):
            while True:
                assert self._process.poll() is None, (self.folder.parent / "log").read_text()[-2000:]
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                return

    def stop(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)
        self._process.wait(60)


async def asked(url: str, **options: Any) -> str:
    async with aiohttp.ClientSession() as session, session.request("POST", url, **options) as response:
        text = await response.text()
        assert response.status < 300, text
        return text


async def stored(store: Store, sink: Any, *, stop: int = signal.SIGTERM, max_age: float = 60) -> tuple[Any, list[Any]]:
    """Publish the events, with a restart of the store; return account and dead letters."""
    letters: list[Any] = []

    async def events() -> AsyncIterator[dict[str, Any]]:
        for number in range(EVENTS):
            if number == EVENTS // 2:
                while orchestrator.account.published < EVENTS // 4:
                    await asyncio.sleep(0.01)
                while orchestrator.account.in_flight > 1:  # none but the bad one is under way
                    await asyncio.sleep(0.01)
                store.stop(stop)
                asyncio.get_running_loop().call_later(1, lambda: restarts.append(asyncio.ensure_future(store.start())))
            yield {"id": f"e{number}", "host": "h" * 500 if number == BAD else f"h{number % 7}",
                   "n": "bad" if number == BAD else number}  # fmt: skip

    restarts: list[Any] = []
    pipeline = Pipeline(
        events(),
        rxo.compact(0.05, key_mapper="id"),
        rxo.publish(sink, count=100, timespan=0.05, wait=0.2),
        max_age=max_age,
    )
    orchestrator = Orchestrator(pipeline, report=False)
    orchestrator.dead_letters.subscribe(letters.append)
    async with asyncio.timeout(100):
        await orchestrator.start()
        account = (await orchestrator.wait()).account
    return account, letters


@real_time
async def test_w1_w6_clickhouse_stores_all_but_the_bad_one_once(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store", "clickhouse-server")
    await store.start()
    try:
        columns = "id String, host String, n Int64, count Int64, first_seen Float64, last_seen Float64"
        await asked(store.url, data=f"create table alerts ({columns}) engine = MergeTree order by id")
        insert = store.url + "/?query=INSERT INTO alerts FORMAT JSONEachRow&date_time_input_format=best_effort"
        sink = HttpSink(insert, to_json=flat_object, gzip=True)
        account, letters = await stored(store, sink, max_age=15)
        counts = await asked(store.url, data="select count(), uniqExact(id), sum(n) from alerts")
    finally:
        store.stop()
    assert counts.split() == ["1999", "1999", str(sum(range(EVENTS)) - BAD)]
    assert account.published == 1999
    assert [letter.event.key for letter in letters] == [f"e{BAD}"]
    assert "Cannot parse input" in str(letters[0].error)


@real_time
async def test_w1_w12_influxdb_stores_all_but_the_bad_one_once(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store", "influxd")
    await store.start()
    try:
        await asked(store.url + "/query", params={"q": "create database metrics"})
        write = store.url + "/write?db=metrics&precision=ns"
        await asked(write, data="alerts,id=first n=1i 1700000000000000000")  # n is an integer from now on
        line = stores.influx_line("alerts", tags=["id"])
        sink = HttpSink(write, format="lines", to_json=line, gzip=True)
        account, letters = await stored(store, sink)
        found = json.loads(
            await asked(store.url + "/query?db=metrics", params={"q": "select count(n), sum(n) from alerts"})
        )
    finally:
        store.stop()
    [series] = found["results"][0]["series"]
    assert series["values"][0][1:] == [2000, sum(range(EVENTS)) - BAD + 1]  # with the first
    assert (account.published, account.failed) == (1999, 1)
    assert [letter.event.key for letter in letters] == [f"e{BAD}"]
    assert "field type conflict" in str(letters[0].error)


@real_time
async def test_k3_w12_victoria_metrics_stores_each_once_and_takes_a_text_for_0(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store", "victoria-metrics")
    await store.start()
    try:
        line: Callable[[Any], str] = stores.influx_line("alerts", tags=["id"])
        sink = HttpSink(store.url + "/write", format="lines", to_json=line, gzip=True)
        account, letters = await stored(store, sink)
        values: list[float] = []
        async with asyncio.timeout(30):
            while len(values) < EVENTS:  # what it took a moment ago is not found yet
                await asked(store.url + "/internal/force_flush")
                found = await asked(store.url + "/api/v1/export", params={"match[]": "alerts_n"})
                values = [value for row in found.splitlines() for value in json.loads(row)["values"]]
    finally:
        store.stop()
    assert sorted(values) == sorted(0 if n == BAD else n for n in range(EVENTS))
    assert (account.published, letters) == (2000, [])


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "killed"])
@real_time
async def test_w1_w9_postgresql_stores_all_but_the_bad_one_once(stop: int) -> None:
    asyncpg = pytest.importorskip("asyncpg") if not os.environ.get("CI") else __import__("asyncpg")
    place = TemporaryDirectory(dir="/tmp")  # another user has to reach it
    Path(place.name).chmod(0o755)
    (folder := Path(place.name) / "store").mkdir()
    store = Store(folder, "postgres")
    await store.start()
    address = f"postgresql://tests@127.0.0.1:{store.port}/postgres"
    try:
        base = None
        while base is None:
            try:
                base = await asyncpg.connect(address)
            except asyncpg.CannotConnectNowError:  # it is starting
                await asyncio.sleep(0.05)
        await base.execute(
            "create table alerts (id text primary key, host varchar(100), count int, first_seen timestamptz)"
        )
        await base.close()
        account, letters = await stored(store, recipes()["PostgresSink"](address), stop=stop)
        base = await asyncpg.connect(address)
        counts = await base.fetchrow("select count(*), count(distinct id) from alerts")
        await base.close()
    finally:
        store.stop(signal.SIGINT)
        place.cleanup()
    assert tuple(counts) == (1999, 1999)
    assert (account.published, account.failed) == (1999, 1)
    assert [letter.event.key for letter in letters] == [f"e{BAD}"]
    assert "value too long" in str(letters[0].error)
