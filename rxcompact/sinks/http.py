"""Posts batches to an HTTP API."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from yarl import URL

from rxcompact.client import KIB, Client, failure, origin
from rxcompact.errors import ArgumentError, TransientError
from rxcompact.events import Batch, Compacted
from rxcompact.sinks.ndjson import encoded, encoder, json_object

TOO_LARGE = 413


class _Item(msgspec.Struct):
    status: int


class _Bulk(msgspec.Struct):
    """What Elasticsearch and its like answer to a batch of which they took a part."""

    items: list[dict[str, _Item]]
    errors: bool


_bulk = msgspec.json.Decoder(_Bulk)


def _has_errors(answer: bytes) -> bool:
    """Tell whether a bulk answer that could not be decoded speaks of errors. The standard library takes more."""
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("errors") is True and isinstance(said.get("items"), list)


class HttpSink:
    """Posts each batch as NDJSON or as an array, with an idempotency key.

    Where an answer says what became of each event, as that of Elasticsearch's bulk API does, only those that failed are
    tried again, or rejected.

    Args:
        url: Where to.
        format: ``"ndjson"`` or ``"array"``.
        to_json: Makes of a `Compacted` what is sent; by default all its fields.
        gzip: Pack the body.
        headers: Of the request, such as credentials.
        idempotency_header: The name of the header that carries the key.
        split_on: Statuses at which a batch is halved, to find what they are about: too large (413), and for a store
            that answers 500 to a row that it cannot parse, 500. While it answers so to everything, that makes an
            attempt twice as many posts as there are events.
        max_concurrent: Connections at once.

    Source:
        https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk
    """

    def __init__(
        self,
        url: str,
        *,
        format: Literal["ndjson", "array"] = "ndjson",  # noqa: A002 - the field's word
        to_json: Callable[[Compacted], Any] = json_object,
        gzip: bool = False,
        headers: Mapping[str, str] | None = None,
        idempotency_header: str = "Idempotency-Key",
        split_on: Collection[int] = (TOO_LARGE,),
        max_concurrent: int = 10,
    ) -> None:
        self._url = URL(url)
        if self._url.host is None:
            raise ArgumentError("url", url, "an absolute URL")
        if format not in ("ndjson", "array"):
            raise ArgumentError("format", format, '"ndjson" or "array"')
        self._encode = encoder.encode_lines if format == "ndjson" else encoder.encode
        self._to_json = to_json
        self._gzip = gzip
        self._idempotency_header = idempotency_header
        self._split_on = frozenset(split_on)
        self._headers = {"Content-Type": "application/x-ndjson" if format == "ndjson" else "application/json"}
        if gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._client = Client(limit=max_concurrent, headers=headers, max_answer=1024 * KIB)

    async def publish(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException] | None:
        """Post a batch; return the error of each position that was not taken.

        Raises:
            TransientError: for an answer that may be another later; `RateLimitedError` for 429.
            PermanentError: for one that will not.
            aiohttp.ClientError: when there was no answer. It may have been taken all the same.
        """
        body, failed = encoded(batch, self._to_json, self._encode)
        if len(failed) == len(batch):
            return failed
        longest = 2 * len(body) + KIB * len(batch)  # a store may answer with what it took
        if self._gzip:
            body = zlib.compress(body, wbits=31)
        headers = self._headers | {self._idempotency_header: Batch.of(batch).idempotency_key}
        status, answered, answer = await self._client.request(
            "POST", self._url, data=body, headers=headers, max_answer=longest
        )
        if status in self._split_on and len(batch) > 1:
            return await self._halve(batch)
        error = failure(status, answered, origin(self._url))
        if error is not None:
            raise error
        sent = [position for position in range(len(batch)) if position not in failed]
        return (failed | dict(self._refused(sent, answer))) or None

    def _refused(self, sent: Sequence[int], answer: bytes) -> Iterator[tuple[int, BaseException]]:
        """Yield the positions that an answer says were not taken, and why."""
        try:
            bulk = _bulk.decode(answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if _has_errors(answer):
                raise TransientError("an answer with errors that is not understood") from None
            return  # it says nothing of the kind
        if not bulk.errors:
            return
        if len(bulk.items) != len(sent):
            raise TransientError(f"an answer that tells of {len(bulk.items)} events, not {len(sent)}")
        for position, item in zip(sent, bulk.items, strict=True):
            for result in item.values():
                error = failure(result.status, {}, origin(self._url))
                if error is not None:
                    yield position, error

    async def _halve(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException]:
        middle = len(batch) // 2
        failed: dict[int, BaseException] = {}
        for start, half in ((0, batch[:middle]), (middle, batch[middle:])):
            try:
                answer = await self.publish(half) or {}
            except Exception as error:  # noqa: BLE001 - of this half; the other may have been taken
                answer = dict[int, BaseException].fromkeys(range(len(half)), error)
            failed |= {start + position: error for position, error in answer.items()}
        return failed

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
