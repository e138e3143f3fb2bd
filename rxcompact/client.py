"""What HTTP enrichers and sinks share: one session, answers read with a limit, statuses as errors."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from typing import Any

import aiohttp
from loguru import logger
from yarl import URL

from rxcompact.errors import PermanentError, RateLimitedError, RxCompactError, TransientError
from rxcompact.operators.retry import RETRIED_STATUS, TOO_MANY_REQUESTS, parse_retry_after
from rxcompact.reader.gunzip import is_gzip, read_body

KIB = 1024
REFUSED = frozenset({401, 403, 410})
SERVER_ERROR = 500


class _Connector(aiohttp.TCPConnector):
    """Takes no idle connection on which something was said that nobody asked for.

    aiohttp would take that for the answer to the next request, and each answer from then on for that of another.
    """

    async def _get(self, key: Any, traces: Any) -> Any:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


class Client:
    """An aiohttp session that is made when first used, and follows no redirects.

    Args:
        limit: Connections at once; at least as many as calls, else these would spend their time waiting for one.
        headers: Sent with each request.
        max_answer: Bytes of the longest answer that is read, unpacked.
    """

    def __init__(self, *, limit: int, headers: Mapping[str, str] | None, max_answer: int) -> None:
        self._limit = limit
        self._headers = {"Accept-Encoding": "gzip", **(headers or {})}
        self._max_answer = max_answer
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, url: URL, *, max_answer: int = 0, **options: Any
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return an answer's status, headers and body; of a failure no body. It is for the caller to limit the time.

        Raises:
            aiohttp.ClientError: when there was none.
            TransientError: when it is damaged.
            PermanentError: when it is too long.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(limit=self._limit),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None),
                raise_for_status=False,
                auto_decompress=False,  # aiohttp does not tell when gzip is cut short
            )
        try:
            async with self._session.request(method, url, allow_redirects=False, **options) as response:
                body = await _body(response, max(self._max_answer, max_answer))
                return response.status, response.headers, body
        except aiohttp.ClientConnectorCertificateError as error:
            logger.error("{}: the certificate is not trusted: {}", origin(url), error.certificate_error)
            raise

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _body(response: aiohttp.ClientResponse, longest: int) -> bytes:
    """Return what a success holds, unpacked."""
    if response.status >= 300:  # noqa: PLR2004 - which says it all
        return b""
    try:
        compressed = is_gzip(response.headers.get("Content-Encoding"))
        return await read_body(response.content, longest, compressed=compressed)
    except OverflowError:
        raise PermanentError(f"answer is longer than {longest} bytes") from None
    except (ValueError, zlib.error, EOFError) as error:
        raise TransientError(f"answer cannot be unpacked: {error}") from None


def failure(status: int, headers: Mapping[str, str], where: str) -> Exception | None:
    """Return the error that a status means, or None for success.

    401, 403 and 410 are retried, for as long as the event lives: someone may put it right. They are logged as errors.
    """
    if 200 <= status < 300:  # noqa: PLR2004
        return None
    error: RxCompactError
    wait = parse_retry_after(headers.get("Retry-After"), time.time())
    if status == TOO_MANY_REQUESTS:
        error = RateLimitedError("HTTP 429", wait)
    elif status in RETRIED_STATUS or status >= SERVER_ERROR or status in REFUSED:
        error = TransientError(f"HTTP {status}")
        error.retry_after = wait
    else:
        error = PermanentError(f"HTTP {status}")
    error.reason = f"HTTP {status}"
    if status in REFUSED:
        logger.error("{} answers HTTP {}: are the credentials right?", where, status)
    return error


def origin(url: str | URL) -> str:
    """Return a URL's scheme, host and port, which is what may be logged of it."""
    return str(URL(url).origin())
