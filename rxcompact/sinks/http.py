"""Posts batches to an HTTP API, and what a store's answer means for their events: a success may be none."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rxcompact.client import KIB, Client, excerpt, failure, is_html
from rxcompact.errors import AnswerError, ArgumentError, PermanentError, RateLimitedError, TransientError
from rxcompact.events import Batch, Compacted
from rxcompact.keys import encoder
from rxcompact.operators.verdict import code_verdict
from rxcompact.sinks.encoding import encoded, json_object

FORMATS: dict[str, tuple[str, Callable[[list[Any]], bytes]]] = {
    "ndjson": ("application/x-ndjson", encoder.encode_lines),
    "array": ("application/json", encoder.encode),
    "object": ("application/json", lambda objects: b"".join(map(encoder.encode, objects))),
    "lines": ("text/plain; charset=utf-8", lambda texts: "\n".join([*texts, ""]).encode()),
}

Verdict: TypeAlias = Callable[[Sequence[Compacted], int, Any], Mapping[int, BaseException] | None]
"""A function of batch, status and answer (decoded JSON, else text): the error of each position that was not taken;
raising means none was."""
LISTS = {
    "items": "errors",
    "Records": "FailedRecordCount",
    "RequestResponses": "FailedPutCount",
    "Entries": "FailedEntryCount",
    "offsets": "offsets",
}
"""Members with a result for each event, and what shows that some failed: Elasticsearch, AWS, Kafka's REST proxy."""
NUMBERED = {"insertErrors": "index", "Failed": "Id"}
"""Members with the events that failed, and what has their positions: BigQuery, SQS."""
CODES = ("ErrorCode", "Code", "code", "error_code", "status", "statusCode", "status_code")
ERRORS = ("error", "errors", "ErrorCode", "Code")  # members that are there for errors alone
WORDS = ("error", "ErrorMessage", "Message", "message", "errors", "reason", "description", "detail")
KAFKA = {1: 400, 2: 503}  # codes of errors of Kafka's REST proxy, which may pass or not, as HTTP statuses
MULTI_STATUS = 207
UNKNOWN = "answer has errors in an unknown form"
INFORMATION_OR_SUCCESS = range(100, 300)


def known_errors(batch: Sequence[Compacted], status: int, answer: Any) -> Mapping[int, BaseException] | None:
    """Return what an answer of a known form means: a result for each event, or for all of them.

    Known are a status of 207, ``{"ok": false}``, an HTML page, and the answers of Elasticsearch, Kinesis, Firehose,
    EventBridge, SQS, BigQuery, Kafka's REST proxy, GraphQL, JSON-RPC, webdis and OpenTelemetry.

    Raises:
        TransientError, PermanentError: when no event was taken.
    """
    if isinstance(answer, str) and is_html(answer.encode()):
        raise TransientError("answer is an HTML page, not that of a store")
    if not isinstance(answer, dict):
        return _errors_of(batch, answer) if status == MULTI_STATUS else None
    for name, flag in LISTS.items():
        if answer.get(name) and isinstance(answer[name], list) and answer.get(flag):
            return _errors_of(batch, answer[name], flagged=flag != name)
    for name, position in NUMBERED.items():
        if answer.get(name) and isinstance(answer[name], list):
            unknown = TransientError(UNKNOWN)
            try:
                return {range(len(batch))[int(each[position])]: error_of(each) or unknown for each in answer[name]}
            except (LookupError, TypeError, ValueError):
                raise TransientError(f"answer has errors of unknown events: {excerpt(str(answer[name]))}") from None
    if status == MULTI_STATUS:
        results = (each for each in answer.values() if isinstance(each, list) and len(each) == len(batch))
        return _errors_of(batch, next(results, None))
    if whole := _error_of_all(answer):
        raise whole
    return None


def _errors_of(batch: Sequence[Compacted], results: Any, *, flagged: bool = False) -> Mapping[int, BaseException]:
    if not isinstance(results, list):
        raise AnswerError("answer has no result for each event that is understood: give HttpSink a verdict=")
    if len(results) != len(batch):
        raise TransientError(f"answer has results for {len(results)} events, not {len(batch)}")
    errors = {position: error for position, each in enumerate(results) if (error := error_of(each)) is not None}
    if flagged and not errors:
        raise TransientError(UNKNOWN)
    return errors


def error_of(result: Any) -> TransientError | PermanentError | None:
    """Return the error of one event's result, by its status, its code, or a member that is only there for errors."""
    if isinstance(result, dict) and len(result) == 1:
        result = next((each for each in result.values() if isinstance(each, dict)), result)  # {"index": {…}}
    if not isinstance(result, dict):
        return None
    words = next((result[name] for name in WORDS if result.get(name)), "")
    text = excerpt(words if isinstance(words, str) else json.dumps(words, ensure_ascii=False))
    codes = [code for name in CODES if (code := result.get(name))]
    status = next((code for code in codes if type(code) is int), None)
    is_no = False in (result.get("ok"), result.get("success"))
    if status is not None:
        status = KAFKA.get(status, int(str(status)[:3]))  # some add digits of their own
        if status not in INFORMATION_OR_SUCCESS:
            return failure(status, "an event's result", text.encode("utf-8", "replace"))
        if not is_no:
            return None
    if isinstance(words, list) and isinstance(words[0], dict):
        codes.append(words[0].get("reason"))  # of BigQuery
    code = next((code for code in [*codes, words] if isinstance(code, str) and code_verdict(code)), "")
    meaning = "transient" if result.get("SenderFault") is False else code_verdict(code)
    text = ": ".join(dict.fromkeys(filter(None, [code or result.get("ErrorCode") or result.get("Code"), text])))
    if meaning == "rate limited":
        return RateLimitedError(text)
    if meaning in ("denied", "transient"):
        return TransientError(text)
    is_error = is_no or any(result.get(name) for name in ERRORS)
    return PermanentError(text or "the store did not take it") if is_error else None


def _error_of_all(answer: Mapping[str, Any]) -> TransientError | PermanentError | None:
    partial = answer.get("partialSuccess")  # of OpenTelemetry
    if isinstance(partial, dict) and partial.get("rejectedLogRecords", "0") not in (0, "0"):
        return PermanentError(excerpt(f"{partial['rejectedLogRecords']} rejected: {partial.get('errorMessage')}"))
    [first, *others] = answer.values() or [None]
    if not others and isinstance(first, list) and first[:1] == [False]:  # of webdis
        return PermanentError(excerpt(" ".join(map(str, first[1:]))))
    is_no = answer.get("ok") is False and (len(answer) == 1 or any(name in answer for name in WORDS))
    listed = answer.get("errors")
    is_graphql = isinstance(listed, list) and listed and isinstance(listed[0], dict) and "message" in listed[0]
    is_kafka = type(answer.get("error_code")) is int and "message" in answer
    if is_no or is_graphql or is_kafka or ("jsonrpc" in answer and answer.get("error")):
        return error_of(answer)
    return None


@dataclass(kw_only=True, eq=False, repr=False)
class HttpSink(Client):
    """Posts each batch in a format, or as a function makes it, with an idempotency key.

    ::

        batch    [a b c]
        request  POST /_bulk  a, b and c, a line each
        answer   200 {"errors": true, "items": [201, 429, 400]}
        outcome  a is published, b is sent again, c has failed

    Args:
        url: Where to; a template with names of fields in braces, for a request of its own for each event; or a function
            of the batch.
        format: ``"ndjson"``, ``"array"``, ``"object"`` for a request of its own for each event, or ``"lines"`` of text,
            as for InfluxDB or Graphite, given by ``to_json``.
        to_json: Returns what is sent for a `Compacted`; by default all its fields. `flat_object` returns a row.
        body: Makes a batch into bytes and their content type, instead of these two.
        method: Method of the request.
        headers: Headers such as credentials, or a function of a `Request` that returns some, such as a signature; they
            replace those of the sink.
        gzip: Compress the body.
        ssl: Certificates of its own and of authorities.
        verdict: A function of batch, status and decoded answer of a success: the error of each position that was not
            taken. By default what `known_errors` finds.
        idempotency_header: Name of the header with the key.
        max_concurrent: Connections at once; at least the ``max_concurrent`` of `publish`.
        max_answer: Bytes of the longest answer, where that is more than twice the request.
        max_batch: Events in a request.

    Raises:
        ArgumentError: for an argument that can never work.
    """

    method: str = "POST"
    format: Literal["ndjson", "array", "object", "lines"] = "ndjson"
    to_json: Callable[[Compacted], Any] = json_object
    body: Callable[[Batch], tuple[bytes, str]] | None = None
    gzip: bool = False
    verdict: Verdict = known_errors
    idempotency_header: str = "Idempotency-Key"
    max_batch: int | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ArgumentError("format", self.format, f"one of {', '.join(map(repr, FORMATS))}")
        if self.format == "lines" and self.to_json is json_object and self.body is None:
            raise ArgumentError("to_json", self.to_json, 'a function that returns a line, where format is "lines"')
        super().__post_init__()
        self.target = self.host
        if self.format == "object" or (isinstance(self.url, str) and "{" in self.url):
            self.max_batch = 1

    async def publish(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException] | None:
        """Post a batch; return the error of each position not taken, or raise as `HttpEnricher.lookup` does."""
        if self.max_batch == 1 and len(batch) > 1:  # of a caller who makes batches
            results = await asyncio.gather(*(self.publish((each,)) for each in batch), return_exceptions=True)
            each_error = (each.get(0) if isinstance(each, Mapping) else each for each in results)
            return {position: error for position, error in enumerate(each_error) if error is not None} or None
        batch, failed = Batch(batch), dict[int, BaseException]()
        if self.body is not None:
            body, content_type = self.body(batch)
        else:
            content_type, encode = FORMATS[self.format]
            body, failed = encoded(batch, self.to_json, encode)
            if len(failed) == len(batch):
                return failed
        headers = {"Content-Type": content_type, self.idempotency_header: batch.idempotency_key}
        longest = 2 * len(body) + KIB * len(batch)  # a store may answer with the events themselves
        url = self.url_of(batch[0].event if isinstance(self.url, str) else batch)
        if self.gzip:  # on another thread: a large body takes long
            body = await asyncio.to_thread(zlib.compress, body, wbits=31)
            headers["Content-Encoding"] = "gzip"
        answer: Any
        status, _, answer = await self.request(url, body, headers, max_answer=longest)
        with suppress(ValueError, RecursionError):
            answer = json.loads(answer)  # which decodes more than msgspec
        answer = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
        sent = [position for position in range(len(batch)) if position not in failed]
        wrong = self.verdict(batch if not failed else Batch(batch[each] for each in sent), status, answer)
        return (failed | {sent[position]: error for position, error in (wrong or {}).items()}) or None
