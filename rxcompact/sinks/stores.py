"""Sinks for common stores and services: each an `HttpSink` with the body, the address and the verdict that it needs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from ssl import SSLContext
from typing import Any, TypedDict

from typing_extensions import Unpack
from yarl import URL

from rxcompact.client import Headers, failure, json_body, text_of
from rxcompact.events import Batch, Compacted
from rxcompact.fields import Field, members
from rxcompact.keys import encoder, json_value, plain
from rxcompact.sinks.answers import known_errors
from rxcompact.sinks.encoding import event_id, flat_object, json_object
from rxcompact.sinks.http import HttpSink

CONFLICT = 409
TEAMS = re.compile(r"HTTP error (\d{3})")


class Options(TypedDict, total=False):
    """Options of `HttpSink` that each of them takes."""

    headers: Headers | None
    gzip: bool
    ssl: SSLContext | None
    max_concurrent: int


def elasticsearch(url: str, index: str, *, create: bool = False, **options: Unpack[Options]) -> HttpSink:
    """Return a sink that indexes flat rows with `event_id` as their id: Elasticsearch's and OpenSearch's bulk API.

    Args:
        url: Of the server.
        index: An index; or a data stream, with ``create``.
        create: Write no row twice: one that is there already counts as published.
        options: Of `HttpSink`.
    """

    def body(batch: Batch) -> tuple[bytes, str]:
        lines: list[Any] = []
        for each in batch:
            action = {"_index": index, "_id": event_id(each)}
            lines += {"create" if create else "index": action}, {"@timestamp": _iso(each), **flat_object(each)}
        return encoder.encode_lines(lines), "application/x-ndjson"

    def verdict(batch: Sequence[Compacted], status: int, answer: Any) -> Mapping[int, BaseException]:
        wrong = known_errors(batch, status, answer) or {}
        return {at: error for at, error in wrong.items() if getattr(error, "status", None) != CONFLICT or not create}

    return HttpSink(f"{url.rstrip('/')}/_bulk", body=body, verdict=verdict, **options)


def clickhouse(url: str, table: str, **options: Unpack[Options]) -> HttpSink:
    """Return a sink that inserts flat rows; `date_time_input_format` lets ClickHouse read ISO times."""
    query = {"query": f"INSERT INTO {table} FORMAT JSONEachRow", "date_time_input_format": "best_effort"}
    return HttpSink(str(URL(url) % query), to_json=flat_object, **options)


def influx_line(measurement: str, *, tags: Sequence[str] = ()) -> Callable[[Compacted], str]:
    """Return what makes a line of InfluxDB of an event, for ``HttpSink(format="lines", to_json=…)``.

    The fields that are no tags are the line's fields, beside the count; the time is ``first_seen``, in nanoseconds.
    """
    paths = [(name, Field(name, "tags")) for name in tags]

    def line(compacted: Compacted) -> str:
        found = [(name, text_of(path(compacted.event))) for name, path in paths]
        head = ",".join(
            [_escaped(measurement), *(f"{_escaped(name)}={_escaped(text)}" for name, text in found if text)]
        )
        row = {name: plain(value) for name, value in {"count": compacted.count, **members(compacted.event)}.items()}
        fields = {name: value for name, value in row.items() if name not in tags and value is not None}
        values = [f"{_escaped(name)}={_influx(value)}" for name, value in fields.items()]
        return f"{head} {','.join(values)} {_nanoseconds(compacted)}"

    return line


def loki(url: str, labels: Sequence[str] = (), *, job: str = "rxcompact", **options: Unpack[Options]) -> HttpSink:
    """Return a sink that pushes events as JSON lines, in a stream for each combination of the fields in `labels`."""
    names = [re.sub(r"\W", "_", label) for label in labels]
    fields = [Field(label, "labels") for label in labels]

    def body(batch: Batch) -> tuple[bytes, str]:
        streams: dict[tuple[str, ...], list[list[str]]] = {}
        for each in batch:
            stream = tuple(text_of(field(each.event)) or "" for field in fields)
            streams.setdefault(stream, []).append([_nanoseconds(each), _text(json_object(each))])
        return json_body(
            {
                "streams": [
                    {"stream": {"job": job, **dict(zip(names, stream, strict=True))}, "values": lines}
                    for stream, lines in streams.items()
                ]
            }
        )

    return HttpSink(f"{url.rstrip('/')}/loki/api/v1/push", body=body, **options)


def splunk(url: str, token: str, *, sourcetype: str = "_json", **options: Unpack[Options]) -> HttpSink:
    """Return a sink that sends flat rows to Splunk's HTTP Event Collector."""

    def row(compacted: Compacted) -> dict[str, Any]:
        return {"time": compacted.first_seen, "sourcetype": sourcetype, "event": flat_object(compacted)}

    options.setdefault("headers", {"Authorization": f"Splunk {token}"})
    return HttpSink(f"{url.rstrip('/')}/services/collector/event", to_json=row, **options)


def kafka_rest(url: str, topic: str, **options: Unpack[Options]) -> HttpSink:
    """Return a sink that produces to a topic by Kafka's REST proxy (v2), with the events' keys as the records'."""

    def body(batch: Batch) -> tuple[bytes, str]:
        records = [{"key": json_value(each.key), "value": json_object(each)} for each in batch]
        return json_body({"records": records})[0], "application/vnd.kafka.json.v2+json"

    options.setdefault("headers", {"Accept": "application/vnd.kafka.v2+json"})
    return HttpSink(f"{url.rstrip('/')}/topics/{topic}", body=body, **options)


def otlp_logs(url: str, service: str, **options: Unpack[Options]) -> HttpSink:
    """Return a sink that exports a log record for each event to a collector of OpenTelemetry, by OTLP/HTTP as JSON."""

    def record(compacted: Compacted) -> dict[str, Any]:
        attributes = _attributes({"key": json_value(compacted.key), "count": compacted.count})
        body = {"stringValue": _text(json_object(compacted)["event"])}
        return {"timeUnixNano": _nanoseconds(compacted), "body": body, "attributes": attributes}

    def body(batch: Batch) -> tuple[bytes, str]:
        logs = [{"scope": {"name": "rxcompact"}, "logRecords": list(map(record, batch))}]
        resource = {"attributes": _attributes({"service.name": service})}
        return json_body({"resourceLogs": [{"resource": resource, "scopeLogs": logs}]})

    return HttpSink(f"{url.rstrip('/')}/v1/logs", body=body, **options)


def webhook(url: str, text: Callable[[Compacted], str], **options: Unpack[Options]) -> HttpSink:
    """Return a sink that posts a message for each event to an incoming webhook of Slack, Teams or Mattermost."""

    def verdict(batch: Sequence[Compacted], status: int, answer: Any) -> Mapping[int, BaseException] | None:
        if isinstance(answer, str) and (found := TEAMS.search(answer)):  # Teams answers 200 all the same
            raise failure(int(found[1]), "the webhook", answer.encode())
        return known_errors(batch, status, answer)

    return HttpSink(url, format="object", to_json=lambda each: {"text": text(each)}, verdict=verdict, **options)


def pagerduty(
    routing_key: str,
    summary: Callable[[Compacted], str],
    *,
    source: str = "rxcompact",
    severity: str = "error",
    url: str = "https://events.pagerduty.com/v2/enqueue",
    **options: Unpack[Options],
) -> HttpSink:
    """Return a sink that triggers an alert for each event; those of one key are one alert."""

    def alert(compacted: Compacted) -> dict[str, Any]:
        details = json_object(compacted)
        payload = {
            "summary": summary(compacted)[:1024],
            "source": source,
            "severity": severity,
            "custom_details": details,
        }
        key = _text(details["key"])[:255]
        return {"routing_key": routing_key, "event_action": "trigger", "dedup_key": key, "payload": payload}

    return HttpSink(url, format="object", to_json=alert, **options)


def _text(value: Any) -> str:
    return encoder.encode(value).decode()


def _seconds(compacted: Compacted) -> float:
    return time.time() if compacted.first_seen is None else compacted.first_seen


def _iso(compacted: Compacted) -> str:
    return datetime.fromtimestamp(_seconds(compacted), UTC).isoformat()


def _nanoseconds(compacted: Compacted) -> str:
    return f"{round(_seconds(compacted) * 1e6)}000"  # a double has no more digits


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": {"stringValue": text_of(value) or ""}} for name, value in values.items()]


def _escaped(text: str) -> str:
    return re.sub(r"([,= \\])", r"\\\1", text.replace("\n", " "))


def _influx(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value) + ("i" if isinstance(value, int) else "")
    text = value if isinstance(value, str) else _text(value)
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
