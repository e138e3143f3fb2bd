"""The HTTP client of enrichers and sinks: one session, bounded answers, statuses as errors."""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from gzip import BadGzipFile
from ssl import SSLContext
from string import Formatter
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

import aiohttp
import msgspec
from loguru import logger
from multidict import CIMultiDict
from yarl import URL

from rxcompact.errors import ArgumentError, PermanentError, RateLimitedError, TooLargeError, TransientError
from rxcompact.fields import Field
from rxcompact.format import redacted
from rxcompact.keys import encoder, plain
from rxcompact.operators.retry import log_denied
from rxcompact.operators.verdict import http_verdict, parse_retry_after
from rxcompact.reader.text import is_gzip, read_body

KIB = 1024
SUCCESS = range(200, 300)
EXCERPT = 200  # characters of a failure's body that its error shows
EXCERPT_TIMEOUT = 1.0  # seconds for which they are waited for
RESERVED = "{}:/?#[]@!$&'()*+,;=%"
DOTS = {".", ".."}
is_safe = re.compile(r"[\w.~-]+", re.ASCII).fullmatch  # as it stands, in a URL
EXPECTED = "an absolute URL, http://HOST/PATH; behind the host {FIELD} stands for the value of a field"
LONGEST = 8192  # characters of a field in a URL; servers take no longer URLs
HTML = re.compile(
    rb"\A(?:\xef\xbb\xbf)?(?:\s|<\?xml[^>]*>|<!--.*?-->)*<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)


class Request(NamedTuple):
    """A request, for a function that signs it."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


Headers: TypeAlias = Mapping[str, str] | Callable[[Request], Mapping[str, str] | Awaitable[Mapping[str, str]]]
"""Headers, which replace those of the library; or a function or coroutine function of the request that returns some."""


class _Connector(aiohttp.TCPConnector):
    """Discards an idle connection on which bytes arrived: aiohttp takes them for the answer to the next request."""

    async def _get(self, key: Any, traces: Any) -> Any:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


@dataclass(eq=False, repr=False)
class Client:
    """What requests a URL: an aiohttp session, created at the first request; it follows no redirects."""

    url: str | Callable[[Any], str]
    _: KW_ONLY
    method: str = "GET"
    headers: Headers | None = None
    ssl: SSLContext | None = None
    max_concurrent: int = 10  # connections at once; calls beyond it would wait for one
    max_answer: int = 1024 * KIB
    allowed = frozenset[int]()  # failures whose body is not read

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Za-z]+", self.method):
            raise ArgumentError("method", self.method, "an HTTP method")
        self.url_of = url_of(self.url)
        self.host = host_port(self.url) if isinstance(self.url, str) else ""
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self, url: URL, body: bytes | None = None, headers: Mapping[str, str] | None = None, max_answer: int = 0
    ) -> tuple[int, str, bytes]:
        """Return an answer's status, content type and body.

        The client's headers replace those given, the larger of both ``max_answer`` holds; the caller limits the time.

        Raises:
            aiohttp.ClientError: when there is no answer; what was sent may have been taken all the same.
            TransientError: when it is damaged, or not HTTP, or has a status that a retry may mend; `RateLimitedError`
                for 429.
            PermanentError: when it is too long, the URL is not valid, or the status is any other.
        """
        sent = CIMultiDict(headers or {})
        given: Any = self.headers
        if callable(given):
            given = given(Request(self.method, str(url), sent, body or b""))
            given = await given if isinstance(given, Awaitable) else given
        sent.update(given or {})
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(limit=self.max_concurrent, ssl=self.ssl or True),
                headers={"Accept-Encoding": "gzip"},
                timeout=aiohttp.ClientTimeout(total=None),
                raise_for_status=False,
                auto_decompress=False,  # aiohttp does not notice gzip that is cut short
            )
        longest = max(self.max_answer, max_answer)
        try:
            options: Any = {"data": body, "headers": sent, "allow_redirects": False}
            async with self._session.request(self.method, url, **options) as response:
                if response.status in self.allowed:
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
            raise TransientError(f"answer is not HTTP: {excerpt(error.message)}") from None
        except aiohttp.InvalidURL:
            raise PermanentError(f"not a valid URL: {redacted(str(url))}") from None

    async def aclose(self) -> None:
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
    status: int, where: object, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> TransientError | PermanentError:
    """Return the error of a status that is no success, with the beginning of the body.

    401, 403 and 410 are logged as errors and retried, for someone may correct the credentials or the URL.
    """
    text = f"HTTP {status}: {excerpt(body.decode('utf-8', 'replace'))}".removesuffix(": ")
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
    return HTML.match(body[:KIB]) is not None


def excerpt(text: str) -> str:
    """Return the beginning of a text without control characters."""
    printable = "".join(each if each.isprintable() else " " for each in text)
    return " ".join(printable.split())[:EXCERPT]


def host_port(url: str | URL) -> str:
    """Return what a URL is a service of; of a template, whose host is no field, what is before the first of them."""
    found = URL(url.partition("{")[0]) if isinstance(url, str) else url
    return f"{found.host_subcomponent}:{found.port}"


def url_of(url: str | Callable[[Any], str]) -> Callable[[Any], URL]:
    """Return what makes the URL of an event: of a template with fields in braces, whose values are percent-encoded.

    Of a list of events the values are separated by commas. What a function leaves unencoded is encoded by URL, so that
    no value alters the request.

    Raises:
        ArgumentError: for what can never be one.
    """
    if not isinstance(url, str):
        return lambda event: URL(url(event))
    before, brace, _ = url.partition("{")
    try:
        where = URL(before).origin()
        parts = [(quote(text, safe=RESERVED), name) for text, name, _, _ in Formatter().parse(url)]
    except ValueError:
        where, parts = URL(), []
    is_host_fixed = not brace or not {*"/?"}.isdisjoint(before.partition("://")[2])
    if where.scheme not in ("http", "https") or not is_host_fixed or "" in (name for _, name in parts):
        raise ArgumentError("url", redacted(url), EXPECTED)
    if not brace:
        fixed = URL(url)
        return lambda _: fixed
    fields = [(text, name, None if name is None else Field(name, "url")) for text, name in parts]

    def fill(event: Any) -> URL:
        filled = ""
        for text, name, field in fields:
            filled += text
            if field is not None:
                events = event if isinstance(event, list) else (event,)
                filled += ",".join([_quoted(field(each), name, filled, where) for each in events])
        if "/." in filled and not DOTS.isdisjoint(filled.partition("?")[0].split("/")):
            raise PermanentError(f"a field of dots would change the path at {where}")
        return URL(filled, encoded=True)

    return fill


def _quoted(value: Any, name: str | None, before: str, where: URL) -> str:
    value = text_of(value)
    if value is None:
        raise PermanentError(f"the URL at {where} needs the field {name!r}, which the event lacks")
    if not value and "?" not in before:
        raise PermanentError(f"the field {name!r} is empty, which would change the path at {where}")
    if len(value) > LONGEST:
        raise PermanentError(f"the field {name!r} has {len(value)} characters: at most {LONGEST} in a URL")
    return value if is_safe(value) else quote(value, safe="")


def text_of(value: Any) -> str | None:
    """Return a value as text, None for a missing one."""
    if type(value) is str:
        return value
    value = plain(value)
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def json_body(value: Any) -> tuple[bytes, str]:
    """Return a value as JSON, and its content type."""
    return encoder.encode(value), "application/json"
