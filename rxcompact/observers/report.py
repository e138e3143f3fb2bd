"""Reports losses and failures in the log: when they begin, once a minute, and when they are over."""

from __future__ import annotations

import asyncio
from collections import Counter
from math import inf
from typing import Any

from loguru import logger

from rxcompact.events import DeadLetter
from rxcompact.format import duration, error_name, error_text
from rxcompact.observers.statistics import ENDED, Cause, Snapshot
from rxcompact.operators.retry import reason
from rxcompact.signals import ObserverFailed, RetryScheduled, Signal, SourceFailed, State

TICK = 1.0  # seconds from the first failure to its report, and between two looks while something fails
PERIOD = 60.0  # seconds between two reports of a cause
SPORADIC = 10  # a stage fails when it lets through fewer than so many events for each failed call
STEADY = 10.0  # seconds without failure after which a source works again, though it has emitted nothing yet


class ReportObserver:
    """An observer that logs a WARNING when losses or failures begin, and at most one a minute for each cause.

    It logs a line of level INFO when a stage or the source works again, and when a run ends that lost events. A line
    has counts and the text of the last error, less the credentials and queries of URLs; it has no events. A call that
    fails now and then is no failure of its stage. The record's ``extra`` has the same for machines: ``event``,
    ``stage``, ``outcome``, ``reason``, ``count``, ``error``, ``age``.

    An orchestrator has one from the start.

    Cost:
        Microseconds for each failed call and dead letter; once a second, while something fails, a snapshot.
    """

    def __init__(self) -> None:
        self._run: Any = None
        self._state: State = "idle"
        self._timer: asyncio.TimerHandle | None = None
        self._reset()

    def _reset(self) -> None:
        self._base = Snapshot()  # as of the last look, or the first failure since
        self._failed: Counter[str] = Counter()  # failures since the last look, by stage
        self._errors: dict[Cause, BaseException] = {}  # since the last look
        self._texts: dict[Cause, tuple[str, str]] = {}  # of the last errors: the type, and the text
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
        self._note((letter.outcome, letter.stage, letter.reason), cause or letter.error)

    def on_signal(self, signal: Signal) -> None:
        match signal:
            case RetryScheduled(stage, _, _, error):
                self._failed[stage] += 1
                self._note(("failing", stage, reason(error)), error)
            case SourceFailed(error, _, wait):
                self._failed["source"] += 1
                self._resubscribed = asyncio.get_running_loop().time() + (inf if wait is None else wait)
                self._note(("failing", "source", ""), error)
            case ObserverFailed(observer, error, failures, detached) if failures == 1 or detached:
                end = f"{failures} times in a row and is detached" if detached else "an error"
                text = f"observer {observer} raised {end}: {error_text(error)}"
                _warn(text, event="observer failed", error=error_name(error))
            case _:
                pass

    def _note(self, cause: Cause, error: BaseException | None) -> None:
        if error is not None:
            self._errors[cause] = error
        self._look_soon()

    def on_window(self, _: object) -> None:
        if self._failing:
            self._look_soon()

    def _look_soon(self) -> None:
        if self._timer is None:
            self._base = self._run.statistics.snapshot()
            self._timer = asyncio.get_running_loop().call_later(TICK, self._look)

    def _look(self) -> None:
        """Report what is new; look again while what fails holds events, or the period holds something back."""
        again = self._report() or "source" in self._failing or (self._failing and self._base.account.in_flight)
        self._timer = asyncio.get_running_loop().call_later(TICK, self._look) if again else None

    def _report(self) -> bool:
        """Report what is new; return whether the period holds something back."""
        at, now, base = asyncio.get_running_loop().time(), self._run.statistics.snapshot(), self._base
        self._texts |= {cause: (error_name(error), error_text(error)) for cause, error in self._errors.items()}
        for stage in {*self._failed, *self._failing}:
            if stage == "source":
                passed = int(at >= self._resubscribed + STEADY) or now.account.received - base.account.received
            else:
                passed = _passed(now, stage) - _passed(base, stage)
            self._judge(stage, passed, at, _lost(now))
        self._base = now
        self._errors.clear()
        self._failed.clear()
        totals: dict[Cause, int] = {("failing", stage, why): count for (stage, why), count in now.retries.items()}
        totals |= {("failing", "source", ""): now.source_failures} | now.dead_letters
        held_back = False
        for cause, total in totals.items():
            then, before = self._reported.get(cause, (-PERIOD, 0))
            if total == before or (cause[0] == "failing" and cause[1] not in self._failing):
                continue
            if at - then < PERIOD:
                held_back = True
            else:
                self._reported[cause] = at, total
                self._log(now, cause, total - before)
        return held_back

    def _judge(self, stage: str, passed: int, at: float, lost: int) -> None:
        """Decide whether a stage fails, by how many events it let through since the last look."""
        failed = self._failed[stage]
        if failed and passed < SPORADIC * failed:
            self._failing.setdefault(stage, (at - TICK, lost))
        elif stage in self._failing and passed and not failed:
            since, before = self._failing.pop(stage)
            # where the period held back the warning, this is held back too
            if any(then >= since for (_, name, _), (then, _) in self._reported.items() if name == stage):
                meanwhile = f"; {_count(lost - before, 'event')} lost meanwhile" if lost > before else ""
                text = f"{stage} works again after {duration(at - since)}{meanwhile}"
                logger.bind(event="recovered", stage=stage, count=lost - before).info("{}", text)

    def _log(self, now: Snapshot, cause: Cause, count: int) -> None:
        kind, stage, why = cause
        error, text = self._texts.get(cause, ("", ""))
        last = f"; last error: {text}" if text else ""
        extra: dict[str, Any] = {"stage": stage, "count": count, "error": error}
        if kind != "failing":
            where = "at intake" if kind == "rejected" else f"at {stage}"
            extra |= {"event": "lost", "outcome": kind, "reason": why}
            _warn(f"{_count(count, 'event')} {kind} {where} ({why}){last}", **extra)
        elif stage == "source":
            end = ", given up" if self._resubscribed == inf else ""
            _warn(f"source failed {_count(count, 'time')}{end}{last}", event="failing", **extra)
        else:
            oldest = now.stages[stage].oldest if stage in now.stages else None
            age = "" if oldest is None else f"; oldest event {duration(oldest)} of {duration(now.max_age)}"
            extra |= {"event": "failing", "reason": why, "age": oldest}
            _warn(f"{stage}: {_count(count, 'call')} failed{last}{age}", **extra)

    def _end(self, state: State) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._report()
        now = self._base
        if state == "failed" and self._resubscribed != inf:
            error = next((each.error for each in now.stages.values() if each.error is not None), None)
            _warn(f"the run failed: {error_text(error)}", event="failed", error=error_name(error))
        if lost := _lost(now) + now.account.rejected:
            logger.bind(event="ended", count=lost).info("{} after {}: {}", state, duration(now.uptime), now.account)


def _warn(text: str, **extra: Any) -> None:
    logger.bind(**extra).warning("{}", text)


def _passed(now: Snapshot, stage: str) -> int:
    """Return how many events have left a stage for the next one."""
    names = list(now.stages)
    after = names[names.index(stage) + 1 :] if stage in names else []
    return now.account.published + sum(now.stages[name].held + now.stages[name].dead_letters for name in after)


def _lost(now: Snapshot) -> int:
    """Return how many distinct events became dead letters."""
    return now.account.distinct - now.account.published - now.account.in_flight


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
