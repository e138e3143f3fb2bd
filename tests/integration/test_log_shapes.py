"""Public kinds of logs, each from a file, a pipe and a post: counts and times are those of a list in plain Python.

The shapes are those of their documentation, the values are invented.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from commands import run_command

from rxcompact import HttpSource, Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.keys import json_value

START = 1_795_860_000  # 2026-11-28 10:00:00 UTC
NAMES = ["a", "b", "a", "c", "a", "b", "ü", "a", "c", "a"]
"""The name of each event; they come a second after each other."""


class Kind(NamedTuple):
    """A kind of log: how an event is written, and a file of them; where its key is and its time."""

    event: Callable[[str, int], Any]
    key: tuple[str, ...]
    time: str
    key_of: Callable[[str], Any]
    items: str | None = None
    file: Callable[[list[Any]], bytes] = lambda events: "\n".join(map(json.dumps, events)).encode()
    fraction: float = 0.0


def at(second: int, form: str = "2026-11-28T10:00:{:02}Z") -> str:
    return form.format(second)


def inside(*names: str, **others: Any) -> Callable[[list[Any]], bytes]:
    """A file that is one object, with the list of events at the end of some names; a list on the way is one of one."""

    def file(events: list[Any]) -> bytes:
        found: Any = events
        for name in reversed(names):
            found = {name.removesuffix("[]"): [found] if name.endswith("[]") else found} | others
        return json.dumps(found, indent=1).encode()

    return file


UPN = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn"
KINDS = {
    "CloudTrail": Kind(
        lambda name, n: {
            "eventVersion": "1.08", "eventTime": at(n), "eventSource": "s3.amazonaws.com", "eventName": "GetObject",
            "userIdentity": {"type": "IAMUser", "arn": f"arn:aws:iam::1:user/{name}"}, "resources": [{"ARN": "x"}],
        },
        ("eventName", "userIdentity.arn"), "eventTime", lambda name: ["GetObject", f"arn:aws:iam::1:user/{name}"],
        "Records", lambda events: gzip.compress(json.dumps({"Records": events}).encode()),
    ),
    "Suricata": Kind(
        lambda name, n: {
            "timestamp": at(n, "2026-11-28T10:00:{:02}.250000+0000"), "flow_id": 2**53 + n, "event_type": "alert",
            "src_ip": name, "alert": {"signature_id": 2013028, "signature": "ET POLICY curl", "severity": 3},
        },
        ("src_ip", "alert.signature_id"), "timestamp", lambda name: [name, 2013028], fraction=0.25,
    ),
    "Kubernetes audit": Kind(
        lambda name, n: {
            "kind": "Event", "stage": "ResponseComplete", "verb": "get", "objectRef": {"name": name},
            "requestReceivedTimestamp": at(n, "2026-11-28T10:00:{:02}.500000Z"),
            "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""},
        },
        ("objectRef.name", "annotations.authorization.k8s.io/decision"), "requestReceivedTimestamp",
        lambda name: [name, "allow"], "items", inside("items", kind="EventList", apiVersion="audit.k8s.io/v1"), 0.5,
    ),
    "journald": Kind(
        lambda name, n: {
            "__REALTIME_TIMESTAMP": str((START + n) * 10**6 + 125_000), "_SYSTEMD_UNIT": f"{name}.service",
            "PRIORITY": "6", "MESSAGE": "}, {", "_PID": str(n),
        },
        ("_SYSTEMD_UNIT", "PRIORITY"), "__REALTIME_TIMESTAMP", lambda name: [f"{name}.service", "6"], fraction=0.125,
    ),
    "OTLP": Kind(
        lambda name, n: {
            "timeUnixNano": str((START + n) * 10**9 + 1), "severityNumber": 17, "body": {"stringValue": name},
            "attributes": [{"key": "k", "value": {"intValue": str(n)}}],
        },
        ("body.stringValue", "severityNumber"), "timeUnixNano", lambda name: [name, 17],
        "resourceLogs[].scopeLogs[].logRecords[]", inside("resourceLogs[]", "scopeLogs[]", "logRecords"),
    ),
    "Loki push": Kind(
        lambda name, n: [str((START + n) * 10**9), f'level=warn msg="{name}, [x]"', {"trace": str(n)}],
        ("1",), "0", lambda name: f'level=warn msg="{name}, [x]"',
        "streams[].values[]", inside("streams[]", "values", stream={"job": "web"}),
    ),
    "GitHub webhook": Kind(
        lambda name, n: {
            "action": "edited", "issue": {"number": 7, "title": "x", "updated_at": at(n), "labels": [{"name": "bug"}]},
            "repository": {"full_name": f"o/{name}"}, "sender": {"login": "x"},
        },
        ("repository.full_name", "issue.labels[].name"), "issue.updated_at", lambda name: [f"o/{name}", ["bug"]],
    ),
    "Alertmanager": Kind(
        lambda name, n: {
            "status": "firing", "labels": {"alertname": name, "instance": "h:9"}, "fingerprint": name * 3,
            "startsAt": at(n, "2026-11-28T11:00:{:02}.123456789+01:00"), "endsAt": "0001-01-01T00:00:00Z",
        },
        ("fingerprint",), "startsAt", lambda name: name * 3, "alerts",
        inside("alerts", version="4", status="firing", groupLabels={}), 0.123456,
    ),
    "Prometheus alerts": Kind(
        lambda name, n: {"labels": {"alertname": name}, "annotations": {}, "startsAt": at(n), "generatorURL": "http://x"},
        ("labels.alertname",), "startsAt", lambda name: name, file=lambda events: json.dumps(events).encode(),
    ),
    "Falco": Kind(
        lambda name, n: {
            "time": at(n, "2026-11-28T10:00:{:02}.000000001Z"), "rule": "Terminal shell in container",
            "priority": "Notice", "output_fields": {"container.id": name, "proc.tty": 34816, "evt.time": 1},
        },
        ("rule", "output_fields.container.id"), "time", lambda name: ["Terminal shell in container", name],
    ),
    "osquery": Kind(
        lambda name, n: {
            "name": "pack_x", "hostIdentifier": name, "calendarTime": at(n, "Sat Nov 28 10:00:{:02} 2026 UTC"),
            "unixTime": START + n, "columns": {"pid": str(n)}, "action": "added",
        },
        ("hostIdentifier",), "calendarTime", lambda name: name,
    ),
    "Windows events": Kind(
        lambda name, n: {
            "Event": {
                "System": {"EventID": 4625, "TimeCreated": {"SystemTime": at(n, "2026-11-28T10:00:{:02}.5000001Z")}},
                "EventData": {"TargetUserName": name, "IpAddress": "-"},
            }
        },
        ("Event.System.EventID", "Event.EventData.TargetUserName"), "Event.System.TimeCreated.SystemTime",
        lambda name: [4625, name], fraction=0.5,
    ),
    "PostgreSQL jsonlog": Kind(
        lambda name, n: {
            "timestamp": at(n, "2026-11-28 10:00:{:02}.250 UTC"), "user": name, "dbname": "d", "pid": 7,
            "error_severity": "ERROR", "state_code": "23505", "message": 'duplicate key "x"',
        },
        ("user", "state_code"), "timestamp", lambda name: [name, "23505"], fraction=0.25,
    ),
    "nginx JSON": Kind(
        lambda name, n: {
            "time_local": at(n, "28/Nov/2026:10:00:{:02} +0000"), "request": f"GET /{name} HTTP/1.1", "status": "502",
        },
        ("request", "status"), "time_local", lambda name: [f"GET /{name} HTTP/1.1", "502"],
    ),
    "Firehose": Kind(
        lambda name, n: {"data": base64.b64encode(name.encode()).decode(), "arrival": 1000 * (START + n)},
        ("data",), "arrival", lambda name: base64.b64encode(name.encode()).decode(),
        "records", inside("records", requestId="ed4acda5", timestamp=1000 * START),
    ),
    "GCP audit": Kind(
        lambda name, n: {
            "logName": "projects/p/logs/cloudaudit.googleapis.com%2Factivity", "timestamp": at(n), "severity": "NOTICE",
            "protoPayload": {
                "@type": "type.googleapis.com/google.cloud.audit.AuditLog", "methodName": "v1.compute.instances.stop",
                "authenticationInfo": {"principalEmail": f"{name}@example.com"},
            },
        },
        ("protoPayload.authenticationInfo.principalEmail", "protoPayload.@type"), "timestamp",
        lambda name: [f"{name}@example.com", "type.googleapis.com/google.cloud.audit.AuditLog"],
    ),
    "Azure activity": Kind(
        lambda name, n: {
            "time": at(n, "2026-11-28T10:00:{:02}.0000000Z"), "operationName": "DELETE", "resultType": "Success",
            "identity": {"claims": {UPN: name}},
        },
        ("operationName", f"identity.claims.{UPN}"), "time", lambda name: ["DELETE", name],
        "records", inside("records"),
    ),
    "Auditbeat": Kind(
        lambda name, n: {
            "@timestamp": at(n, "2026-11-28T10:00:{:02}.000Z"), "event": {"module": "auditd", "action": "executed"},
            "process": {"args": ["bash", "-c", name]}, "host": {"name": "h"}, "tags": [],
        },
        ("host.name", "process.args"), "@timestamp", lambda name: ["h", ["bash", "-c", name]],
    ),
    "Zeek": Kind(
        lambda name, n: {
            "ts": START + n + 0.5, "uid": f"C{n}", "id.orig_h": name, "id.resp_p": 53, "tunnel_parents": [],
        },
        ("id.orig_h", "id.resp_p"), "ts", lambda name: [name, 53], fraction=0.5,
    ),
    "Docker json-file": Kind(
        lambda name, n: {"log": f"{name} }}\n", "stream": "stderr", "time": at(n, "2026-11-28T10:00:{:02}.000000000Z")},
        ("log", "stream"), "time", lambda name: [f"{name} }}\n", "stderr"],
    ),
    "MongoDB": Kind(
        lambda name, n: {"t": {"$date": at(n, "2026-11-28T05:00:{:02}.000-05:00")}, "s": "W", "id": 22943, "ctx": name},
        ("ctx", "id"), "t.$date", lambda name: [name, 22943],
    ),
    "Caddy": Kind(
        lambda name, n: {
            "ts": START + n, "logger": "http.log.access", "request": {"headers": {"User-Agent": [name]}}, "status": 200,
        },
        ("request.headers.User-Agent", "status"), "ts", lambda name: [[name], 200],
        file=lambda events: "".join(json.dumps(event, indent=2) for event in events).encode(),
    ),
}  # fmt: skip

Rows = list[tuple[Any, int, float, float]]


def expected(kind: Kind) -> Rows:
    """Key, count, first and last time of each name, in the order of their first events."""
    seconds = {name: [START + n + kind.fraction for n, each in enumerate(NAMES) if each == name] for name in NAMES}
    return [(kind.key_of(name), len(times), times[0], times[-1]) for name, times in seconds.items()]


def body(kind: Kind) -> bytes:
    return kind.file([kind.event(name, n) for n, name in enumerate(NAMES)])


def options(kind: Kind) -> list[str]:
    found = [f"--key={name}" for name in kind.key] + [f"--items={kind.items}"] * (kind.items is not None)
    return [*found, "--timespan=1h", f"--time={kind.time}", "--lateness=inf", "--strict"]


def written(done: Any) -> Rows:
    """The rows that the command has written."""
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(row["key"], row["count"], row["first_seen"], row["last_seen"]) for row in found]


async def posted(kind: Kind, data: bytes, path: str = "/") -> tuple[int, Rows]:
    """Post a body; return the status, and what was published."""
    out: list[Any] = []
    source = HttpSource(port=0, path=path, items=kind.items)
    key = kind.key if len(kind.key) > 1 else kind.key[0]
    compact = rxo.compact(3600, key_mapper=key, time_mapper=kind.time, lateness=float("inf"))
    pipeline = Pipeline(source, compact, rxo.publish(out.extend), max_age=10**9)
    async with aiohttp.ClientSession() as client, Orchestrator(pipeline, report=False):
        await source.listening()
        async with client.post(source.url, data=data) as answer:
            status = answer.status
    return status, [(json_value(each.key), each.count, each.first_seen, each.last_seen) for each in out]


@pytest.mark.parametrize("name", KINDS)
def test_a_log_of_every_kind_from_a_file_and_a_pipe(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    path = tmp_path / "log"
    path.write_bytes(body(kind))
    assert written(run_command("compact", *options(kind), path, given=b"")) == expected(kind)
    assert written(run_command("compact", *options(kind), given=body(kind))) == expected(kind)


@pytest.mark.parametrize("name", KINDS)
def test_a_log_of_every_kind_in_a_post(name: str) -> None:
    assert asyncio.run(posted(KINDS[name], body(KINDS[name]))) == (202, expected(KINDS[name]))


def test_i17_a_log_in_bulk_bodies() -> None:
    kind = KINDS["Auditbeat"]
    lines = [json.dumps(each) for n, name in enumerate(NAMES) for each in ({"create": {}}, kind.event(name, n))]
    assert asyncio.run(posted(kind, "\n".join([*lines, ""]).encode(), "/_bulk")) == (200, expected(kind))
