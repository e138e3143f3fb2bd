"""What common stores and services are sent: functions for ``body``, ``to_json`` and ``verdict`` of `HttpSink`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from rxcompact.client import failure, json_body, text_of
from rxcompact.events import Batch, Compacted
from rxcompact.fields import Field, members
from rxcompact.keys import encoder, json_value, plain
from rxcompact.sinks.encoding import event_id, flat_object, json_object
from rxcompact.sinks.http import known_errors

Body: TypeAlias = Callable[[Batch], tuple[bytes, str]]
CONFLICT = 409
TEAMS = re.compile(r"HTTP error (\d{3})")


def bulk(index: str, *, create: bool = False) -> Body:
    """Return the body for ``/_bulk`` of Elasticsearch and OpenSearch: flat rows, with `event_id` as their id.

    ``create`` is for data streams; with `created_once` as verdict a row that is there already counts as published.
    """
    action = "create" if create else "index"

    def body(batch: Batch) -> tuple[bytes, str]:
        actions = [{action: {"_index": index, "_id": event_id(each)}} for each in batch]
        rows = [{"@timestamp": datetime.fromtimestamp(_seconds(each), UTC), **flat_object(each)} for each in batch]
        lines = [line for pair in zip(actions, rows, strict=True) for line in pair]
        return encoder.encode_lines(lines), "application/x-ndjson"

    return body


def created_once(batch: Sequence[Compacted], status: int, answer: Any) -> Mapping[int, BaseException]:
    """Return `known_errors` but conflicts."""
    errors = known_errors(batch, status, answer) or {}
    return {position: error for position, error in errors.items() if getattr(error, "status", None) != CONFLICT}


def loki(labels: Sequence[str] = (), *, job: str = "rxcompact") -> Body:
    """Return the body for ``/loki/api/v1/push``: JSON lines, in a stream for each combination of the labels' fields."""
    fields = {re.sub(r"\W", "_", label): Field(label, "labels") for label in labels}

    def body(batch: Batch) -> tuple[bytes, str]:
        streams: dict[tuple[str, ...], list[list[str]]] = {}
        for each in batch:
            values = tuple(text_of(field(each.event)) or "" for field in fields.values())
            streams.setdefault(values, []).append([_nanoseconds(each), _text(json_object(each))])
        named = [({"job": job, **dict(zip(fields, values, strict=True))}, lines) for values, lines in streams.items()]
        return json_body({"streams": [{"stream": stream, "values": lines} for stream, lines in named]})

    return body


def splunk(compacted: Compacted) -> dict[str, Any]:
    """Return an event for ``/services/collector/event`` of Splunk, for ``to_json``."""
    return {"time": _seconds(compacted), "sourcetype": "_json", "event": flat_object(compacted)}


def kafka_records(batch: Batch) -> tuple[bytes, str]:
    """Return the body for ``/topics/TOPIC`` of Kafka's REST proxy (v2); the events' keys are those of the records."""
    records = [{"key": json_value(each.key), "value": json_object(each)} for each in batch]
    return json_body({"records": records})[0], "application/vnd.kafka.json.v2+json"


def otlp_logs(service: str) -> Body:
    """Return the body for ``/v1/logs`` of a collector of OpenTelemetry, in JSON: a record for each event."""

    def body(batch: Batch) -> tuple[bytes, str]:
        records = [
            {"timeUnixNano": _nanoseconds(each), "body": {"stringValue": _text(json_object(each))}} for each in batch
        ]
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
        return json_body({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]})

    return body


def teams(batch: Sequence[Compacted], status: int, answer: Any) -> Mapping[int, BaseException] | None:
    """Return `known_errors`, and raise what a webhook of Teams failed with, which answers 200 all the same."""
    if isinstance(answer, str) and (found := TEAMS.search(answer)):
        raise failure(int(found[1]), "the webhook", answer.encode())
    return known_errors(batch, status, answer)


def pagerduty(routing_key: str, summary: Callable[[Compacted], str], **payload: str) -> Callable[[Compacted], Any]:
    """Return what makes an alert of an event for ``/v2/enqueue``; those of one key are one alert.

    Args:
        routing_key: Of the service.
        summary: Returns the alert's title.
        payload: ``source``, ``severity`` and other members; by default "rxcompact" and "error".
    """

    def alert(compacted: Compacted) -> dict[str, Any]:
        row = json_object(compacted)
        shown = {
            "summary": summary(compacted)[:1024],
            "source": "rxcompact",
            "severity": "error",
            "custom_details": row,
        }
        identity = {"routing_key": routing_key, "event_action": "trigger", "dedup_key": _text(row["key"])[:255]}
        return {**identity, "payload": shown | payload}

    return alert


def influx_line(measurement: str, *, tags: Sequence[str] = ()) -> Callable[[Compacted], str]:
    """Return what makes a line of InfluxDB of an event, for ``HttpSink(format="lines", to_json=…)``.

    The fields that are no tags are the line's fields, beside the count; the time is ``first_seen``, in nanoseconds.
    """
    paths = {name: Field(name, "tags") for name in tags}

    def line(compacted: Compacted) -> str:
        found = {name: text_of(path(compacted.event)) for name, path in paths.items()}
        head = [f"{_escaped(name)}={_escaped(text)}" for name, text in found.items() if text]
        row = {name: plain(value) for name, value in {"count": compacted.count, **members(compacted.event)}.items()}
        fields = [(name, value) for name, value in row.items() if name not in paths and value is not None]
        values = ",".join(f"{_escaped(name)}={_influx(value)}" for name, value in fields)
        return f"{','.join([_escaped(measurement), *head])} {values} {_nanoseconds(compacted)}"

    return line


def _influx(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value) + ("i" if isinstance(value, int) else "")
    text = value if isinstance(value, str) else _text(value)
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _escaped(text: str) -> str:
    return re.sub(r"([,= \\])", r"\\\1", text.replace("\n", " "))


def _text(value: Any) -> str:
    return encoder.encode(value).decode()


def _seconds(compacted: Compacted) -> float:
    return time.time() if compacted.first_seen is None else compacted.first_seen


def _nanoseconds(compacted: Compacted) -> str:
    return f"{round(_seconds(compacted) * 1e6)}000"  # a double has no more digits
