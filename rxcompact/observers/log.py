"""Logs each signal, by loguru."""

from __future__ import annotations

import re
from typing import Any

from loguru import logger

from rxcompact.format import error_name
from rxcompact.operators.retry import reason
from rxcompact.signals import (
    DeadLettered,
    Failing,
    Healed,
    ObserverFailed,
    RetryScheduled,
    Signal,
    SourceFailed,
    StateChanged,
    WindowClosed,
)

NAMES = ("stage", "target", "outcome", "reason", "attempt", "attempts", "age")


class LogObserver:
    """An observer of signals that logs each of them; `ReportObserver` sums up what goes wrong.

    Neither events nor messages of errors are logged, which may be secret, unless asked for. The record's ``extra`` has
    the same for machines: ``event``, ``pipeline``, ``stage``, ``target``, ``outcome``, ``reason``, ``attempt``,
    ``attempts``, ``age``.

    Args:
        bodies: Log the events of dead letters, and the messages of errors.
    """

    def __init__(self, *, bodies: bool = False) -> None:
        self._bodies = bodies

    def __call__(self, signal: Signal) -> None:
        match signal:
            case WindowClosed(_, _, trigger, received, distinct):
                level, line = "DEBUG", f"window closed by {trigger}: received {received}, distinct {distinct}"
            case DeadLettered(letter):
                event = f" {letter.event!r}" if self._bodies else ""
                level, line = "WARNING", f"{letter.outcome} at {letter.stage}: {letter.reason}{event}"
            case RetryScheduled(stage, attempt, wait, error):
                level, line = "DEBUG", f"{stage} attempt {attempt} failed, {_next(wait)}: {self._text(error)}"
            case Failing(stage, target, error):
                level, line = "WARNING", f"{stage} {target} is down, probes alone are sent: {self._text(error)}"
            case Healed(stage, target, after, lost):
                level, line = "INFO", f"{stage} {target} answers again after {after:.1f} s, {lost} events lost"
            case SourceFailed(error, failures, wait):
                level, line = "ERROR", f"source failed ({failures} in a row), {_next(wait)}: {self._text(error)}"
            case ObserverFailed(observer, error, failures, detached):
                end = ", detached" if detached else ""
                level, line = "ERROR", f"observer {observer} raised {self._text(error)} ({failures} in a row){end}"
            case StateChanged(old, new):
                level, line = "INFO", f"{old} → {new}"
            case _:
                return
        event = re.sub(r"(?<!^)(?=[A-Z])", " ", type(signal).__name__).lower()
        record: Any = getattr(signal, "letter", signal)
        extra = {name: getattr(record, name) for name in NAMES if hasattr(record, name)}
        if (failure := getattr(signal, "error", None)) is not None:
            extra["reason"] = reason(failure)
        logger.bind(event=event, pipeline=signal.pipeline, **extra).log(level, "{}", line)

    def _text(self, error: BaseException) -> str:
        return repr(error) if self._bodies else error_name(error)


def _next(wait: float | None) -> str:
    return "given up" if wait is None else f"again in {wait:.3f} s"
