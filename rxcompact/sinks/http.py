"""Posts batches to an HTTP API."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from yarl import URL

from rxcompact.client import KIB, Client, failure, origin
from rxcompact.errors import ArgumentError
from rxcompact.events import Batch, Compacted
from rxcompact.sinks.ndjson import encoded, encoder, json_object

TOO_LARGE = 413


class HttpSink:
    """Posts each batch as NDJSON or as an array, with an idempotency key. A batch that is too large (413) is halved.

    Args:
        url: Where to.
        format: ``"ndjson"`` or ``"array"``.
        to_json: Makes of a `Compacted` what is sent; by default all its fields.
        gzip: Pack the body.
        headers: Of the request, such as credentials.
        idempotency_header: The name of the header that carries the key.
        max_concurrent: Connections at once.
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
        self._headers = {"Content-Type": "application/x-ndjson" if format == "ndjson" else "application/json"}
        if gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._client = Client(limit=max_concurrent, headers=headers, max_answer=1024 * KIB)

    async def publish(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException] | None:
        """Post a batch; return the error of each position that was not taken: no JSON, or of a half of it.

        Raises:
            TransientError: for an answer that may be another later; `RateLimitedError` for 429.
            PermanentError: for one that will not.
            aiohttp.ClientError: when there was no answer. It may have been taken all the same.
        """
        body, failed = encoded(batch, self._to_json, self._encode)
        if len(failed) == len(batch):
            return failed
        if self._gzip:
            body = zlib.compress(body, wbits=31)
        headers = self._headers | {self._idempotency_header: Batch(batch).idempotency_key}
        status, answered, _ = await self._client.request("POST", self._url, data=body, headers=headers)
        if status == TOO_LARGE and len(batch) > 1:
            return await self._halve(batch)
        error = failure(status, answered, origin(self._url))
        if error is not None:
            raise error
        return failed or None

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
