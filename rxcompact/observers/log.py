"""Logs each signal, by loguru."""

from __future__ import annotations

import re

from loguru import logger

from rxcompact.format import short
from rxcompact.operators.retry import reason
from rxcompact.signals import Signal

LEVELS = {
    "WindowClosed": "DEBUG",
    "RetryScheduled": "DEBUG",
    "DeadLettered": "WARNING",
    "Failing": "WARNING",
    "Healed": "INFO",
    "StateChanged": "INFO",
    "SourceFailed": "ERROR",
    "ObserverFailed": "ERROR",
}
"""Of the signals that are logged."""
FIELDS = (
    *("old", "new", "outcome", "stage", "target", "observer", "trigger", "received", "distinct", "attempt", "attempts"),
    *("failures", "age", "wait", "after", "lost", "detached", "reason"),
)
"""That a line has: no keys, no events, no messages of errors, which may be secret."""


class LogObserver:
    """An observer of signals that logs each of them; `ReportObserver` sums up what goes wrong.

    A line has the name of the signal and its fields, and the record's ``extra`` has them for machines: the name as
    ``event``, ``pipeline``, and of an error the ``reason``. There are no events, and no messages of errors.
    """

    def __call__(self, signal: Signal) -> None:
        if (level := LEVELS.get(name := type(signal).__name__)) is None:
            return
        record = getattr(signal, "letter", signal)
        fields = {field: value for field in FIELDS if (value := getattr(record, field, None)) not in (None, "")}
        if (error := getattr(signal, "error", None)) is not None:
            fields["reason"] = reason(error)
        event = re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()
        text = ", ".join(f"{field} {short(value)}" for field, value in fields.items())
        logger.bind(event=event, pipeline=signal.pipeline, **fields).log(level, "{}: {}", event, text)
