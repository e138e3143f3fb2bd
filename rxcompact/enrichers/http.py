"""Enriches events from an HTTP API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any
from urllib.parse import quote

import msgspec
from yarl import URL

from rxcompact.client import KIB, Client, failure, origin
from rxcompact.errors import ArgumentError, PermanentError, TransientError
from rxcompact.fields import JsonKey, json_value

RESERVED = "{}:/?#[]@!$&'()*+,;=%"
NO_ENRICHMENT = frozenset({204, 404})


DOTS = {".", ".."}


class HttpEnricher:
    """Asks an API about each event, and puts the answer, a JSON object, into it.

    204 and 404 mean that there is nothing to add. Redirects are not followed.

    Args:
        url: A template with the names of fields in braces, percent-encoded where they are put in:
            ``"http://cmdb/hosts/{host}"``; or a function of the event.
        merge: The field to put the answer in, or a function of event and answer.
        method: Of the request.
        headers: Of the request, such as credentials.
        max_concurrent: Connections at once; at least the pipeline's ``max_concurrent``.
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
        # URL encodes what a function leaves unencoded, so that nothing breaks out of the request
        self._url = _template(url) if isinstance(url, str) else lambda event: URL(url(event))
        self._merge = merge
        self._method = method
        self._client = Client(limit=max_concurrent, headers=headers, max_answer=max_answer)

    async def enrich(self, event: Any) -> Any:
        """Return the enriched event; raises what `lookup` and `merge` do."""
        return self.merge(event, await self.lookup(event))

    async def lookup(self, event: Any) -> Any:
        """Return what the API answers about an event; None where it has nothing to add.

        Raises:
            TransientError: for an answer that may be another later; `RateLimitedError` for 429.
            PermanentError: for one that will not.
            aiohttp.ClientError: when there was no answer.
        """
        url = self._url(event)
        status, headers, body = await self._client.request(self._method, url)
        if status in NO_ENRICHMENT:
            return None
        error = failure(status, headers, origin(url))
        if error is not None:
            raise error
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
            raise TransientError(f"answer is no JSON: {cause}") from None

    def merge(self, event: Any, answer: Any) -> Any:
        """Put an answer into an event.

        Raises:
            PermanentError: when it is no JSON object, and a function is to merge it.
        """
        if answer is None:
            return event
        if not callable(self._merge):
            return {**event, self._merge: answer}
        if not isinstance(answer, dict):
            raise PermanentError(f"answer is no JSON object but {type(answer).__name__}")
        return self._merge(event, answer)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _template(url: str) -> Callable[[Any], URL]:
    parts = [
        (quote(text, safe=RESERVED), None if name is None else JsonKey(name))
        for text, name, _, _ in Formatter().parse(url)
    ]
    before, _, after = url.partition("{")
    if URL(before).host is None or (after and not set(before.partition("://")[2]) & {"/", "?"}):
        raise ArgumentError("url", url, "an absolute URL whose host is no field")

    def fill(event: Any) -> URL:
        filled = ""
        for text, field in parts:
            filled += text
            if field is not None:
                value = json_value(field(event))
                if value is None:
                    raise PermanentError(f"event lacks a field that {url!r} needs")
                name = value if isinstance(value, str) else msgspec.json.encode(value).decode()
                if not name and "?" not in filled:
                    raise PermanentError(f"an empty field would lead to another path of {url!r}")
                filled += quote(name, safe="")
        if not DOTS.isdisjoint(filled.partition("?")[0].split("/")):
            raise PermanentError(f"fields of dots would lead to another path of {url!r}")
        return URL(filled, encoded=True)

    return fill
