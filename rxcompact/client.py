"""The HTTP client of enrichers and sinks: one session, bounded answers, statuses as errors."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from gzip import BadGzipFile
from typing import Any

import aiohttp
from loguru import logger
from yarl import URL

from rxcompact.errors import ArgumentError, PermanentError, RateLimitedError, TooLargeError, TransientError
from rxcompact.format import redacted
from rxcompact.operators.retry import log_denied
from rxcompact.operators.verdict import http_verdict, parse_retry_after
from rxcompact.reader.text import is_gzip, read_body

KIB = 1024
SUCCESS = range(200, 300)
EXCERPT = 200  # characters of a failure's body that its error shows
EXCERPT_TIMEOUT = 1.0  # seconds for which they are waited for


class _Connector(aiohttp.TCPConnector):
    """Discards an idle connection on which bytes arrived: aiohttp takes them for the answer to the next request."""

    async def _get(self, key: Any, traces: Any) -> Any:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


@dataclass(kw_only=True, eq=False, repr=False)
class Client:
    """An aiohttp session, created at the first request; it follows no redirects.

    Args:
        limit: Connections at once; at least as many as calls, which would otherwise wait for one.
        headers: Sent with each request.
        max_answer: Bytes of the longest answer that is read, unpacked.
    """

    limit: int
    headers: Mapping[str, str] | None = None
    max_answer: int = 1024 * KIB
    _session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, url: URL, *, max_answer: int = 0, allowed: Collection[int] = (), **options: Any
    ) -> tuple[int, str, bytes]:
        """Return an answer's status, content type and body. The caller limits the time.

        Args:
            allowed: Statuses that are no failure; their bodies are not read.

        Raises:
            aiohttp.ClientError: when there is no answer.
            TransientError: when it is damaged, or not HTTP, or has a status that a retry may mend.
            PermanentError: when it is too long, the URL is not valid, or the status is any other.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(limit=self.limit),
                headers={"Accept-Encoding": "gzip", **(self.headers or {})},
                timeout=aiohttp.ClientTimeout(total=None),
                raise_for_status=False,
                auto_decompress=False,  # aiohttp does not notice gzip that is cut short
            )
        longest = max(self.max_answer, max_answer)
        try:
            async with self._session.request(method, url, allow_redirects=False, **options) as response:
                if response.status in allowed:
                    return response.status, "", b""
                if response.status not in SUCCESS:
                    raise failure(response.status, url.origin(), await _excerpt(response), response.headers)
                try:
                    packed = is_gzip(response.headers.get("Content-Encoding"))
                    body = await read_body(response.content, longest, compressed=packed)
                except TooLargeError:
                    raise PermanentError(f"answer is longer than {longest} bytes") from None
                except (ValueError, BadGzipFile, EOFError) as error:
                    raise TransientError(f"answer cannot be unpacked: {error}") from None
                kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
                return response.status, kind, body
        except aiohttp.ClientConnectorCertificateError as error:
            logger.error("{}: the certificate is not trusted: {}", url.origin(), error.certificate_error)
            raise
        except aiohttp.ClientResponseError as error:  # whose text has the URL, which may have credentials
            raise TransientError(f"answer is not HTTP: {_clean(error.message)}") from None
        except aiohttp.InvalidURL:
            raise PermanentError(f"not a valid URL: {redacted(str(url))}") from None

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _excerpt(response: aiohttp.ClientResponse) -> bytes:
    """Return the beginning of a failure's body, or nothing."""
    with suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError, zlib.error):
        async with asyncio.timeout(EXCERPT_TIMEOUT):
            block = await response.content.read(4 * KIB)
        if is_gzip(response.headers.get("Content-Encoding")):
            return zlib.decompressobj(wbits=31).decompress(block, 4 * EXCERPT)
        return block
    return b""


def failure(
    status: int, where: URL, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> TransientError | PermanentError:
    """Return the error of a status that is no success, with the beginning of the body.

    401, 403 and 410 are logged as errors and retried, for someone may correct the credentials or the URL.
    """
    text = f"HTTP {status}: {_clean(body.decode('utf-8', 'replace'))}".removesuffix(": ")
    meaning = http_verdict(status)
    kinds = {"rate limited": RateLimitedError, "permanent": PermanentError}
    error: TransientError | PermanentError = kinds.get(meaning, TransientError)(text)
    if isinstance(error, TransientError):
        error.retry_after = parse_retry_after((headers or {}).get("Retry-After"), time.time())
    error.status = status
    error.reason = f"HTTP {status}"
    if meaning == "denied":
        log_denied(f"{where} answers HTTP {status}")
    return error


def is_html(body: bytes) -> bool:
    """Return whether a body is an HTML page, whatever its type: a login page, or that of a proxy."""
    return body[:100].lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _clean(text: str) -> str:
    """Return the beginning of a text without control characters."""
    printable = "".join(each if each.isprintable() else " " for each in text)
    return " ".join(printable.split())[:EXCERPT]


def absolute_url(argument: str, url: str, shown: str = "") -> URL:
    """Return a URL; ``shown`` is what an error shows of it, by default all but credentials and query.

    Raises:
        ArgumentError: when it is no absolute HTTP URL.
    """
    try:
        found = URL(url)
    except ValueError:
        found = URL()
    if found.scheme not in ("http", "https") or not found.host:
        raise ArgumentError(argument, shown or redacted(url), "an absolute URL, http://HOST/PATH")
    return found
