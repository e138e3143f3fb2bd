"""What to do when a call failed: try again after a wait, give up, or let the event grow too old."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from rxcompact.clock import INFINITY, Seconds, seconds
from rxcompact.errors import ArgumentError, ExpiredError, RxCompactError
from rxcompact.format import error_text, short
from rxcompact.log import log
from rxcompact.operators.verdict import VERDICTS, http_status, is_transient, retry_after, verdict

if TYPE_CHECKING:  # which takes long, and few commands retry anything
    from tenacity import RetryCallState, Retrying

Wait: TypeAlias = Seconds | Callable[[Any], Any]
"""Seconds, a tenacity wait, or a function or coroutine function like one."""
Predicate: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Any], Any]
"""Exceptions, a tenacity retry condition, or a function or coroutine function like one."""
Callback: TypeAlias = Callable[[Any], Any]
"""A tenacity ``before_sleep`` callback, or a function or coroutine function like one."""

SHORTEST = 0.001
"""Seconds: a shorter wait would be a busy loop."""
LAST_PART = 0.1
"""Of its age: where the last attempt is made of an event that would expire in a wait."""
MINUTE = 60.0
T = TypeVar("T")


class OncePerMinute:
    """Logs at most one line a minute for each cause."""

    def __init__(self, level: str, line: str) -> None:
        self._level, self._line = level, line
        self._logged: dict[Hashable, tuple[float, int]] = {}  # when, and how often it has come up since

    def __call__(self, *cause: Any, text: object = "") -> None:
        """Log a line, filled in with a cause and a text."""
        now = time.monotonic()
        last, since = self._logged.get(cause, (-MINUTE, 0))
        if now - last < MINUTE:
            self._logged[cause] = last, since + 1
            return
        self._logged[cause] = now, 0
        before = f" ({since} more in the minutes before)" if since else ""
        log(self._level, self._line + "{before}", *cause, text=text, before=before)


log_denied = OncePerMinute("ERROR", "{}: are the credentials right?")


def reason(error: BaseException) -> str:
    """Return a word or two for a counter."""
    if isinstance(error, RxCompactError):
        return error.reason
    if isinstance(error, BaseExceptionGroup):
        return reason(min(error.exceptions, key=lambda each: VERDICTS.index(verdict(each))))
    status = http_status(error)
    return f"HTTP {status}" if status is not None else type(error).__name__


def describe(error: BaseException) -> str:
    """Return an error's text in a line; of an HTTP status not the URL, which may hold secrets."""
    if isinstance(error, RxCompactError) and str(error):
        return short(str(error), 200)
    return reason(error) if http_status(error) is not None else error_text(error)


def expired_error(age: float, max_age: float, attempts: int, cause: BaseException | None) -> ExpiredError:
    """Return the error of an event that is too old, with the last error's text."""
    error = ExpiredError(age, max_age, attempts, None if cause is None else describe(cause))
    if cause is not None:
        error.reason = f"{error.reason}, {reason(cause)}"
    error.__cause__ = cause
    return error


def alike(failed: Sequence[tuple[T, BaseException]]) -> Collection[Sequence[tuple[T, BaseException]]]:
    """Group what failed alike, and is asked to wait alike: one attempt failed, however many events it was for."""
    groups: dict[Hashable, list[tuple[T, BaseException]]] = {}
    kinds: dict[int, Hashable] = {}  # a date is another number of seconds each time it is looked at
    for entry, error in failed:
        if id(error) not in kinds:
            asked = retry_after(error)
            kinds[id(error)] = type(error), http_status(error), asked if asked is None else f"{asked:.0f}"
        groups.setdefault(kinds[id(error)], []).append((entry, error))
    return groups.values()


def without_frames(error: BaseException) -> BaseException:
    """Drop the traceback of an error and of those it came from: their frames hold a batch; a note names the last line.

    The garbage collector does not look into a `Compacted` whose event may hold the error.
    """
    chain: list[BaseException | None] = [error]
    for each in chain:
        if each is None or (last := each.__traceback__) is None:
            continue
        while last.tb_next is not None:
            last = last.tb_next
        code = last.tb_frame.f_code
        with suppress(Exception):
            note = f"raised in {code.co_name}, {code.co_filename}:{last.tb_lineno}"
            if note not in getattr(each, "__notes__", ()):  # the same object may be raised again and again
                each.add_note(note)
        BaseException.with_traceback(each, None)
        chain += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
    return error


# ── the policy ────────────────────────────────────────────────────────────────────────────────────────────────────


def backoff(failures: int) -> float:
    """Return up to 0.5 s, 1 s, 2 s, … 30 s.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.uniform(0, min(30, 0.5 * 2 ** min(failures - 1, 6)))  # noqa: S311


def full_jitter(state: RetryCallState) -> float:
    """Return how long to wait by `backoff`."""
    return backoff(state.attempt_number)


def transient(state: RetryCallState) -> bool:
    """Return whether a retry may mend what failed."""
    error = None if state.outcome is None else state.outcome.exception()
    return error is not None and is_transient(error)


def retry_policy(
    wait: Wait = full_jitter, retry: Predicate = transient, before_sleep: Callback | None = None
) -> Retrying:
    """Return when to try again; tenacity's objects are taken as they are.

    Raises:
        ArgumentError: for an argument that cannot be one.
    """
    import tenacity  # noqa: PLC0415 - as above

    if not callable(wait):
        wait = tenacity.wait_fixed(seconds("wait", wait, zero=True, infinite=True))
    types = retry if isinstance(retry, tuple) else (retry,)
    if all(isinstance(each, type) and issubclass(each, BaseException) for each in types):
        retry = tenacity.retry_if_exception_type(types)  # type: ignore[arg-type]
    for argument, value, expected in (
        ("wait", wait, "seconds, a timedelta, a tenacity wait or a function of its retry state"),
        ("retry", retry, "exceptions, a tenacity condition or a function of its retry state"),
        ("before_sleep", before_sleep or is_async, "a function of a retry state"),
    ):
        if not callable(value) or isinstance(value, type):  # a class of tenacity's that was not called
            raise ArgumentError(argument, value, expected)
    policy: Any = {"wait": wait, "retry": retry, "before_sleep": before_sleep}
    return tenacity.Retrying(**policy)


def is_async(policy: Retrying) -> bool:
    """Return whether one of a policy's functions is a coroutine function."""
    functions = filter(None, (policy.wait, policy.retry, policy.before_sleep))
    return any(iscoroutinefunction(each) or iscoroutinefunction(type(each).__call__) for each in functions)


async def _value(function: Callable[[RetryCallState], Any], state: RetryCallState) -> Any:
    value = function(state)
    return await value if hasattr(value, "__await__") else value


class Attempts:
    """The attempts at one call. What tenacity needs is made at the first failure, not before.

    Attributes:
        count: Attempts so far.
        failures: Those of them that count as failures, which the next wait grows with.
        error: The last one's.
        asked: Seconds that the service asked to wait with it.
        wait: Seconds to wait after it, by the policy.
        last: Whether the next attempt is the last.
    """

    count = failures = 0
    error: BaseException | None = None
    asked = wait = 0.0
    last = False
    _state: RetryCallState | None = None

    def __init__(self, policy: Retrying, max_age: float) -> None:
        self._policy, self._max_age = policy, max_age

    async def failed(self, error: BaseException) -> float | None:
        """Return how long to wait by the policy, seconds, or None when retrying cannot mend the error.

        Raises:
            ArgumentError: for a wait that is no duration; and whatever the policy raises.
        """
        self.error = error
        state = self._state
        if state is None:
            from tenacity import RetryCallState  # noqa: PLC0415 - as above

            state = self._state = RetryCallState(self._policy, None, (), {})
        state.attempt_number = self.failures + 1
        state.set_exception((type(error), error, error.__traceback__))
        meaning = verdict(error)
        if meaning != "rate limited":
            if not await _value(self._policy.retry, state):
                return None
            self.failures += 1
        if meaning == "denied" and not isinstance(error, RxCompactError):  # our client has logged its own
            log_denied(describe(error))
        self.asked = retry_after(error) or 0.0
        wait = seconds("wait", await _value(self._policy.wait, state), zero=True, infinite=True)
        self.wait = max(wait, self.asked, SHORTEST)
        return self.wait

    def fit(self, remaining: float) -> float:
        """Return how long to wait where ``remaining`` seconds of age are left; infinity where no attempt is due.

        The wait given is the wait taken, where it ends in time. Of what would expire in it one last attempt is made,
        at a random instant of the last tenth of its age, unless the service asked for more time than there is.
        """
        if self.last or self.asked >= remaining:
            return INFINITY
        if self.wait < remaining:
            return self.wait
        self.last = True
        return max(self.asked, remaining - random.random() * min(remaining, LAST_PART * self._max_age))  # noqa: S311

    async def before_sleep(self, wait: float) -> None:
        state = self._state
        if state is not None:
            from tenacity import RetryAction  # noqa: PLC0415 - as above

            state.next_action = RetryAction(wait)
            state.upcoming_sleep = wait
            if self._policy.before_sleep is not None:
                await _value(self._policy.before_sleep, state)
            state.idle_for += wait
            state.outcome = None  # which is a dozen objects for the garbage collector to look at
