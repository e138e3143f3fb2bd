"""What a store's answer means for the events of a batch: a success may be none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from rxcompact.client import excerpt, failure, is_html
from rxcompact.errors import AnswerError, PermanentError, RateLimitedError, TransientError
from rxcompact.events import Compacted
from rxcompact.fields import Field
from rxcompact.operators.verdict import code_verdict

Verdict: TypeAlias = Callable[[Sequence[Compacted], int, Any], Mapping[int, BaseException] | None]
"""A function of batch, status and answer: the error of each position that was not taken; raising means none was.

The answer is JSON, decoded, else text.
"""
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
            return {_position(each, position, batch): error_of(each) or unknown for each in answer[name]}
    if status == MULTI_STATUS:
        results = (each for each in answer.values() if isinstance(each, list) and len(each) == len(batch))
        return _errors_of(batch, next(results, None))
    if whole := _error_of_all(answer):
        raise whole
    return None


def item_errors(name: str) -> Verdict:
    """Return a verdict for answers with a result for each event, in a list at this path."""
    field = Field(name)
    return lambda batch, _, answer: _errors_of(batch, field(answer))


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


def _position(result: Any, name: str, batch: Sequence[Compacted]) -> int:
    position = result.get(name) if isinstance(result, dict) else None
    if str(position).isdecimal() and int(str(position)) < len(batch):
        return int(str(position))
    raise TransientError(f"answer has an error of an unknown event: {position!r}")
