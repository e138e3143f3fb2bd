"""A circuit breaker: while a service fails, probes alone are sent to it."""

from __future__ import annotations

from rxcompact.clock import INFINITY

FAILURES, WITHIN = 12, 5.0
"""In a row, and seconds: so many in so few open it. Fewer are no more than the probes it would send."""
SILENCE = 4
"""Failures that a call counts for which was not answered in its time: three of them open it."""
PAUSE, LONGEST = 1.0, 1.25
"""Seconds between probes, at first and later: full speed within two of the service's return is the promise."""


class Breaker:
    """Opens when calls fail in a row; each answer then lets two more go, so that they double with each round trip.

    It closes when as many were answered as may be under way at once, or nothing is held.

    Attributes:
        opened: When it opened; None while it is closed.
        error: The failure that opened it.
        lost: What its stage had lost then.
        successes: Answers since, less failures.
    """

    def __init__(self, most: int) -> None:
        self._most = most  # calls that may be under way at once
        self.opened: float | None = None
        self.error: BaseException | None = None
        self.lost = self.successes = 0
        self._failures, self._first = 0, -INFINITY  # in a row, and when the first was, or the last without an answer

    def failed(self, now: float, error: BaseException, silent: float) -> bool:
        """Note a failure, after seconds without an answer or 0; return whether it opens."""
        is_first = now - silent >= self._first + WITHIN
        self._failures = (0 if is_first else self._failures) + (SILENCE if silent else 1)
        if is_first or silent:
            self._first = now
        self.successes = max(0, self.successes - 1)
        if self.opened is not None or self._failures < FAILURES:
            return False
        self.opened, self.error = now, error
        return True

    def succeeded(self) -> None:
        """Note an answer."""
        self._failures = 0
        self.successes += self.opened is not None

    def closes(self, held: object) -> bool:
        """Return whether it closes, where it is open."""
        if self.opened is None or (held and self.successes < self._most):
            return False
        self.opened, self.successes = None, 0
        return True

    def pause(self, now: float) -> float:
        """Return how long it is until the next probe, seconds."""
        return PAUSE if self.opened is None or now < self.opened + WITHIN else LONGEST
