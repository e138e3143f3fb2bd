"""The functions of `rxcompact.sinks.stores`, against servers that check the documented shape of what they are sent.

Those that are here for real are in `test_stores_for_real.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from shapes import Got, answering, batch, publish, real_time

from rxcompact import HttpSink, Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.events import Compacted
from rxcompact.operators.verdict import verdict
from rxcompact.sinks import stores
from rxcompact.sinks.encoding import event_id

EVENTS = batch({"host": "db1", "n": 1}, {"host": "web 1", "n": 2.5}, {"host": "db1", "n": 3})
BORN = "2023-11-14T22:13:20Z"
NANOSECONDS = "1700000000000000000"
WORDS = "the store's words"
SEEN = {"count": 2, "first_seen": 1.7e9, "last_seen": 1.7e9 + 5}


def words(compacted: Compacted) -> str:
    return f"{compacted.event['host']}: {compacted.count} times"


# ── each: its sink, what it is sent, the answers of success and of one event that failed ─────────────────────────────


def elasticsearch(got: Got) -> tuple[int, Any]:
    """https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk"""
    assert got.headers["Content-Type"] == "application/x-ndjson"
    assert got.body.endswith(b"\n")
    lines = got.lines
    items = []
    for action, row in zip(lines[::2], lines[1::2], strict=True):
        [(kind, where)] = action.items()
        assert where.keys() == {"_index", "_id"}
        assert datetime.fromisoformat(row["@timestamp"]).tzinfo == UTC
        bad = row.get("bad")
        error = {"error": {"type": "document_parsing_exception", "reason": WORDS}} if bad else {}
        items.append({kind: {"_index": where["_index"], "_id": where["_id"], "status": 400 if bad else 201, **error}})
    return 200, {"took": 3, "errors": any("error" in next(iter(item.values())) for item in items), "items": items}


def loki(got: Got) -> tuple[int, Any]:
    """https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs"""
    assert got.headers["Content-Type"] == "application/json"
    for stream in got.json["streams"]:
        assert all(re.fullmatch(r"[a-zA-Z_]\w*", name) and type(text) is str for name, text in stream["stream"].items())
        for at, line in stream["values"]:
            assert (at.isdecimal(), len(at), type(line)) == (True, 19, str)
            if '"bad":true' in line:
                return 400, WORDS
    return 204, b""


def splunk(got: Got) -> tuple[int, Any]:
    """https://docs.splunk.com/Documentation/Splunk/latest/Data/FormateventsforHTTPEventCollector"""
    assert got.headers["Authorization"] == "Splunk T"
    for number, row in enumerate(got.lines):
        assert row.keys() <= {"time", "host", "source", "sourcetype", "index", "event", "fields"}
        assert type(row["time"]) is float
        if row["event"].get("bad"):
            return 400, {"text": WORDS, "code": 6, "invalid-event-number": number}
    return 200, {"text": "Success", "code": 0}


def kafka(got: Got) -> tuple[int, Any]:
    """https://docs.confluent.io/platform/current/kafka-rest/api.html#post--topics-(string-topic_name)"""
    assert got.headers["Content-Type"] == "application/vnd.kafka.json.v2+json"
    assert got.headers["Accept"] == "application/vnd.kafka.v2+json"
    offsets = [
        {"partition": None, "offset": None, "error_code": 1, "error": WORDS}
        if record["value"]["event"].get("bad")
        else {"partition": 0, "offset": number, "error_code": None, "error": None}
        for number, record in enumerate(got.json["records"])
        if record.keys() == {"key", "value"}
    ]
    return 200, {"offsets": offsets, "key_schema_id": None, "value_schema_id": None}


def opentelemetry(got: Got) -> tuple[int, Any]:
    """https://opentelemetry.io/docs/specs/otlp/#otlphttp-request"""
    [resource] = got.json["resourceLogs"]
    [attribute] = resource["resource"]["attributes"]
    assert attribute == {"key": "service.name", "value": {"stringValue": "alerts"}}
    [scope] = resource["scopeLogs"]
    for record in scope["logRecords"]:
        assert (len(record["timeUnixNano"]), type(record["body"]["stringValue"])) == (19, str)
    bad = sum('"bad":true' in record["body"]["stringValue"] for record in scope["logRecords"])
    return 200, {"partialSuccess": {"rejectedLogRecords": str(bad), "errorMessage": WORDS}} if bad else {}


def slack(got: Got) -> tuple[int, Any]:
    """https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks"""
    assert got.json.keys() == {"text"}
    return (400, WORDS) if "bad" in got.json["text"] else (200, "ok")


def teams(got: Got) -> tuple[int, Any]:
    """https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using"""
    failed = f"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 400 {WORDS}"
    return 200, failed if "bad" in got.json["text"] else "1"


def pagerduty(got: Got) -> tuple[int, Any]:
    """https://developer.pagerduty.com/docs/events-api-v2/trigger-events/"""
    alert = got.json
    assert (alert["routing_key"], alert["event_action"]) == ("R", "trigger")
    assert len(alert["dedup_key"]) <= 255
    assert {"summary", "source", "severity"} <= alert["payload"].keys()
    assert alert["payload"]["severity"] in ("critical", "error", "warning", "info")
    if "bad" in alert["payload"]["summary"]:
        return 400, {"status": "invalid event", "message": WORDS, "errors": []}
    return 202, {"status": "success", "message": "Event processed", "dedup_key": alert["dedup_key"]}


def summary(compacted: Compacted) -> str:
    return "bad" if compacted.event.get("bad") else "down"


TOKEN, ACCEPT = {"Authorization": "Splunk T"}, {"Accept": "application/vnd.kafka.v2+json"}
MESSAGE: Any = {"format": "object", "to_json": lambda compacted: {"text": summary(compacted)}}
STORES: dict[str, tuple[dict[str, Any], Callable[[Got], tuple[int, Any]]]] = {
    "elasticsearch": ({"body": stores.bulk("alerts")}, elasticsearch),
    "data stream": ({"body": stores.bulk("alerts", create=True), "verdict": stores.created_once}, elasticsearch),
    "loki": ({"body": stores.loki(["host"])}, loki),
    "splunk": ({"to_json": stores.splunk, "headers": TOKEN}, splunk),
    "kafka": ({"body": stores.kafka_records, "headers": ACCEPT}, kafka),
    "opentelemetry": ({"body": stores.otlp_logs("alerts")}, opentelemetry),
    "slack": (MESSAGE, slack),
    "teams": (MESSAGE | {"verdict": stores.teams}, teams),
    "pagerduty": ({"format": "object", "to_json": stores.pagerduty("R", summary)}, pagerduty),
}


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("store", STORES)
@real_time
async def test_w6_a_store_takes_its_shape(store: str, gzip: bool) -> None:
    options, shape = STORES[store]
    async with answering(shape) as server:
        assert await publish(HttpSink(server.url, gzip=gzip, **options), EVENTS) is None
    assert all(got.method == "POST" and got.headers.get("Content-Encoding") == ("gzip" if gzip else None)
               for got in server.got)  # fmt: skip


@pytest.mark.parametrize("store", STORES)
@real_time
async def test_w3_w6_a_poison_row_is_one_dead_letter_with_the_words_of_the_store(store: str) -> None:
    options, shape = STORES[store]
    letters: list[Any] = []
    events = [{"host": f"h{n}", "n": n} | ({"bad": True} if n == 77 else {}) for n in range(100)]
    async with answering(shape) as server:
        pipeline = Pipeline(
            events,
            rxo.compact(0.01, key_mapper="host"),
            rxo.publish(HttpSink(server.url, **options), count=40, wait=0.01),
            max_age=10,
        )
        async with Orchestrator(pipeline, report=False) as orchestrator:
            orchestrator.dead_letters.subscribe(letters.append)
            account = (await orchestrator.wait()).account
    assert (account.published, account.failed) == (99, 1)
    assert [letter.event.key for letter in letters] == ["h77"]
    assert WORDS in str(letters[0].error)


@pytest.mark.parametrize("store", STORES)
@real_time
async def test_w4_a_busy_store_is_waited_for(store: str) -> None:
    options, _ = STORES[store]
    async with answering((429, "slow down")) as server:
        came = await publish(HttpSink(server.url, **options), EVENTS[:1])
    error = came[0] if isinstance(came, dict) else came
    assert verdict(error) == "rate limited"


def test_w6_rows_of_elasticsearch_have_ids() -> None:
    body, _ = stores.bulk("alerts")(EVENTS)
    assert [json.loads(line) for line in body.splitlines()[:2]] == [
        {"index": {"_index": "alerts", "_id": event_id(EVENTS[0])}},
        {"@timestamp": BORN, "host": "db1", "n": 1, **SEEN},
    ]


@real_time
async def test_w6_conflicts_of_a_data_stream_are_published() -> None:
    items = [{"create": {"status": status, "error": {"reason": "x"}}} for status in (409, 409, 400)]
    async with answering((200, {"errors": True, "items": items})) as server:
        body = stores.bulk("alerts", create=True)
        assert [*await publish(HttpSink(server.url, body=body, verdict=stores.created_once), EVENTS)] == [2]
        assert [*await publish(HttpSink(server.url, body=body), EVENTS)] == [0, 1, 2]


def test_w6_streams_of_loki_are_those_of_its_labels() -> None:
    streams = json.loads(stores.loki(["host", "k8s.pod-name"], job="j")(EVENTS)[0])["streams"]
    assert [each["stream"] for each in streams] == [
        {"job": "j", "host": "db1", "k8s_pod_name": ""}, {"job": "j", "host": "web 1", "k8s_pod_name": ""}
    ]  # fmt: skip
    assert [[at for at, _ in each["values"]] for each in streams] == [[NANOSECONDS] * 2, [NANOSECONDS]]


def test_w6_one_alert_for_each_key() -> None:
    alerts = [stores.pagerduty("R", words, severity="critical", group="g")(each) for each in EVENTS]
    assert [(alert["dedup_key"], alert["payload"]["summary"]) for alert in alerts] == [
        ("0", "db1: 2 times"), ("1", "web 1: 2 times"), ("2", "db1: 2 times")
    ]  # fmt: skip
    assert {"source": "rxcompact", "severity": "critical", "group": "g"}.items() <= alerts[0]["payload"].items()


@pytest.mark.parametrize("code", [429, 503])
@real_time
async def test_w3_teams_answers_200_and_means_no(code: int) -> None:
    text = f"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error {code} with x"
    async with answering((200, text)) as server:
        error = await publish(HttpSink(server.url, **STORES["teams"][0]), EVENTS[:1])
    assert (error.status, verdict(error)) == (code, "rate limited" if code == 429 else "transient")


LINES: dict[str, tuple[Any, str]] = {
    "fields": ({"host": "db1", "n": 1, "x": 2.5, "ok": True, "no": None}, "cpu,host=db1 count=2i,n=1i,x=2.5,ok=true"),
    "escapes": ({"host": "a b,c=d\\e", "s": 'is "x" \\'}, 'cpu,host=a\\ b\\,c\\=d\\\\e count=2i,s="is \\"x\\" \\\\"'),
    "no tag": ({"n": 1}, "cpu count=2i,n=1i"),
    "empty tag": ({"host": "", "n": 1}, "cpu count=2i,n=1i"),
    "newlines": ({"host": "a\nb", "s": "c\nd"}, 'cpu,host=a\\ b count=2i,s="c\nd"'),
    "nested": ({"host": 7, "o": {"a": [1]}}, 'cpu,host=7 count=2i,o="{\\"a\\":[1]}"'),
    "names": ({"host": "a", "my field": 1}, "cpu,host=a count=2i,my\\ field=1i"),
    "JSON text": (b'{"host":"a","n":1e3}', "cpu,host=a count=2i,n=1000.0"),
    "nan": ({"host": "a", "n": float("nan")}, "cpu,host=a count=2i"),
}


@pytest.mark.parametrize("case", LINES)
def test_w12_a_line_of_influxdb(case: str) -> None:
    event, line = LINES[case]
    assert stores.influx_line("cpu", tags=["host"])(batch(event)[0]) == f"{line} {NANOSECONDS}"
