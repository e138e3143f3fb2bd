"""Logs each signal; or losses and failures, when they begin, once a minute, and when they are over, by loguru."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from math import inf
from typing import Any, TypeAlias

from loguru import logger

from rxcompact.events import DeadLetter
from rxcompact.format import counted, duration, error_name, error_text, service_name, short
from rxcompact.observers.statistics import ENDED, count_cause
from rxcompact.operators.retry import reason
from rxcompact.signals import ObserverFailed, RetryScheduled, Signal, SourceFailed, State

TICK = 1.0  # seconds from the first failure to its report, and between two looks while something fails
PERIOD = 60.0  # seconds between two reports of a cause
SPORADIC = 10  # a stage fails when it lets through fewer than so many events for each failed call
STEADY = 10.0  # seconds without failure after which a source works again, though it has emitted nothing yet


Cause: TypeAlias = tuple[str, str, str, str]
"""An outcome or "failing", stage, target and reason: what is counted, and reported once a minute."""


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


class ReportObserver:
    """An observer that logs a WARNING when losses or failures begin, and at most one a minute for each cause.

    It logs a line of level INFO when a stage or the source works again, and when a run ends that lost events. A call
    that fails now and then is no failure of its stage. The record's ``extra`` has the same for machines: ``event``,
    ``stage``, ``target``, ``outcome``, ``reason``, ``count``, ``error``, ``age``. Each orchestrator has one at first.

    Cost:
        Microseconds for each failed call and dead letter.
    """

    def __init__(self) -> None:
        self._run: Any = None
        self._state: State = "idle"
        self._timer: asyncio.TimerHandle | None = None
        self._reset()

    def _reset(self) -> None:
        self._counts: Counter[Cause] = Counter()
        self._failed: Counter[str] = Counter()  # failures since the last look, by stage
        self._passed: dict[str, int] = {}  # events that had left each stage as of the last look
        self._errors: dict[Cause, BaseException] = {}  # the last of each
        self._reported: dict[Cause, tuple[float, int]] = {}  # when, and how many there were
        self._failing: dict[str, tuple[float, int]] = {}  # since when, and how many events were lost by then
        self._resubscribed = 0.0  # when the source was, or will be; infinity when it was given up

    def on_attach(self, run: Any) -> None:
        """Report on this run."""
        self._run = run

    def on_state(self, state: State) -> None:
        before, self._state = self._state, state
        if state == "running" and before in ENDED:
            self._reset()
        elif state in ("stopped", "failed"):
            self._end(state)

    def on_dead_letter(self, letter: DeadLetter) -> None:
        cause = letter.error.__cause__ if letter.outcome == "expired" and letter.error is not None else None
        self._note((letter.outcome, letter.stage, "", letter.reason), cause or letter.error)

    def on_signal(self, signal: Signal) -> None:
        match signal:
            case RetryScheduled(stage, error=error, target=target):
                self._note(("failing", stage, target, reason(error)), error)
                self._failed[stage] += 1
            case SourceFailed(error, _, wait):
                self._resubscribed = asyncio.get_running_loop().time() + (inf if wait is None else wait)
                self._note(("failing", "source", "", ""), error)
                self._failed["source"] += 1
            case ObserverFailed(observer, error, failures, detached) if failures == 1 or detached:
                end = f"{failures} times in a row and is detached" if detached else "an error"
                text = f"observer {observer} raised {end}: {error_text(error)}"
                _log(text, event="observer failed", error=error_name(error))
            case _:
                pass

    def _note(self, cause: Cause, error: BaseException | None) -> None:
        cause = count_cause(self._counts, cause)
        if error is not None:
            self._errors[cause] = error
        self._look_soon()

    def on_window(self, _: object) -> None:
        if self._failing:
            self._look_soon()

    def _look_soon(self) -> None:
        if self._timer is None:
            self._passed = self._count_passed()
            self._timer = asyncio.get_running_loop().call_later(TICK, self._look)

    def _look(self) -> None:
        """Report what is new; look again while what fails holds events, or the period holds something back."""
        again = self._report() or "source" in self._failing or (self._failing and self._run.account.in_flight)
        self._timer = asyncio.get_running_loop().call_later(TICK, self._look) if again else None

    def _count_passed(self) -> dict[str, int]:
        """Return how many events have left each stage for the next one."""
        account, passed = self._run.account, dict[str, int]()
        left = account.published
        for name, now in reversed(self._run.stages.items()):
            passed[name] = left
            left += now.held + now.dead_letters
        return passed | {"source": account.received}

    def _report(self) -> bool:
        """Report what is new; return whether the period holds something back."""
        at, passed = asyncio.get_running_loop().time(), self._count_passed()
        for stage in {*self._failed, *self._failing}:
            steady = stage == "source" and at >= self._resubscribed + STEADY
            self._judge(stage, int(steady) or passed.get(stage, 0) - self._passed.get(stage, 0), at)
        self._passed = passed
        self._failed.clear()
        held_back = False
        for cause, total in self._counts.items():
            then, before = self._reported.get(cause, (-PERIOD, 0))
            if total == before or (cause[0] == "failing" and cause[1] not in self._failing):
                continue
            if at - then < PERIOD:
                held_back = True
            else:
                self._reported[cause] = at, total
                self._warn(cause, total - before)
        return held_back

    def _judge(self, stage: str, passed: int, at: float) -> None:
        """Decide whether a stage fails, by how many events it let through since the last look."""
        failed = self._failed[stage]
        if failed and passed < SPORADIC * failed:
            self._failing.setdefault(stage, (at - TICK, self._run.account.lost))
        elif stage in self._failing and passed and not failed:
            since, before = self._failing.pop(stage)
            # where the period held back the warning, this is held back too
            warned = [cause for cause, (then, _) in self._reported.items() if cause[1] == stage and then >= since]
            if warned:
                lost, target = self._run.account.lost - before, ", ".join(sorted({cause[2] for cause in warned} - {""}))
                meanwhile = f"; {counted(lost, 'event')} lost meanwhile" if lost else ""
                text = f"{service_name(stage, target)} works again after {duration(at - since)}{meanwhile}"
                _log(text, "INFO", event="recovered", stage=stage, target=target, count=lost)

    def _warn(self, cause: Cause, count: int) -> None:
        kind, stage, target, why = cause
        error = self._errors.get(cause)
        last = f"; last error: {error_text(error)}" if error is not None else ""
        extra: dict[str, Any] = {"event": "failing", "stage": stage, "count": count, "error": error_name(error)}
        if kind != "failing":
            where = "at intake" if kind == "rejected" else f"at {stage}"
            line = f"{counted(count, 'event')} {kind} {where} ({why}){last}"
            extra |= {"event": "lost", "outcome": kind, "reason": why}
        elif stage == "source":
            line = f"source failed {counted(count, 'time')}{', given up' * (self._resubscribed == inf)}{last}"
        else:
            oldest, limit = self._run.stages[stage].oldest, self._run.pipeline.max_age
            age = "" if oldest is None else f"; oldest event {duration(oldest)} of {duration(limit)}"
            line = f"{service_name(stage, target)}: {counted(count, 'call')} failed{last}{age}"
            extra |= {"reason": why, "target": target, "age": oldest}
        _log(line, **extra)

    def _end(self, state: State) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._report()
        run = self._run
        if state == "failed" and self._resubscribed != inf:
            error = next((each.error for each in run.stages.values() if each.error is not None), None)
            _log(f"the run failed: {error_text(error)}", event="failed", error=error_name(error))
        if lost := run.account.lost + run.account.rejected:
            text = f"{state} after {duration(run.uptime)}, {counted(lost, 'event')} lost"
            _log(text, "INFO", event="ended", count=lost)


def _log(text: str, level: str = "WARNING", **extra: Any) -> None:
    logger.bind(**extra).log(level, "{}", text)
