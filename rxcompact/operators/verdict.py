"""What an error means for the next attempt: one table, whichever client, driver or service it came from."""

from __future__ import annotations

import re
import socket
import time
from asyncio import CancelledError
from collections.abc import Iterator, Mapping
from datetime import UTC
from math import isnan
from numbers import Real
from ssl import SSLError
from typing import Any, Literal, TypeAlias, get_args

from rxcompact.errors import AnswerError, PermanentError, RateLimitedError, TransientError

Verdict: TypeAlias = Literal["rate limited", "denied", "transient", "permanent"]
"""What an error means for the next attempt; of several the first counts. Denied is retried, and logged as an error."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
DENIED: dict[int, Verdict] = dict.fromkeys((401, 403, 410), "denied")
HTTP_VERDICTS: Mapping[int, Verdict] = {**DENIED, 408: "transient", 425: "transient", 429: "rate limited"}
SERVER_ERROR = 500
# a fault of the program, or of what it was given: the same call would end the same way
BUGS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError)
UNFIT = (NotImplementedError, PermanentError, TypeError, ValueError)
NAMES: Mapping[Verdict, str] = {
    "permanent": "DataError IntegrityError InvalidSchema InvalidURL MissingSchema NoAnswer NonHttpUrlClientError "
    "NotSupportedError NXDOMAIN ParamValidationError ProgrammingError UnsupportedProtocol",
    "denied": "NoCredentialsError PartialCredentialsError",
}
"""Of exceptions: of aiohttp, httpx, requests, botocore and dnspython, and those of PEP 249, for database drivers."""
CODES: Mapping[Verdict, str] = {
    "permanent": "0A 21 22 23 42 invalid",
    "denied": "28 42501 ExpiredToken ExpiredTokenException UnrecognizedClientException "
    "account_inactive invalid_auth not_authed token_expired token_revoked",
    "rate limited": "ProvisionedThroughputExceededException RequestLimitExceeded SlowDown Throttling "
    "ThrottlingException TooManyRequestsException rateLimitExceeded rate_limited ratelimited",
    "transient": "InternalFailure RequestTimeout ServiceUnavailable ServiceUnavailableException "
    "backendError fatal_error internal_error service_unavailable stopped timeout",
}
"""Of SQLSTATE, the whole or its class; of AWS, BigQuery and Slack."""
_by_name: dict[str, Verdict] = {name: each for each in NAMES for name in NAMES[each].split()}
_by_code: dict[str, Verdict] = {code: each for each in CODES for code in CODES[each].split()}
NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
NO_SUCH_HOST = frozenset({1, 4})
"""Of `socket.herror` and aiodns."""
NOT_ABOUT_EVENTS = frozenset({404, 405, 415})
CONNECTION = re.compile("Connect|Timeout|Transport|Network|Payload|Unavailable|OperationalError|InterfaceError")
"""Of aiohttp, httpx, database drivers."""
SQLITE_ERROR = 1


def http_verdict(status: int) -> Verdict:
    """Return what an HTTP status that is no success means for the next attempt."""
    return HTTP_VERDICTS.get(status, "transient" if status >= SERVER_ERROR else "permanent")


def verdict(error: BaseException) -> Verdict:
    """Return what an error means for the next attempt.

    An exception group is permanent when all its members are, and rate limited when one is. `PermanentError` and the
    exceptions that mean a bug (`TypeError`, `ValueError`, `LookupError`, …) are permanent, and so are those that are no
    `Exception`. A code that the error carries, SQLSTATE or a service's, decides by `CODES`, else an HTTP status by
    `http_verdict`, whichever client's exception it is. A name that does not exist, looked up by the function itself, is
    permanent. Everything else is transient: connections, time limits, exceptions unknown.
    """
    if isinstance(error, BaseExceptionGroup):
        return min(map(verdict, error.exceptions), key=VERDICTS.index)
    if isinstance(error, RateLimitedError):
        return "rate limited"
    status = None if isinstance(error, PermanentError) else http_status(error)
    # of a success the answer itself was at fault
    by_status = None if status is None or status < 300 else http_verdict(status)  # noqa: PLR2004
    if carried := code_verdict(error_code(error)) or by_status:
        return carried
    if isinstance(error, TransientError | SSLError | CancelledError):  # a certificate may be renewed
        return "transient"
    no_host = isinstance(error, socket.gaierror) and error.errno in NO_SUCH_NAME
    if no_host or is_nothing_found(error) or isinstance(error, BUGS + UNFIT) or not isinstance(error, Exception):
        return "permanent"
    named: list[Verdict] = [_by_name[name] for name in _names(error) if name in _by_name]
    return (*named, "transient")[0]


def is_transient(error: BaseException) -> bool:
    """Return whether a call that failed so may succeed later; see `verdict`."""
    return verdict(error) != "permanent"


def is_about_events(error: BaseException) -> bool:
    """Return whether an event of a batch may be why the whole batch failed.

    Connections, time limits, rate limits, credentials and what the sink returned have nothing to do with it.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_about_events, error.exceptions))
    if _names(error) & {"DataError", "IntegrityError"}:
        return True  # asyncpg's is an InterfaceError too
    meaning = code_verdict(error_code(error))
    if meaning is not None:
        return meaning == "permanent"
    status = http_status(error)
    if status is not None:
        return status == SERVER_ERROR or (http_verdict(status) == "permanent" and status not in NOT_ABOUT_EVENTS)
    if isinstance(error, OSError | TransientError | AnswerError) or not isinstance(error, Exception):
        return False
    return not any(map(CONNECTION.search, _names(error)))


def is_nothing_found(error: BaseException) -> bool:
    """Return whether an error is a resolver's answer that there is no such host, or nothing about it."""
    code = error.args[0] if error.args else None
    is_code = isinstance(error, socket.herror) or "DNSError" in _names(error)
    return (is_code and code in NO_SUCH_HOST) or not _names(error).isdisjoint({"NXDOMAIN", "NoAnswer"})


def _names(error: BaseException) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def code_verdict(code: str) -> Verdict | None:
    """Return what a code means for the next attempt; of SQLSTATE the whole, else its class."""
    return _by_code.get(code) or _by_code.get(code[:2])


def http_status(error: BaseException) -> int | None:
    """Return the status that a server answered, or None where it answered none."""
    cause = type(error.__cause__).__mro__
    if any(base.__name__ == "HttpProcessingError" for base in cause):  # of aiohttp, which calls a garbled answer 400
        return None
    for status in _carried(error, "status", "status_code", "HTTPStatusCode"):
        if isinstance(status, int) and 100 <= status < 1000:  # noqa: PLR2004 - three digits
            return int(status)
    return None


def error_code(error: BaseException) -> str:
    """Return the code that a database or a service gave an error, or nothing."""
    codes = [code for code in _carried(error, "sqlstate", "pgcode", "Code") if isinstance(code, str)]
    if SQLITE_ERROR in _carried(error, "sqlite_errorcode"):
        codes.append("42000")  # bad syntax, or no such table
    return (*codes, "")[0]


def retry_after(error: BaseException) -> float | None:
    """Return how long the service asked to wait, seconds, or None where it did not ask; the longest of a group's."""
    if isinstance(error, BaseExceptionGroup):
        return max((asked for each in error.exceptions if (asked := retry_after(each)) is not None), default=None)
    asked = _attribute(error, "retry_after")
    if isinstance(asked, Real) and not isnan(asked):
        return max(0.0, float(asked))
    for headers in _carried(error, "headers"):
        if isinstance(headers, Mapping):
            value = headers.get("Retry-After") or headers.get("retry-after")
            return parse_retry_after(value, time.time()) if isinstance(value, str) else None
    return None


def _carried(error: BaseException, *names: str) -> Iterator[Any]:
    """Yield values of an error, of the response in it, and of the error that SQLAlchemy wraps."""
    response = _attribute(error, "response")
    parts = response.values() if isinstance(response, Mapping) else (response,)  # botocore's is in parts
    for holder in (error, *parts, _attribute(error, "orig")):
        for name in names:
            yield holder.get(name) if isinstance(holder, Mapping) else _attribute(holder, name)


def _attribute(holder: object, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - a property of the caller's exception may raise anything
        return None


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds of a Retry-After header, a number or an HTTP date (in the past: 0); None for garbage.

    Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        from email.utils import parsedate_to_datetime  # noqa: PLC0415 - takes long to import

        at = parsedate_to_datetime(value)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return None
