"""Real senders, each with the configuration in this folder, post to `rxcompact serve`."""

from __future__ import annotations

import json
import re
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from rxcompact.signals import Account

if TYPE_CHECKING:
    from .conftest import Bench, Store

ONE_WINDOW = "--timespan=25"  # longer than a test: it closes when it is drained, and counts are exact
MESSAGES = ["disk full", 'a "quoted" word', "disk full", "C:\\temp", "disk full", "Zürich ✓"]
FULL = [("DiskFull", "db1"), ("DiskFull", "db2")]
DOWN = [("NodeDown", "db1"), ("NodeDown", "db2")]
NO_CONNECTION = re.compile("couldn't connect|connection refused|error sending HTTP request", re.IGNORECASE)


def fire(url: str, alerts: list[tuple[str, str]]) -> None:
    body = [{"labels": {"alertname": name, "host": host}} for name, host in alerts]
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=5).close()


def alerts_of(rows: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    counts = Counter[tuple[str, str]]()
    for row in rows:
        labels = row["event"]["labels"]
        counts[labels["alertname"], labels["host"]] += row["count"]
    return counts


def messages_of(rows: list[dict[str, Any]]) -> Counter[str]:
    counts = Counter[str]()
    for row in rows:
        counts[row["event"]["message"]] += row["count"]
    return counts


def test_prometheus(bench: Bench) -> None:
    service = bench.serve("--key=labels", ONE_WINDOW, f"--token={bench.token}")
    prometheus = bench.prometheus(service.address)
    bench.until(lambda: service.received() >= 9)  # it posts from its fifth second on
    prometheus.stop()
    account = service.drain()
    counts = alerts_of(service.rows())
    assert set(counts) == {*FULL, DOWN[0]}
    assert min(counts.values()) > 1
    assert counts.total() == account.received
    assert account.published == len(service.rows()) == 3


def test_alertmanager(bench: Bench) -> None:
    service = bench.serve("--items=alerts", "--key=fingerprint,status", ONE_WINDOW, f"--token={bench.token}")
    changes = {"# http_config": "http_config", "group_interval: 10s": "group_interval: 1s"}
    alertmanager, url = bench.alertmanager(service.address, changes)
    fire(url, [*FULL, DOWN[0]])
    bench.until(lambda: service.received() == 3)
    fire(url, [("DiskFull", "db3")])
    bench.until(lambda: service.received() == 6)  # its group is posted whole
    alertmanager.stop()
    account = service.drain()
    assert alerts_of(service.rows()) == Counter([*FULL, DOWN[0], *FULL, ("DiskFull", "db3")])
    assert account == Account(received=6, duplicates=2, distinct=4, published=4)


def test_alertmanager_retries_503(bench: Bench, store: Store) -> None:
    full = ["--max-in-flight=2", f"--publish={store.url}"]
    service = bench.serve("--items=alerts", "--key=fingerprint,status", "--timespan=0.2", *full)
    alertmanager, url = bench.alertmanager(service.address, {})
    fire(url, FULL)
    bench.until(lambda: service.received() == 2)  # and that is all that it holds
    fire(url, DOWN)
    bench.until(lambda: "unexpected status code 503" in alertmanager.log())
    store.open()
    bench.until(lambda: len(store.rows) == 4)
    account = service.drain()
    assert alerts_of(store.rows) == Counter([*FULL, *DOWN])
    assert account == Account(received=4, distinct=4, published=4)


@pytest.mark.parametrize("sender", ["syslog_ng", "rsyslog"])
def test_a_log_daemon(bench: Bench, sender: str) -> None:
    flags = [f"--token={bench.token}"] if sender == "syslog_ng" else []  # rsyslog cannot send one
    service = bench.serve("--key=host,program,message", "--time=ts", ONE_WINDOW, *flags)
    daemon = getattr(bench, sender)(service.address)
    bench.write(*MESSAGES)
    bench.until(lambda: service.received() == 6)
    daemon.stop()
    account = service.drain()
    assert messages_of(service.rows()) == Counter(MESSAGES)
    assert {row["event"]["program"] for row in service.rows()} == {"app"}
    assert account == Account(received=6, duplicates=2, distinct=4, published=4)


@pytest.mark.parametrize("sender", ["syslog_ng", "rsyslog"])
def test_a_log_daemon_retries_over_a_restart(bench: Bench, sender: str) -> None:
    first = bench.serve("--key=message", "--timespan=0.2")
    daemon = getattr(bench, sender)(first.address)
    bench.write("one", "two", "one")
    bench.until(lambda: messages_of(first.rows()).total() == 3)
    assert first.drain().received == 3
    bench.write("three", "four", "three")
    bench.until(lambda: NO_CONNECTION.search(daemon.log()) is not None)
    second = bench.serve("--key=message", "--timespan=0.2", listen=first.address)
    bench.until(lambda: second.received() == 3)
    daemon.stop()
    assert second.drain().received == 3
    assert messages_of(first.rows()) == {"one": 2, "two": 1}
    assert messages_of(second.rows()) == {"three": 2, "four": 1}


def test_syslog_ng_retries_503(bench: Bench, store: Store) -> None:
    service = bench.serve("--key=message", "--timespan=0.2", "--max-in-flight=2", f"--publish={store.url}")
    syslog_ng = bench.syslog_ng(service.address)
    bench.write("one", "two")
    bench.until(lambda: service.received() == 2)
    bench.write("three", "four", "three")
    bench.until(lambda: "status_code='503'" in syslog_ng.log())
    store.open()
    bench.until(lambda: messages_of(store.rows).total() == 5)
    syslog_ng.stop()
    assert service.drain() == Account(received=5, duplicates=1, distinct=4, published=4)
    assert messages_of(store.rows) == {"one": 1, "two": 1, "three": 2, "four": 1}


def test_rsyslog_writes_503_to_its_error_file(bench: Bench, store: Store) -> None:
    full = ["--max-in-flight=1", f"--publish={store.url}"]
    service = bench.serve("--key=message", ONE_WINDOW, "--deadline=0.1", *full)
    daemon = bench.rsyslog(service.address)
    bench.write("held", "refused", "held")
    bench.until(lambda: service.received() == 2)  # messages are posted in turn, so the one between was rejected
    daemon.stop()
    errors = bench.folder / "refused.json"
    assert errors.exists()
    request = json.loads(errors.read_text())["request"]
    assert json.loads(request["postdata"])["message"] == "refused"


def test_collectd(bench: Bench) -> None:
    key = "--key=host,plugin,plugin_instance,type,type_instance"
    service = bench.serve(key, "--time=time", ONE_WINDOW, f"--token={bench.token}")
    collectd = bench.collectd(service.address)
    bench.until(lambda: service.received() >= 50)
    collectd.stop()
    account = service.drain()
    rows = service.rows()
    series = {(row["event"]["plugin"], row["event"]["type"], row["event"]["type_instance"]) for row in rows}
    assert {("load", "load", ""), ("memory", "memory", "free"), ("memory", "memory", "used")} <= series
    assert len(series) == len(rows) == account.published
    assert min(row["count"] for row in rows) > 1
    assert sum(row["count"] for row in rows) == account.received
