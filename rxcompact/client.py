"""What HTTP enrichers and sinks share: one session, answers read with a limit, statuses as errors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import aiohttp
from loguru import logger
from yarl import URL

from rxcompact.errors import PermanentError, RateLimitedError, RxCompactError, TransientError
from rxcompact.operators.retry import RETRIED_STATUS, TOO_MANY_REQUESTS, parse_retry_after

KIB = 1024
REFUSED = frozenset({401, 403, 410})
SERVER_ERROR = 500


class Client:
    """An aiohttp session that is made when first used, and follows no redirects.

    Args:
        limit: Connections at once; at least as many as calls, else these would spend their time waiting for one.
        headers: Sent with each request.
        max_answer: Bytes of the longest answer that is read, unpacked.
    """

    def __init__(self, *, limit: int, headers: Mapping[str, str] | None, max_answer: int) -> None:
        self._limit = limit
        self._headers = dict(headers or {})
        self._max_answer = max_answer
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, url: URL, *, max_answer: int = 0, **options: Any
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return an answer's status, headers and body. It is for the caller to limit the time.

        The body of a failure is cut where it is too long: its status says it all.

        Raises:
            aiohttp.ClientError: when there was none.
            PermanentError: when that of a success is too long.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limit),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None),
                raise_for_status=False,
            )
        longest = max(self._max_answer, max_answer)
        try:
            async with self._session.request(method, url, allow_redirects=False, **options) as response:
                body = bytearray()
                async for block in response.content.iter_any():
                    body += block
                    if len(body) > longest:
                        response.close()
                        if response.status >= 300:  # noqa: PLR2004
                            break
                        raise PermanentError(f"answer is longer than {longest} bytes")
                return response.status, response.headers, bytes(body)
        except aiohttp.ClientConnectorCertificateError as error:
            logger.error("{}: the certificate is not trusted: {}", origin(url), error.certificate_error)
            raise

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


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
