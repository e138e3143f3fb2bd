"""Reports losses and failures in the log: when they begin, once a minute, and when they are over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, TypeAlias

from loguru import logger

from rxcompact.events import DeadLetter
from rxcompact.observers.statistics import ENDED, Snapshot
from rxcompact.operators.retry import reason, why
from rxcompact.render.format import duration, error_name, error_text
from rxcompact.signals import ObserverFailed, RetryScheduled, Signal, SourceFailed, State

TICK = 1.0
"""Seconds from the first failure to its report, and between two looks while something fails."""
PERIOD = 60.0
"""Seconds between two reports of a cause."""
SPORADIC = 10
"""A stage fails when it lets through fewer than so many events for each failed call."""
STEADY = 10.0
"""Seconds without failure after which a source works again, though it has emitted nothing yet."""

Cause: TypeAlias = tuple[str, str, str]
"""An outcome or "failing", stage and reason."""


@dataclass(slots=True)
class _Failing:
    """A stage, or the source, that fails."""

    since: float
    lost: int
    """Events that had been lost by then."""
    reported: bool = False


class ReportObserver:
    """An observer that logs a WARNING when losses or failures begin, and at most one a minute for each cause.

    It logs a line of level INFO when a stage or the source works again, and when a run ends that lost events. A line
    has counts and the text of the last error, less the credentials and queries of URLs; it has no events. A call that
    fails now and then is no failure of its stage. The record's ``extra`` has the same for machines: ``event``,
    ``stage``, ``outcome``, ``reason``, ``count``, ``error``, ``attempts``, ``age``.

    An orchestrator has one from the start.

    Cost:
        Microseconds for each failed call and dead letter; once a second, while there are any, a snapshot.
    """

    def __init__(self) -> None:
        self._run: Any = None
        self._state: State = "idle"
        self._timer: asyncio.TimerHandle | None = None
        self._reset()

    def _reset(self) -> None:
        self._counted = Snapshot()  # as of the last look: failures since then are new
        self._base = Snapshot()  # as of the first failure since then, for what passed a stage meanwhile
        self._errors: dict[Cause, BaseException] = {}  # since the last look
        self._texts: dict[Cause, tuple[str, str]] = {}  # of the last errors: type, and all of it
        self._reported: dict[Cause, tuple[float, int]] = {}  # when, and how many there were
        self._failing: dict[str, _Failing] = {}
        self._resubscribed = 0.0  # when the source was, or will be; infinity when it was given up

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────────────

    def on_attach(self, run: Any) -> None:
        """Report on this run."""
        self._run = run

    def on_state(self, state: State) -> None:
        before, self._state = self._state, state
        if state == "running" and before in ENDED:
            self._reset()
        elif state in ENDED and state != "idle":
            self._end(state)

    def on_batch(self, _: object) -> None:
        if self._failing and self._timer is None:
            self._arm(TICK)

    on_window = on_batch

    def on_dead_letter(self, letter: DeadLetter) -> None:
        cause = letter.error.__cause__ if letter.outcome == "expired" and letter.error is not None else None
        self._note((letter.outcome, letter.stage, why(letter)), cause or letter.error)

    def on_signal(self, signal: Signal) -> None:
        match signal:
            case RetryScheduled(stage, _, _, error):
                self._note(("failing", stage, reason(error)), error)
            case SourceFailed(error, _, wait):
                self._resubscribed = asyncio.get_running_loop().time() + (inf if wait is None else wait)
                self._note(("failing", "source", ""), error)
            case ObserverFailed(observer, error, failures, detached) if failures == 1 or detached:
                end = f"{failures} times in a row and is detached" if detached else "an error"
                _warn(
                    f"observer {observer} raised {end}: {error_text(error)}",
                    event="observer failed",
                    error=error_name(error),
                )
            case _:
                pass

    def _note(self, cause: Cause, error: BaseException | None) -> None:
        if error is not None:
            self._errors[cause] = error
        if self._timer is None:
            self._base = self._run.statistics.snapshot()
        if self._timer is None or self._timer.when() > asyncio.get_running_loop().time() + TICK:
            self._arm(TICK)

    def _arm(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    # ── what is reported ──────────────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> None:
        """Report what is new; look again while something fails, or when what was held back may be reported."""
        self._timer = None
        held_back = self._report()
        if self._failing and self._counted.account.in_flight:
            self._arm(TICK)
        elif "source" in self._failing:
            self._arm(STEADY)
        elif held_back is not None:
            self._arm(held_back)

    def _report(self) -> float | None:
        """Report; return in how many seconds the next report is due that the period holds back."""
        at, now = asyncio.get_running_loop().time(), self._run.statistics.snapshot()
        self._texts |= {cause: (error_name(error), error_text(error)) for cause, error in self._errors.items()}
        self._errors.clear()
        failed = {stage: _sum(now.retries, stage) - _sum(self._counted.retries, stage) for stage, _ in now.retries}
        for stage, count in failed.items():
            self._judge(now, at, stage, count, _passed(now, stage) - _passed(self._base, stage))
        count = now.failures.get("source", 0) - self._counted.failures.get("source", 0)
        steady = at >= self._resubscribed + STEADY
        self._judge(now, at, "source", count, steady or now.account.received - self._base.account.received)
        self._counted = self._base = now
        due: list[float] = []
        for cause, total in _causes(now).items():
            last, before = self._reported.get(cause, (-PERIOD, 0))
            if total == before or (cause[0] == "failing" and cause[1] not in self._failing):
                continue
            if at - last < PERIOD:
                due.append(last + PERIOD - at)
                continue
            self._reported[cause] = at, total
            self._log(now, cause, total - before)
        return min(due, default=None)

    def _judge(self, now: Snapshot, at: float, stage: str, failed: int, passed: int) -> None:
        """Decide whether a stage fails, of what it did since the last look."""
        failing = self._failing.get(stage)
        if failed and passed < SPORADIC * failed:
            if failing is None:
                self._failing[stage] = _Failing(at - TICK, _lost(now))
        elif failing is not None and passed and not failed:
            del self._failing[stage]
            if failing.reported:
                lost = _lost(now) - failing.lost
                meanwhile = f"; {_events(lost)} lost meanwhile" if lost else ""
                logger.bind(event="recovered", stage=stage, count=lost).info(
                    "{} works again after {}{}", stage, duration(at - failing.since), meanwhile
                )

    def _log(self, now: Snapshot, cause: Cause, count: int) -> None:
        kind, stage, why_ = cause
        error, text = self._texts.get(cause, ("", ""))
        last = f"; last error: {text}" if text else ""
        extra: dict[str, Any] = {"stage": stage, "count": count, "error": error}
        if kind != "failing":
            where = "at intake" if kind == "rejected" else f"at {stage}"
            _warn(f"{_events(count)} {kind} {where} ({why_}){last}", event="lost", outcome=kind, reason=why_, **extra)
            return
        self._failing[stage].reported = True
        if stage == "source":
            end = ", given up" if self._resubscribed == inf else ""
            _warn(f"source failed {count:,} time{'s' * (count != 1)}{end}{last}", event="failing", **extra)
            return
        oldest = now.stages[stage].oldest if stage in now.stages else None
        age = "" if oldest is None else f"; oldest event {duration(oldest)} of {duration(now.max_age)}"
        calls = f"{count:,} call{'s' * (count != 1)} failed"
        _warn(f"{stage}: {calls}{last}{age}", event="failing", reason=why_, age=oldest, **extra)

    def _end(self, state: State) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._report()
        now = self._counted
        if state == "failed" and self._resubscribed != inf:
            error = next((each.error for each in self._run.stages.values() if each.error is not None), None)
            _warn(f"the run failed: {error_text(error)}", event="failed", error=error_name(error))
        if lost := _lost(now) + now.account.rejected:
            logger.bind(event="ended", count=lost).info("{} after {}: {}", state, duration(now.uptime), now.account)


def _warn(message: str, **extra: Any) -> None:
    logger.opt(depth=1).bind(**extra).warning("{}", message)


def _causes(now: Snapshot) -> Mapping[Cause, int]:
    causes: dict[Cause, int] = {("failing", stage, why_): count for (stage, why_), count in now.retries.items()}
    return causes | {("failing", "source", ""): now.failures.get("source", 0)} | dict(now.dead_letters)


def _sum(retries: Mapping[tuple[str, str], int], stage: str) -> int:
    return sum(count for (each, _), count in retries.items() if each == stage)


def _passed(now: Snapshot, stage: str) -> int:
    """Return how many events have left a stage for the next one."""
    names = list(now.stages)
    after = names[names.index(stage) + 1 :] if stage in names else []
    return now.account.published + sum(now.stages[name].held + now.stages[name].dead_letters for name in after)


def _lost(now: Snapshot) -> int:
    """Return how many distinct events became dead letters."""
    return now.account.distinct - now.account.published - now.account.in_flight


def _events(count: int) -> str:
    return f"{count:,} event{'s' * (count != 1)}"
