"""Posts batches to an HTTP API."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from ssl import SSLContext
from typing import Any, Literal

from rxcompact.client import KIB, Client, Headers, host_port, url_of
from rxcompact.errors import ArgumentError
from rxcompact.events import Batch, Compacted
from rxcompact.keys import encoder
from rxcompact.sinks.answers import Verdict, known_errors
from rxcompact.sinks.encoding import encoded, json_object

FORMATS: dict[str, tuple[str, Callable[[list[Any]], bytes]]] = {
    "ndjson": ("application/x-ndjson", encoder.encode_lines),
    "array": ("application/json", encoder.encode),
    "object": ("application/json", lambda objects: b"".join(map(encoder.encode, objects))),
    "lines": ("text/plain; charset=utf-8", lambda texts: "\n".join([*texts, ""]).encode()),
}


@dataclass(eq=False, repr=False)
class HttpSink:
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
        max_batch: Events in a request.

    Raises:
        ArgumentError: for an argument that can never work.
    """

    url: str | Callable[[Batch], str]
    _: KW_ONLY
    format: Literal["ndjson", "array", "object", "lines"] = "ndjson"
    to_json: Callable[[Compacted], Any] = json_object
    body: Callable[[Batch], tuple[bytes, str]] | None = None
    method: str = "POST"
    headers: Headers | None = None
    gzip: bool = False
    ssl: SSLContext | None = None
    verdict: Verdict = known_errors
    idempotency_header: str = "Idempotency-Key"
    max_concurrent: int = 10
    max_batch: int | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ArgumentError("format", self.format, f"one of {', '.join(map(repr, FORMATS))}")
        if self.format == "lines" and self.to_json is json_object and self.body is None:
            raise ArgumentError("to_json", self.to_json, 'a function that returns a line, where format is "lines"')
        self._url = url_of(self.url)
        self.target = host_port(self.url) if isinstance(self.url, str) else ""
        if self.format == "object" or (isinstance(self.url, str) and "{" in self.url):
            self.max_batch = 1
        self._client = Client(limit=self.max_concurrent, method=self.method, headers=self.headers, ssl=self.ssl)

    async def publish(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException] | None:
        """Post a batch; return the error of each position that was not taken.

        Raises:
            TransientError: for a failure that a retry may mend; `RateLimitedError` for 429.
            PermanentError: for any other.
            aiohttp.ClientError: when there was no answer. The batch may have been stored all the same.
        """
        if self.max_batch == 1 and len(batch) > 1:  # of a caller who makes batches
            results = await asyncio.gather(*(self.publish((each,)) for each in batch), return_exceptions=True)
            each_error = (each.get(0) if isinstance(each, Mapping) else each for each in results)
            return {position: error for position, error in enumerate(each_error) if error is not None} or None
        batch, failed = Batch.of(batch), dict[int, BaseException]()
        if self.body is not None:
            body, content_type = self.body(batch)
        else:
            content_type, encode = FORMATS[self.format]
            body, failed = encoded(batch, self.to_json, encode)
            if len(failed) == len(batch):
                return failed
        headers = {"Content-Type": content_type, self.idempotency_header: batch.idempotency_key}
        longest = 2 * len(body) + KIB * len(batch)  # a store may answer with the events themselves
        url = self._url(batch[0].event if isinstance(self.url, str) else batch)
        if self.gzip:  # on another thread: a large body takes long
            body = await asyncio.to_thread(zlib.compress, body, wbits=31)
            headers["Content-Encoding"] = "gzip"
        answer: Any
        status, _, answer = await self._client.request(url, body, headers, max_answer=longest)
        with suppress(ValueError, RecursionError):
            answer = json.loads(answer)  # which decodes more than msgspec
        answer = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
        sent = [position for position in range(len(batch)) if position not in failed]
        wrong = self.verdict(batch if not failed else Batch(batch[each] for each in sent), status, answer)
        return (failed | {sent[position]: error for position, error in (wrong or {}).items()}) or None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
