"""Enriches events from an HTTP API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from rxcompact.client import Client, host_port, is_html, text_of
from rxcompact.errors import PermanentError, TransientError
from rxcompact.fields import Field

NO_ENRICHMENT = frozenset({204, 404})
UNTYPED = {"", "text/plain", "application/octet-stream"}  # content types of JSON from servers that set none


@dataclass(kw_only=True, eq=False, repr=False)
class HttpEnricher(Client):
    """Requests an API for each event, and adds the answer, any JSON, to it.

    ::

        event     {"host": "db1"}
        request   GET /hosts/db1
        answer    200 {"owner": "ops"}
        enriched  {"host": "db1", "enrichment": {"owner": "ops"}}

    204 and 404 mean that there is nothing to add. With ``batch`` of `enrich` a request is for a list of events, whose
    values a template separates by commas; the answer is a list in their order, or see ``match``.

    Args:
        url: A template with names of fields in braces, whose values are percent-encoded:
            ``"http://cmdb/hosts/{host}"``; or a function of the event.
        merge: The field that gets the answer, or a function of event and answer.
        method: Method of the request; by default POST where there is a body, else GET.
        body: Makes the event into the bytes of a request and their content type, such as `json_body` of a query.
        parse: Makes the bytes of an answer into what is merged, instead of a JSON decoder; None adds nothing.
        match: Finds each event's answer in an object of answers by this field of the event, and in a list by the same
            field of the answer; a tuple has both names.
        headers: Headers such as credentials, or a function of a `Request` that returns some, such as a signature.
        ssl: Certificates of its own and of authorities.
        max_concurrent: Connections at once; at least the ``max_concurrent`` of `enrich`.
        max_answer: Bytes of the longest answer.
    """

    merge: str | Callable[[Any, Any], Any] = "enrichment"
    method: str = ""
    body: Callable[[Any], tuple[bytes, str]] | None = None
    parse: Callable[[bytes], Any] | None = None
    match: str | tuple[str, str] | None = None
    max_concurrent: int = 100
    allowed = NO_ENRICHMENT

    def __post_init__(self) -> None:
        self.method = self.method or ("GET" if self.body is None else "POST")
        super().__post_init__()
        names = (self.match, self.match) if isinstance(self.match, str) else self.match
        self._match = None if names is None else tuple(Field(name, "match") for name in names)
        merge = self.merge
        add = merge if callable(merge) else lambda event, answer: {**event, merge: answer}
        self.merge = lambda event, answer: event if answer is None else add(event, answer)

    async def enrich(self, event: Any) -> Any:
        merge: Any = self.merge
        return merge(event, await self.lookup(event))

    async def lookup(self, event: Any) -> Any:
        """Return the answer of the API for an event, or those for a list of events; None where it has nothing to add.

        Raises:
            aiohttp.ClientError: when there is no answer.
            TransientError: when it is damaged, or has a status that a retry may mend; `RateLimitedError` for 429.
            PermanentError: when it is too long, or no JSON, the URL is not valid, or the status is any other.
        """
        body, content_type = (None, None) if self.body is None else self.body(event)
        sent = None if content_type is None else {"Content-Type": content_type}
        status, kind, answer = await self.request(self.url_of(event), body, sent)
        found = None if status in NO_ENRICHMENT else (self.parse or partial(_json, kind))(answer)
        if not isinstance(event, list):
            return found
        if found is None:
            return [None] * len(event)
        if self._match is not None:
            of_event, of_answer = self._match
            if not isinstance(found, Mapping):
                found = {text_of(of_answer(each)): each for each in found}
            return [found.get(text_of(of_event(each))) for each in event]
        return found

    def target(self, event: Any) -> str:
        return self.host or host_port(self.url_of(event))


def _json(kind: str, answer: bytes) -> Any:
    try:
        return msgspec.json.decode(answer)
    except (msgspec.DecodeError, RecursionError) as cause:
        if is_html(answer) or not (kind in UNTYPED or kind.endswith("json")):
            raise PermanentError(f"answer is {kind or 'HTML'}, not JSON") from None
        raise TransientError(f"answer is no JSON: {cause}") from None
