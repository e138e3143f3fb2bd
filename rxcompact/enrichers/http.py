"""Enriches events from an HTTP API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any
from urllib.parse import quote

import msgspec
from yarl import URL

from rxcompact.client import KIB, Client, absolute_url, is_html
from rxcompact.errors import ArgumentError, PermanentError, TransientError
from rxcompact.fields import Field
from rxcompact.format import redacted
from rxcompact.keys import plain

RESERVED = "{}:/?#[]@!$&'()*+,;=%"
NO_ENRICHMENT = frozenset({204, 404})
UNTYPED = {"", "text/plain", "application/octet-stream"}  # content types of JSON from servers that set none
DOTS = {".", ".."}


class HttpEnricher:
    """Requests an API for each event, and adds the answer, any JSON, to it.

    204 and 404 mean that there is nothing to add. Redirects are not followed.

    Args:
        url: A template with names of fields in braces, whose values are percent-encoded:
            ``"http://cmdb/hosts/{host}"``; or a function of the event.
        merge: The field that gets the answer, or a function of event and answer.
        method: Method of the request.
        headers: Headers of the request, such as credentials.
        max_concurrent: Connections at once; at least the ``max_concurrent`` of `enrich`.
        max_answer: Bytes of the longest answer.
    """

    def __init__(
        self,
        url: str | Callable[[Any], str],
        *,
        merge: str | Callable[[Any, Any], Any] = "enrichment",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        max_concurrent: int = 100,
        max_answer: int = 1024 * KIB,
    ) -> None:
        # URL encodes what a function leaves unencoded, so that no value alters the request
        self._url = _template(url) if isinstance(url, str) else lambda event: URL(url(event))
        self._merge = merge
        self._method = method
        self._client = Client(limit=max_concurrent, headers=headers, max_answer=max_answer)

    async def enrich(self, event: Any) -> Any:
        """Return the enriched event; raises what `lookup` and `merge` do."""
        return self.merge(event, await self.lookup(event))

    async def lookup(self, event: Any) -> Any:
        """Return the answer of the API for an event; None where it has nothing to add.

        Raises:
            TransientError: for a failure that a retry may mend; `RateLimitedError` for 429.
            PermanentError: for any other.
            aiohttp.ClientError: when there was no answer.
        """
        url = self._url(event)
        status, kind, body = await self._client.request(self._method, url, allowed=NO_ENRICHMENT)
        if status in NO_ENRICHMENT:
            return None
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
            if is_html(body) or not (kind in UNTYPED or kind.endswith("json")):
                raise PermanentError(f"answer is {kind or 'HTML'}, not JSON") from None
            raise TransientError(f"answer is no JSON: {cause}") from None

    def merge(self, event: Any, answer: Any) -> Any:
        """Return the event with an answer added."""
        if answer is None:
            return event
        return self._merge(event, answer) if callable(self._merge) else {**event, self._merge: answer}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _template(url: str) -> Callable[[Any], URL]:
    try:
        parts = [(quote(text, safe=RESERVED), name) for text, name, _, _ in Formatter().parse(url)]
    except ValueError as error:
        raise ArgumentError("url", redacted(url), f"a template with fields in braces ({error})") from None
    before, _, after = url.partition("{")
    if after and "://" in before and not set(before.partition("://")[2]) & {"/", "?"}:
        raise ArgumentError("url", redacted(url), "an absolute URL whose host is no field")
    where = absolute_url("url", before, redacted(url)).origin()
    if "" in (name for _, name in parts):
        raise ArgumentError("url", redacted(url), "a template with the names of fields in its braces")
    fields = [(text, name, None if name is None else Field(name, "url")) for text, name in parts]

    def fill(event: Any) -> URL:
        filled = ""
        for text, name, field in fields:
            filled += text
            if field is not None:
                value = plain(field(event))
                if value is None:
                    raise PermanentError(f"the URL at {where} needs the field {name!r}, which the event lacks")
                part = value if isinstance(value, str) else msgspec.json.encode(value).decode()
                if not part and "?" not in filled:
                    raise PermanentError(f"the field {name!r} is empty, which would change the path at {where}")
                filled += quote(part, safe="")
        if not DOTS.isdisjoint(filled.partition("?")[0].split("/")):
            raise PermanentError(f"a field of dots would change the path at {where}")
        return URL(filled, encoded=True)

    return fill
