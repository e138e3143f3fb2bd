"""The numbers that dashboards show: rates, ratio, latency, ages, waits, outcomes, the last dead letters."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import floor, inf, log2
from typing import Any, NamedTuple, Protocol, Self
from weakref import WeakValueDictionary

from rxcompact.events import DeadLetter, Outcome
from rxcompact.observers.latency import Latency
from rxcompact.render.flow import Run, StageNow
from rxcompact.render.vitals import vitals_html, vitals_text
from rxcompact.render.words import error_name, short
from rxcompact.signals import Account, BatchPublished, RetryScheduled, Signal, SourceFailed, State, WindowClosed

HORIZON = 5.0
"""Seconds over which a rate is taken."""
STEP = 1.0
"""Seconds between samples of the account."""
SAMPLES = 60
LETTERS = 5
"""Dead letters that are remembered."""
AGES = 24
"""Bins of the histogram of ages; each ends where the next begins, √2 times as old, and the last ends at ``max_age``."""
STAGES = ("source", "decode", "compact", "enrich", "publish")
ENDED: frozenset[State] = frozenset({"idle", "stopped", "failed"})


class Sample(NamedTuple):
    """What had come and gone by a moment."""

    at: float
    """Seconds after the start."""
    received: int = 0
    published: int = 0


class Rate(NamedTuple):
    """Events a second, between two moments."""

    start: float
    end: float
    received: float
    published: float


class Stage(NamedTuple):
    """What a stage holds, and what its last error was."""

    held: int
    oldest: float | None
    """Seconds since the birth of the oldest event it holds."""
    aside: int
    """Dead letters it made."""
    error: str


class Letter(NamedTuple):
    """A dead letter in short: not the event, nor what the error says."""

    outcome: str
    stage: str
    reason: str
    error: str
    attempts: int
    age: float | None


class Ages(NamedTuple):
    """Seconds since birth at publication; zero where nothing was published."""

    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    most: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How a pipeline was at one moment. It shows itself, and does not change any more."""

    state: State
    uptime: float
    restarts: int
    account: Account
    rate: Rate
    """Of the last seconds; of the whole run once it has ended."""
    rates: tuple[Rate, ...]
    """Of the last minute, in steps."""
    ages: Ages
    histogram: Mapping[float, int]
    """Events published by their age, up to each bound in seconds, which is right within 4.5 %; the last is infinity."""
    max_age: float
    max_in_flight: int
    stages: Mapping[str, Stage]
    """By name, in the order events pass them."""
    retries: int
    waiting: int
    """Calls that failed and wait to be made again."""
    failures: int
    """Failures of the source."""
    failure: str
    """What the last of them was."""
    letters: tuple[Letter, ...]
    """The last few, the latest first."""

    @property
    def dedup_ratio(self) -> float | None:
        """Events for each distinct one; None before the first."""
        account = self.account
        return (account.distinct + account.duplicates) / account.distinct if account.distinct else None

    @property
    def oldest(self) -> float | None:
        """Seconds since the birth of the oldest event that is held."""
        return max((now.oldest for now in self.stages.values() if now.oldest is not None), default=None)

    def __str__(self) -> str:
        return vitals_text(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": vitals_text(self), "text/html": vitals_html(self)}


class Observed(Run, Protocol):
    """What is watched: an `Orchestrator`."""

    @property
    def state(self) -> State: ...
    @property
    def account(self) -> Account: ...
    @property
    def pipeline(self) -> Any: ...
    def attach(self, observer: Any, /) -> Any: ...


class Vitals:
    """An observer that gathers what dashboards show, in bounded memory: `snapshot` gives it.

    A new start begins anew; a restart goes on. What happened before it was attached is in the account alone.
    About a microsecond for each distinct event, for its age.

    Args:
        run: The orchestrator. Use `of`, so that it is watched once.
    """

    def __init__(self, run: Observed) -> None:
        self._run = run
        self._state: State | None = None
        self._began()

    @classmethod
    def of(cls, run: Observed) -> Self:
        """Return the one of this orchestrator, attached; whoever asks gets the same."""
        found: Any = _known.get(id(run))
        if found is None:
            found = _known[id(run)] = cls(run)
        run.attach(found)
        return found  # type: ignore[no-any-return]

    def _began(self) -> None:
        self._latency = Latency()
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._letters: deque[Letter] = deque(maxlen=LETTERS)
        self._retries = self._failures = 0
        self._failure = ""

    # ── what it is told ───────────────────────────────────────────────────────────────────────────────────────────

    def on_state(self, state: State) -> None:
        before, self._state = self._state, state
        if state == "running" and before in ENDED:
            self._began()
        self._sample(0.0 if state in ENDED else STEP)

    def on_signal(self, signal: Signal) -> None:
        match signal:
            case WindowClosed() | BatchPublished():
                self._sample()
            case RetryScheduled():
                self._retries += 1
            case SourceFailed():
                self._failures += 1
                self._failure = error_name(signal.error)
            case _:
                pass

    def on_outcome(self, outcome: Outcome) -> None:
        if not isinstance(outcome, DeadLetter):
            self._latency.on_outcome(outcome)

    def on_dead_letter(self, letter: DeadLetter) -> None:
        error = error_name(letter.error)
        said = short(letter.reason, 40)
        self._letters.appendleft(Letter(letter.outcome, letter.stage, said, error, letter.attempts, letter.age))

    def _sample(self, step: float = STEP) -> None:
        """Remember what has come and gone, unless it was just done."""
        samples, now = self._samples, self._run.uptime
        if not samples or now - samples[-1].at > step:
            account = self._run.account
            samples.append(Sample(now, account.received, account.published))

    # ── what it shows ─────────────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self) -> Snapshot:
        """Return how it is now. Microseconds, and some milliseconds for each ten thousand events in flight."""
        run = self._run
        now, account, state, stages = run.uptime, run.account, run.state, run.stages
        self._sample()
        share = self._latency.percentile
        return Snapshot(
            state=state,
            uptime=now,
            restarts=run.restarts,
            account=account,
            rate=self._rate(Sample(now, account.received, account.published), state),
            rates=tuple(_rate(*pair) for pair in pairwise(self._samples)),
            ages=Ages(share(50), share(90), share(99), self._latency.most),
            histogram=self._histogram(run.pipeline.max_age),
            max_age=run.pipeline.max_age,
            max_in_flight=run.pipeline.max_in_flight,
            stages={name: _stage(stages[name]) for name in STAGES if name in stages},
            retries=self._retries,
            waiting=sum(stage.waiting for stage in stages.values()),
            failures=self._failures,
            failure=self._failure,
            letters=tuple(self._letters),
        )

    def _rate(self, now: Sample, state: State) -> Rate:
        """Return the rate since the sample that is just old enough."""
        then = Sample(0.0)
        if state not in ENDED:
            old = (each for each in reversed(self._samples) if now.at - each.at >= HORIZON)
            then = next(old, self._samples[0] if self._samples else then)
        return _rate(then, now)

    def _histogram(self, max_age: float) -> dict[float, int]:
        bounds = [max_age * 2 ** ((index - AGES + 1) / 2) for index in range(AGES)]
        counts = dict.fromkeys([*bounds, inf], 0)
        for age, count in self._latency.histogram().items():
            # of a bucket that lies across a bound most is below it
            index = AGES - 1 - floor(2 * log2(max_age / age) + 1 / 8)
            counts[inf if index >= AGES else bounds[max(0, index)]] += count
        return counts

    def __repr__(self) -> str:
        return f"<Vitals of {self._run!r}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self.snapshot()._repr_mimebundle_()  # pyright: ignore[reportPrivateUsage]


# as long as an orchestrator lives, which holds what is attached to it
_known: WeakValueDictionary[int, Vitals] = WeakValueDictionary()


def _stage(now: StageNow) -> Stage:
    return Stage(now.held, now.oldest, now.aside, error_name(now.error))


def _rate(then: Sample, now: Sample) -> Rate:
    length = now.at - then.at
    if length <= 0:
        return Rate(then.at, now.at, 0.0, 0.0)
    received, published = now.received - then.received, now.published - then.published
    return Rate(then.at, now.at, received / length, published / length)
