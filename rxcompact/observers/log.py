"""Logs what happened, by loguru."""

from __future__ import annotations

from loguru import logger

from rxcompact.operators.retry import why
from rxcompact.signals import (
    DeadLettered,
    ObserverFailed,
    RetryScheduled,
    Signal,
    SourceFailed,
    StateChanged,
    WindowClosed,
)


class LogObserver:
    """An observer of signals that logs each of them.

    Neither events nor the texts of errors are logged, which may hold what is secret, unless asked for.

    Args:
        bodies: Log the events of dead letters, and the texts of errors.
    """

    def __init__(self, *, bodies: bool = False) -> None:
        self._bodies = bodies

    def __call__(self, signal: Signal) -> None:
        match signal:
            case WindowClosed():
                logger.debug(
                    "window closed by {}: received {}, distinct {}", signal.trigger, signal.received, signal.distinct
                )
            case DeadLettered(letter):
                logger.warning("{} at {}: {}{}", letter.outcome, letter.stage, why(letter), self._body(letter.event))
            case RetryScheduled():
                logger.info(
                    "{} attempt {} failed, again in {:.3f} s: {}",
                    signal.stage, signal.attempt, signal.wait, self._error(signal.error),
                )  # fmt: skip
            case SourceFailed():
                logger.error(
                    "source failed ({} in a row), again in {:.3f} s: {}",
                    signal.failures, signal.wait, self._error(signal.error),
                )  # fmt: skip
            case ObserverFailed():
                logger.error(
                    "observer {} raised {} ({} in a row){}",
                    signal.observer,
                    self._error(signal.error),
                    signal.failures,
                    ", detached" if signal.detached else "",
                )
            case StateChanged():
                logger.info("{} → {}", signal.old, signal.new)
            case _:
                pass

    def _error(self, error: BaseException) -> str:
        return repr(error) if self._bodies else type(error).__name__

    def _body(self, event: object) -> str:
        return f" {event!r}" if self._bodies else ""
