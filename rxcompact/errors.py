"""Every exception rxcompact raises or stores in a dead letter."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Self

from rxcompact.format import message_of


class RxCompactError(Exception):
    """Base of every error of this library."""

    reason = "error"
    """A word for a counter or a dead letter."""
    status: int | None = None
    """The HTTP status that a server answered."""

    def __init_subclass__(cls, reason: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.reason = reason or cls.reason

    def __reduce__(self) -> tuple[Any, ...]:
        # an exception is pickled by calling its class with what its message was made of
        return _restored, (type(self), self.args), self.__dict__


def _restored(cls: type[RxCompactError], args: tuple[Any, ...]) -> RxCompactError:
    return cls.__new__(cls, *args)


class ArgumentError(RxCompactError, ValueError):
    """An argument is out of its range; the message names it and its value."""

    def __init__(self, argument: str, value: object, expected: str) -> None:
        super().__init__(f"{argument} must be {expected}, got {value!r}")
        self.argument, self.value = argument, value


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, the last first."""
    seen: list[BaseException] = []
    while error is not None and all(error is not each for each in seen):  # its class may compare as it likes
        yield error
        seen.append(error)
        error = error.__cause__


def contained(error: BaseException) -> BaseException:
    """Return what a caller's code raised, but raise again what ends the program: SystemExit and KeyboardInterrupt."""
    if isinstance(error, SystemExit | KeyboardInterrupt):
        raise error
    return error


@contextmanager
def isolated(on_error: Callable[[BaseException], object]) -> Generator[None]:
    """Call a function with whatever a caller's code raises."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001 - the caller's code may raise anything
        on_error(contained(error))


class KeyMapperError(RxCompactError, reason="key"):
    """The key mapper raised, or its key cannot be hashed; the cause is chained."""


class TimeMapperError(RxCompactError, reason="time"):
    """The time mapper raised, or gave no finite number of seconds; the cause is chained."""


class AccumulatorError(RxCompactError, reason="accumulator"):
    """The accumulator raised on an event; what it had accumulated stays as it was."""

    @classmethod
    def of(cls, cause: BaseException) -> Self:
        """Return it for what the accumulator raised."""
        error = cls(f"accumulator raised {type(contained(cause)).__name__}: {message_of(cause)}".removesuffix(": "))
        error.__cause__ = cause
        return error


class DecodeError(RxCompactError, ValueError, reason="malformed"):
    """A line or body is not the JSON it should be; the message has the place and the reason."""


class TooLargeError(DecodeError, reason="too large"):
    """An input has more bytes or events than it may have."""


class LateError(RxCompactError, reason="late"):
    """The event's bucket had closed before the event came; ``late_by`` seconds of lateness would have kept it."""

    def __init__(self, closed: float, watermark: float, late_by: float) -> None:
        super().__init__(
            f"bucket ended at {closed}, the watermark is {watermark}; a lateness of {late_by:.6g} s keeps it"
        )
        self.closed, self.watermark, self.late_by = closed, watermark, late_by


class FutureError(RxCompactError, reason="future"):
    """The event's time is further ahead of the wall clock than is believable."""

    def __init__(self, time: float, now: float, tolerance: float) -> None:
        super().__init__(f"event time {time} is {time - now:.3f} s ahead of the clock, more than {tolerance} s")
        self.time, self.now, self.tolerance = time, now, tolerance


class NoRoomError(RxCompactError, reason="no room"):
    """A new key found no room."""

    def __init__(self, max_keys: int, unit: str = "") -> None:
        super().__init__(f"no room for a new key: {max_keys}{unit} are held")
        self.max_keys = max_keys


class TransientError(RxCompactError, reason="transient"):
    """The call failed in a way that a later one may not."""

    retry_after: float | None = None
    """How long the service asked to wait, seconds; None when it gave none."""


class RateLimitedError(TransientError, reason="rate limited"):
    """The service asked to wait; counts as no failure."""

    def __init__(self, message: str = "rate limited", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(RxCompactError, reason="permanent"):
    """The call failed and would fail again."""


class AnswerError(RxCompactError, TypeError, reason="answer"):
    """What an enricher or a sink returned is no answer."""


class ExpiredError(RxCompactError, reason="too old"):
    """The event grew too old before the call succeeded; the last error is chained."""

    def __init__(self, age: float, max_age: float, attempts: int, last: str | None = None) -> None:
        because = "" if last is None else f": {last}"
        super().__init__(f"too old after {attempts} attempts{because} (age {age:.3f} s, max_age {max_age} s)")
        self.age, self.max_age, self.attempts = age, max_age, attempts


class AbandonedError(RxCompactError, reason="stopped"):
    """The pipeline was stopped before the event was settled."""


class LoopError(RxCompactError, RuntimeError):
    """Something that needs a running asyncio loop was used without one."""


class InUseError(RxCompactError, RuntimeError):
    """A source is run by another orchestrator."""
