"""Posts batches to an HTTP API."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import msgspec
from multidict import CIMultiDict

from rxcompact.client import KIB, SUCCESS, Client, absolute_url, failure, is_html
from rxcompact.errors import ArgumentError, TransientError
from rxcompact.events import Batch, Compacted
from rxcompact.sinks.encoding import encoded, encoder, json_object


def _lines(texts: list[str]) -> bytes:
    return "\n".join([*texts, ""]).encode()


FORMATS: dict[str, tuple[str, Callable[[list[Any]], bytes]]] = {
    "ndjson": ("application/x-ndjson", encoder.encode_lines),
    "array": ("application/json", encoder.encode),
    "lines": ("text/plain; charset=utf-8", _lines),
}


class _Item(msgspec.Struct):
    status: int


class _Bulk(msgspec.Struct):  # what Elasticsearch and compatible stores answer
    items: list[dict[str, _Item]]
    errors: bool


_bulk = msgspec.json.Decoder(_Bulk)


@dataclass(eq=False, repr=False)
class HttpSink:
    """Posts each batch as NDJSON or as an array, with an idempotency key.

    Where an answer lists a result for each event, as that of Elasticsearch's bulk API does, only the events that failed
    are retried, or fail.

    Args:
        url: URL of the posts.
        format: ``"ndjson"``, ``"array"``, or ``"lines"``: of text, as for InfluxDB or Graphite, given by ``to_json``.
        to_json: Returns what is sent for a `Compacted`; by default all its fields. `flat_object` returns a row.
        gzip: Compress the body.
        headers: Headers of the request, such as credentials; they replace those of the sink.
        idempotency_header: Name of the header with the key.
        max_concurrent: Connections at once.

    Source:
        https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk
    """

    url: str
    _: KW_ONLY
    format: Literal["ndjson", "array", "lines"] = "ndjson"
    to_json: Callable[[Compacted], Any] = json_object
    gzip: bool = False
    headers: Mapping[str, str] | None = None
    idempotency_header: str = "Idempotency-Key"
    max_concurrent: int = 10

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ArgumentError("format", self.format, f"one of {', '.join(map(repr, FORMATS))}")
        if self.format == "lines" and self.to_json is json_object:
            raise ArgumentError("to_json", self.to_json, 'a function that returns a line, where format is "lines"')
        self._url = absolute_url("url", self.url)
        content_type, self._encode = FORMATS[self.format]
        self._headers = CIMultiDict({"Content-Type": content_type})
        if self.gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._headers.update(self.headers or {})
        self._client = Client(limit=self.max_concurrent)

    async def publish(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException] | None:
        """Post a batch; return the error of each position that was not taken.

        Raises:
            TransientError: for a failure that a retry may mend; `RateLimitedError` for 429.
            PermanentError: for any other.
            aiohttp.ClientError: when there was no answer. The batch may have been stored all the same.
        """
        body, failed = encoded(batch, self.to_json, self._encode)
        if len(failed) == len(batch):
            return failed
        longest = 2 * len(body) + KIB * len(batch)  # a store may answer with the events themselves
        if self.gzip:
            body = zlib.compress(body, wbits=31)
        headers = {**self._headers, self.idempotency_header: Batch.of(batch).idempotency_key}
        _, _, answer = await self._client.request("POST", self._url, data=body, headers=headers, max_answer=longest)
        if is_html(answer):
            raise TransientError(f"answer is an HTML page, not that of a store: {self._url.origin()}")
        sent = [position for position in range(len(batch)) if position not in failed]
        return (failed | dict(self._failed(sent, answer))) or None

    def _failed(self, sent: Sequence[int], answer: bytes) -> Iterator[tuple[int, BaseException]]:
        """Yield the positions of the events that an answer names as failed, and their errors."""
        try:
            bulk = _bulk.decode(answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            with suppress(ValueError, RecursionError):
                found = json.loads(answer)  # which decodes more
                if isinstance(found, dict) and found.get("errors") is True and isinstance(found.get("items"), list):
                    raise TransientError("answer has errors in an unknown form") from None
            return  # no bulk answer
        if not bulk.errors:
            return
        if len(bulk.items) != len(sent):
            raise TransientError(f"answer has results for {len(bulk.items)} events, not {len(sent)}")
        for position, item in zip(sent, bulk.items, strict=True):
            for result in item.values():
                if result.status not in SUCCESS:
                    yield position, failure(result.status, self._url.origin())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
