"""Suggested keys: on logs whose right key is known, and what is shown of them."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run_command

from rxcompact.suggest import mask, suggest

START = 1_700_000_000


def alerts(chance: random.Random, at: int) -> dict[str, Any]:
    """An alert of a host: its severity follows from it."""
    name = chance.choice(["DiskFull", "NodeDown", "HighLoad"])
    return {
        "ts": START + at, "host": f"web{chance.randrange(40)}", "alert": name,
        "severity": {"DiskFull": "warning", "NodeDown": "critical", "HighLoad": "info"}[name],
        "value": chance.random(), "id": f"{chance.getrandbits(64):016x}",
    }  # fmt: skip


def requests(chance: random.Random, at: int) -> dict[str, Any]:
    """Errors of a service: nested fields, a counter, a trace."""
    return {
        "time": f"2023-11-14T22:{at // 60 % 60:02}:{at % 60:02}Z", "sequence": at,
        "service": {"name": f"api{chance.randrange(12)}", "version": "1.2"}, "route": f"/v1/{chance.choice('abcdef')}",
        "code": chance.choice([500, 502, 503]), "took_ms": chance.uniform(1, 900),
        "trace": str(chance.getrandbits(120)),
    }  # fmt: skip


def messages(chance: random.Random, at: int) -> dict[str, Any]:
    """Lines of syslog: the key is the host and the kind of message."""
    text = chance.choice([
        f"disk sda{chance.randrange(9)} is {chance.randrange(100)}% full",
        f"connection from 10.0.{chance.randrange(256)}.{chance.randrange(256)}:{chance.randrange(65536)} refused",
        f"request {chance.getrandbits(64):016x}a took {chance.random():.3f} s",
    ])  # fmt: skip
    return {"ts": START + at / 10, "host": f"db{chance.randrange(25)}", "message": text, "pid": chance.randrange(30000)}


def sensors(chance: random.Random, at: int) -> dict[str, Any]:
    """Readings: one field is the key."""
    device = chance.randrange(60)
    return {"epoch_ms": (START + at) * 1000, "device": f"sensor-{device}", "site": f"hall-{device % 4}",
            "celsius": round(chance.gauss(20, 5), 2), "online": True}  # fmt: skip


def changes(chance: random.Random, at: int) -> dict[str, Any]:
    """Changes of tables: three fields are the key, and a number is one of them."""
    return {"lsn": 10**6 + at * 8, "at": START + at, "schema": f"tenant{chance.randrange(8)}",
            "table": chance.choice(["orders", "users", "stock"]), "op": chance.randrange(3),
            "payload": [chance.random()]}  # fmt: skip


LOGS: dict[Callable[..., dict[str, Any]], tuple[set[str], set[str]]] = {
    alerts: ({"host", "alert"}, {"ts", "value", "id", "severity"}),
    requests: ({"service.name", "route", "code"}, {"time", "sequence", "service.version", "took_ms", "trace"}),
    messages: ({"host", "message"}, {"ts", "pid"}),
    sensors: ({"device"}, {"epoch_ms", "celsius", "online"}),
    changes: ({"schema", "table", "op"}, {"lsn", "at", "payload"}),
}


def log(kind: Callable[..., dict[str, Any]], size: int = 3000) -> list[dict[str, Any]]:
    chance = random.Random(1)
    return [kind(chance, at) for at in range(size)]


@pytest.mark.parametrize("kind", LOGS, ids=lambda kind: kind.__name__)
def test_the_right_key_of_a_generated_log_is_first(kind: Callable[..., dict[str, Any]]) -> None:
    found = suggest(log(kind))
    right, noise = LOGS[kind]
    fields = set(found.candidates[0].fields)
    if kind is alerts:  # which of two that go with each other is a matter of taste
        fields = {"alert" if name == "severity" else name for name in fields}
        noise = noise - {"severity"}
    assert fields == right
    assert noise <= set(found.excluded)
    assert found.candidates[0].mixed <= 0.15


@pytest.mark.parametrize(("name", "key"), [
    ("zeek_dns", {"id.orig_h", "query", "qtype_name"}),
    ("apache_access", {"client", "path"}),  # the status follows from these for 97 of 100 events
])  # fmt: skip
def test_the_right_key_of_the_real_sets_is_first(shared: Path, name: str, key: set[str]) -> None:
    lines = gzip.decompress((shared / name / "events.ndjson.gz").read_bytes()).splitlines()
    assert set(suggest(lines).candidates[0].fields) == key


def test_shares_and_examples_are_those_of_a_count_by_hand() -> None:
    # ten of a, of which two differ in the colour; six of b
    rows = [*[("a", "red")] * 8, *[("a", "blue")] * 2, *[("b", "red")] * 6]
    events = [{"id": key, "colour": colour} for key, colour in rows]
    by_id = next(each for each in suggest(events).candidates if each.fields == ("id",))
    assert by_id.reduction == 1 - 2 / 16
    assert by_id.mixed == pytest.approx(2 / 16)
    first, second = by_id.examples
    assert (first.key, first.count, dict(first.differ)) == (("a",), 10, {"colour": 2})
    assert (second.key, second.count, dict(second.differ)) == (("b",), 6, {})


def test_no_key_that_mixes_up_more_is_before_one_that_does_not() -> None:
    found = suggest(log(alerts), max_mixed=0.0)
    assert found.candidates[0].mixed == 0
    assert 1 <= len(found.candidates) <= 3


def test_masks_may_be_your_own() -> None:
    assert mask("user ann failed", {"user": r"(?<=user )\w+"}) == "user <user> failed"
    assert mask("fe80:0:0:0:1:2:3:4 at 3.5, 7") == "<address> at <number>, <number>"
    assert suggest(log(messages)).masked == ["message"]


def test_it_shows_itself_and_nothing_is_found_in_nothing() -> None:
    found = suggest(log(alerts))
    assert repr(found).splitlines()[0] == "keys for 3,000 events: share removed, share that would be mixed up"
    assert "not ts: a time" in repr(found)
    assert "not value: a counter or a measurement" in repr(found)
    assert suggest([]).candidates == []
    assert suggest([{"a": 1}] * 3).candidates == []


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text("".join(f"{json.dumps(event)}\n" for event in log(changes)))
    done = run_command("suggest", path, given=b"")
    assert done.returncode == 0
    assert "schema, table, op" in done.stdout.decode().splitlines()[1]
    assert f"rxcompact compact {path} --key schema,table,op --timespan 10s" in done.stdout.decode()
    assert run_command("suggest", "-", given=path.read_bytes()).stdout.startswith(b"keys for 3,000 events")
    (tmp_path / "none").write_text("[1, 2]\nnot json\n")
    assert run_command("suggest", tmp_path / "none", given=b"").returncode == 1
