"""What a run has done so far, counted once; metrics, logs, progress and displays read it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple, Protocol, TypeAlias

from rxcompact.clock import is_running
from rxcompact.events import Compacted, DeadLetter, Delivered, Window
from rxcompact.format import error_name, short
from rxcompact.observers.histogram import SIZES, Histogram, age_bounds
from rxcompact.operators.retry import reason
from rxcompact.signals import Account, ObserverFailed, RetryScheduled, Signal, SourceFailed, StageNow, State

ENDED: frozenset[State] = frozenset({"idle", "stopped", "failed"})
REASONS = 50
"""Causes that are counted one by one; those after them are "other"."""
HORIZON = 5.0
"""Seconds over which a rate is taken."""
STEP = 1.0
"""Seconds between samples of the account."""
SAMPLES = 60
LETTERS = 5
"""Dead letters that are remembered."""
PATIENCE = 5.0
"""Seconds that another thread waits for the loop."""

Cause: TypeAlias = tuple[str, str, str]
"""Outcome, stage and reason of dead letters."""


class Rate(NamedTuple):
    """Events a second, between two moments, in seconds after the start."""

    start: float
    end: float
    received: float
    published: float


class Stage(NamedTuple):
    """What a stage holds, and the type of its last error."""

    held: int
    oldest: float | None
    """Seconds since the birth of the oldest event it holds."""
    dead_letters: int
    """Dead letters it made."""
    error: str
    waiting: int = 0
    """Calls that failed and wait for the next attempt."""


class Letter(NamedTuple):
    """A dead letter in short: neither the event nor the text of its error, which may be secret."""

    outcome: str
    stage: str
    key: str
    reason: str
    error: str
    attempts: int
    age: float | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The statistics of a run at one moment. It shows itself, and does not change."""

    state: State = "idle"
    uptime: float = 0.0
    """Seconds since the start, or from it until the end."""
    restarts: int = 0
    account: Account = field(default_factory=Account)
    windows: Mapping[str, int] = field(default_factory=dict[str, int])
    """Windows by what closed them."""
    batches: Histogram = field(default_factory=lambda: Histogram(SIZES))
    """Sizes of the batches that were published."""
    dead_letters: Mapping[Cause, int] = field(default_factory=dict[Cause, int])
    retries: Mapping[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """Calls that failed and were scheduled again, by stage and reason."""
    failures: Mapping[str, int] = field(default_factory=dict[str, int])
    """Failures of the "source" and of an "observer"."""
    failure: str = ""
    """Type of the source's last error."""
    ages: Mapping[str, Histogram] = field(default_factory=dict[str, Histogram])
    """Seconds from birth to outcome, by outcome."""
    published_at: float | None = None
    """POSIX seconds at which the sink took the last batch."""
    rate: Rate | None = None
    """Of the last seconds; of the whole run once it has ended; None before a first moment has passed."""
    rates: tuple[Rate, ...] = ()
    """Of the last minute, in steps."""
    max_age: float = inf
    max_in_flight: int = 0
    stages: Mapping[str, Stage] = field(default_factory=dict[str, Stage])
    """By name, in the order in which events pass them."""
    letters: tuple[Letter, ...] = ()
    """The last few dead letters, the latest first."""

    @property
    def dedup_ratio(self) -> float | None:
        """Events for each distinct one; None before the first."""
        account = self.account
        return (account.distinct + account.duplicates) / account.distinct if account.distinct else None

    @property
    def oldest(self) -> float | None:
        """Seconds since the birth of the oldest event that is held."""
        return max((stage.oldest for stage in self.stages.values() if stage.oldest is not None), default=None)

    @property
    def waiting(self) -> int:
        """Calls that failed and wait for the next attempt."""
        return sum(stage.waiting for stage in self.stages.values())

    @property
    def retried(self) -> int:
        """Calls that failed and were scheduled again."""
        return sum(self.retries.values())

    def __str__(self) -> str:
        from rxcompact.render.snapshot import snapshot_text  # noqa: PLC0415 - pictures are for those who look

        return snapshot_text(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        from rxcompact.render.snapshot import snapshot_html  # noqa: PLC0415 - as above

        return {"text/plain": str(self), "text/html": snapshot_html(self)}


class Run(Protocol):
    """What has statistics: an `Orchestrator`."""

    @property
    def state(self) -> State: ...
    @property
    def account(self) -> Account: ...
    @property
    def stages(self) -> Mapping[str, StageNow]: ...
    @property
    def uptime(self) -> float: ...
    @property
    def pipeline(self) -> Any: ...

    restarts: int


class Statistics:
    """Counts what happens in a run, from its start on, in bounded memory; `snapshot` gives the numbers.

    A new start counts from zero; a restart goes on.

    Cost:
        Some microseconds a window and a batch, a fifth of one for each distinct event; nothing for duplicates.

    Args:
        run: The orchestrator, which has one as its attribute ``statistics``.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._state: State = "idle"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def _reset(self) -> None:
        self._ages: dict[str, Histogram] = {}
        self._batches = Histogram(SIZES)
        self._windows: Counter[str] = Counter()
        self._dead_letters: Counter[Cause] = Counter()
        self._retries: Counter[tuple[str, str]] = Counter()
        self._failures: Counter[str] = Counter()
        self._failure = ""
        self._published_at: float | None = None
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=SAMPLES)  # when, received, published
        self._letters: deque[Letter] = deque(maxlen=LETTERS)

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────────────

    def on_state(self, state: State) -> None:
        before, self._state = self._state, state
        if state == "running" and before in ENDED:
            self._loop = asyncio.get_running_loop()
            self._reset()
        self._sample(merge=state in ENDED)

    def on_window(self, window: Window) -> None:
        self._windows[window.trigger] += 1
        self._sample()

    def on_batch(self, delivered: Delivered) -> None:
        batch, _, at = delivered
        self._batches.add((len(batch),))
        self._published_at = at
        self._histogram("published").add([at - each.first_seen for each in batch if each.first_seen is not None])
        self._sample()

    def on_dead_letter(self, letter: DeadLetter) -> None:
        cause = letter.outcome, letter.stage, letter.reason
        if cause not in self._dead_letters and len(self._dead_letters) >= REASONS:
            cause = letter.outcome, letter.stage, "other"
        self._dead_letters[cause] += 1
        if letter.age is not None and letter.outcome != "rejected":
            self._histogram(letter.outcome).add((letter.age,))
        key = short(letter.event.key, 40) if isinstance(letter.event, Compacted) else ""
        error = error_name(letter.error)
        self._letters.appendleft(
            Letter(letter.outcome, letter.stage, key, short(letter.reason, 40), error, letter.attempts, letter.age)
        )

    def on_signal(self, signal: Signal) -> None:
        match signal:
            case RetryScheduled(stage, _, _, error):
                cause = stage, reason(error)
                if cause not in self._retries and len(self._retries) >= REASONS:
                    cause = stage, "other"
                self._retries[cause] += 1
            case SourceFailed(error):
                self._failures["source"] += 1
                self._failure = error_name(error)
            case ObserverFailed():
                self._failures["observer"] += 1
            case _:
                pass

    def _histogram(self, outcome: str) -> Histogram:
        found = self._ages.get(outcome)
        if found is None:
            found = self._ages[outcome] = Histogram(age_bounds(self._run.pipeline.max_age))
        return found

    def _sample(self, *, merge: bool = False) -> None:
        """Remember what has come and gone, unless it was just done; to merge, in place of a sample that was."""
        samples, now = self._samples, self._run.uptime
        just_done = bool(samples) and now - samples[-1][0] <= STEP
        if just_done and merge and len(samples) > 1:
            samples.pop()
        if merge or not just_done:
            account = self._run.account
            samples.append((now, account.received, account.published))

    @property
    def retries(self) -> int:
        """Calls that failed and were scheduled again."""
        return self._retries.total()

    # ── what is known ─────────────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self) -> Snapshot:
        """Return the statistics as they are now; from another thread, when the loop takes its next turn.

        Cost:
            Microseconds, and some milliseconds for each ten thousand events in flight.

        Raises:
            TimeoutError: in another thread, when the loop did not take a turn for five seconds.
        """
        loop = self._loop
        if loop is None or not loop.is_running() or is_running(loop):
            return self._snapshot()
        taken: Future[Snapshot] = Future()
        loop.call_soon_threadsafe(lambda: taken.set_result(self._snapshot()))
        return taken.result(PATIENCE)

    def _snapshot(self) -> Snapshot:
        run = self._run
        now, account, stages = run.uptime, run.account, run.stages
        self._sample()
        return Snapshot(
            state=run.state,
            uptime=now,
            restarts=run.restarts,
            account=account,
            windows=dict(self._windows),
            batches=self._batches.copy(),
            dead_letters=dict(self._dead_letters),
            retries=dict(self._retries),
            failures=dict(self._failures),
            failure=self._failure,
            ages={outcome: histogram.copy() for outcome, histogram in self._ages.items()},
            published_at=self._published_at,
            rate=self._rate((now, account.received, account.published)),
            rates=tuple(rate for pair in pairwise(self._samples) if (rate := _rate(*pair))),
            max_age=run.pipeline.max_age,
            max_in_flight=run.pipeline.max_in_flight,
            stages={name: _stage(stages[name]) for name in run.pipeline.stages if name in stages},
            letters=tuple(self._letters),
        )

    def _rate(self, now: tuple[float, int, int]) -> Rate | None:
        """Return the rate since the sample that is just old enough."""
        then = (0.0, 0, 0)
        if self._run.state not in ENDED:
            old = (each for each in reversed(self._samples) if now[0] - each[0] >= HORIZON)
            then = next(old, self._samples[0] if self._samples else then)
        return _rate(then, now)

    def __repr__(self) -> str:
        return f"<Statistics of {self._run!r}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self.snapshot()._repr_mimebundle_()  # pyright: ignore[reportPrivateUsage]


def _stage(now: StageNow) -> Stage:
    return Stage(now.held, now.oldest, now.dead_letters, error_name(now.error), now.waiting)


def _rate(then: tuple[float, int, int], now: tuple[float, int, int]) -> Rate | None:
    length = now[0] - then[0]
    if length <= 0:
        return None
    return Rate(then[0], now[0], (now[1] - then[1]) / length, (now[2] - then[2]) / length)
