"""Every exception rxcompact raises or stores in a dead letter."""

from __future__ import annotations

from typing import Any


class RxCompactError(Exception):
    """Base of every error of this library."""

    reason = "error"
    """A word for a counter or a dead letter."""
    status: int | None = None
    """The HTTP status that a server answered."""

    def __reduce__(self) -> tuple[Any, ...]:
        # an exception is pickled by calling its class with what its message was made of
        return _restored, (type(self), self.args, self.__dict__)


def _restored(cls: type[RxCompactError], args: tuple[Any, ...], attributes: dict[str, Any]) -> RxCompactError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error


class ArgumentError(RxCompactError, ValueError):
    """An argument is out of its range; the message names it and its value."""

    def __init__(self, argument: str, value: object, expected: str) -> None:
        super().__init__(f"{argument} must be {expected}, got {value!r}")
        self.argument = argument
        self.value = value


class KeyMapperError(RxCompactError):
    """The key mapper raised, or its key cannot be hashed; the cause is chained."""

    reason = "key"


class TimeMapperError(RxCompactError):
    """The time mapper raised, or gave no finite number of seconds; the cause is chained."""

    reason = "time"


class AccumulatorError(RxCompactError):
    """The accumulator raised on an event; what it had accumulated stays as it was."""

    reason = "accumulator"


class DecodeError(RxCompactError, ValueError):
    """A line or body is not the JSON it should be; the message has the place and the reason."""

    reason = "malformed"


class TooLargeError(DecodeError):
    """An input has more bytes or events than it may have."""

    reason = "too large"


class LateError(RxCompactError):
    """The event's bucket had closed before the event came.

    Attributes:
        late_by: The lateness that would have kept the event, seconds.
    """

    reason = "late"

    def __init__(self, closed: float, watermark: float, late_by: float) -> None:
        super().__init__(
            f"bucket ended at {closed}, the watermark is {watermark}; a lateness of {late_by:.6g} s keeps it"
        )
        self.closed = closed
        self.watermark = watermark
        self.late_by = late_by


class FutureError(RxCompactError):
    """The event's time is further ahead of the wall clock than is believable."""

    reason = "future"

    def __init__(self, time: float, now: float, tolerance: float) -> None:
        super().__init__(f"event time {time} is {time - now:.3f} s ahead of the clock, more than {tolerance} s")
        self.time = time
        self.now = now
        self.tolerance = tolerance


class NoRoomError(RxCompactError):
    """A new key found no room."""

    reason = "no room"

    def __init__(self, max_keys: int) -> None:
        super().__init__(f"no room for a new key: {max_keys} are held")
        self.max_keys = max_keys


class TransientError(RxCompactError):
    """The call failed in a way that a later one may not."""

    reason = "transient"
    retry_after: float | None = None
    """How long the service asked to wait, seconds; None when it gave none."""


class RateLimitedError(TransientError):
    """The service asked to wait; counts as no failure.

    Attributes:
        retry_after: How long it asked to wait, seconds; None when it gave none.
    """

    reason = "rate limited"

    def __init__(self, message: str = "rate limited", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(RxCompactError):
    """The call failed and would fail again."""

    reason = "permanent"


class AnswerError(RxCompactError, TypeError):
    """What an enricher or a sink returned is no answer."""

    reason = "answer"


class ExpiredError(RxCompactError):
    """The event grew too old before the call succeeded; the last error is chained."""

    reason = "too old"

    def __init__(self, age: float, max_age: float, attempts: int, last: str | None = None) -> None:
        because = "" if last is None else f": {last}"
        super().__init__(f"too old after {attempts} attempts{because} (age {age:.3f} s, max_age {max_age} s)")
        self.age = age
        self.max_age = max_age
        self.attempts = attempts


class AbandonedError(RxCompactError):
    """The pipeline was stopped before the event was settled."""

    reason = "stopped"


class LoopError(RxCompactError, RuntimeError):
    """Something that needs a running asyncio loop was used without one."""


class InUseError(RxCompactError, RuntimeError):
    """A source is run by another orchestrator."""
