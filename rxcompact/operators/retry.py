"""What to do when a call failed: wait and try again, give up, or let the event grow too old."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias

import aiohttp
from aiohttp.http import HttpProcessingError
from tenacity import RetryAction, RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from rxcompact.errors import PermanentError, RateLimitedError, RxCompactError, TransientError
from rxcompact.events import DeadLetter

Wait: TypeAlias = Callable[[RetryCallState], float]
"""A tenacity wait, or a function like one."""
Predicate: TypeAlias = Callable[[RetryCallState], bool]
"""A tenacity retry condition, or a function like one."""
Callback: TypeAlias = Callable[[RetryCallState], Any]
"""A tenacity ``before_sleep`` callback, or a function like one."""

# a fault of the program, or of what it was given: the same call would end the same way
PERMANENT = (
    PermanentError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
)
SHORTEST = 0.001
"""Seconds: a shorter wait would be a busy loop."""
LAST = 0.01
"""Seconds before the deadline at which no more attempts are squeezed in."""
TOO_MANY_REQUESTS = 429
RETRIED_STATUS = frozenset({408, 425, 429})


def is_transient(error: BaseException) -> bool:
    """Tell whether a call that failed so may succeed later.

    Of HTTP's answers 408, 425, 429 and 5xx are transient, other 4xx are not. `PermanentError` and the exceptions that
    mean a bug (`TypeError`, `ValueError`, `LookupError`, …) are not. Everything else is: connections, time limits,
    exceptions unknown.
    """
    status = http_status(error)
    if status is not None and 400 <= status < 500:  # noqa: PLR2004
        return status in RETRIED_STATUS
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):  # which aiohttp has among the others
        return False
    return isinstance(error, TransientError | aiohttp.ClientError) or not isinstance(error, PERMANENT)


def http_status(error: BaseException) -> int | None:
    """Return the status that a server answered, or None where it answered none."""
    if not isinstance(error, aiohttp.ClientResponseError):
        return None
    # aiohttp gives status 400 to what it cannot parse, though no server said so
    return None if isinstance(error.__cause__, HttpProcessingError) else error.status


def retry_after(error: BaseException) -> float | None:
    """Return how long the service asked to wait, seconds, or None where it did not say."""
    if isinstance(error, TransientError):
        return error.retry_after
    if isinstance(error, aiohttp.ClientResponseError) and error.headers is not None:
        return parse_retry_after(error.headers.get("Retry-After"), time.time())
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
        at = parsedate_to_datetime(value)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return None


full_jitter = wait_random_exponential(multiplier=0.5, max=30)
"""Up to 0.5 s, 1 s, 2 s, … 30 s. Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""
transient = retry_if_exception(is_transient)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When to try again; tenacity's objects are taken as they are."""

    wait: Wait = full_jitter
    retry: Predicate = transient
    before_sleep: Callback | None = None


class Attempts:
    """The attempts at one call. What tenacity needs is made at the first failure, not before.

    Attributes:
        count: Attempts so far.
        failures: Those of them that count as failures, which the next wait grows with.
        error: The last one's.
    """

    __slots__ = ("_policy", "_state", "count", "error", "failures")

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._state: RetryCallState | None = None
        self.count = 0
        self.failures = 0
        self.error: BaseException | None = None

    def failed(self, error: BaseException, remaining: float) -> float | None:
        """Return how long to wait, seconds, or None when retrying cannot mend it.

        A wait takes at most half of the age that remains, so that there are attempts shortly before the end of it: a
        service that comes back in time finds the event still there. What a service asks for is waited for, however
        long; the event may then be too old.

        Args:
            error: Why the attempt failed.
            remaining: Seconds until the event is too old; of several until the last of them is.
        """
        self.error = error
        state = self._state
        if state is None:
            state = self._state = RetryCallState(Retrying(wait=self._policy.wait), None, (), {})
            state.attempt_number = self.failures + 1
        state.set_exception((type(error), error, error.__traceback__))
        limited = isinstance(error, RateLimitedError) or http_status(error) == TOO_MANY_REQUESTS
        if not limited and not self._policy.retry(state):
            return None
        longest = remaining / 2 if remaining / 2 > LAST else remaining
        wait = max(min(self._policy.wait(state), longest), retry_after(error) or 0.0, SHORTEST)
        if self._policy.before_sleep is not None:
            state.next_action = RetryAction(wait)
            state.upcoming_sleep = wait
            self._policy.before_sleep(state)
        state.idle_for += wait
        number = state.attempt_number
        state.prepare_for_next_attempt()
        if limited:
            state.attempt_number = number
        self.failures = state.attempt_number - 1
        return wait


def why(letter: DeadLetter) -> str:
    """Return the reason of a dead letter; of one that became too old, also what kept it."""
    kept = letter.error.__cause__ if letter.outcome == "expired" and letter.error is not None else None
    return letter.reason if kept is None else f"{letter.reason}, {reason(kept)}"


def reason(error: BaseException) -> str:
    """Return a word or two for a counter."""
    if isinstance(error, RxCompactError):
        return error.reason
    status = http_status(error)
    if status is not None:
        return f"HTTP {status}"
    return type(error).__name__
