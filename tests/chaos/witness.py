"""Checks a pipeline from outside: invariants at each turn of the loop, and at the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from faulty import Api, Ident, Store, ident
from feeds import Feed
from pipelines import held

from rxcompact import Orchestrator
from rxcompact.signals import Account

FLOW = ("received", "duplicates", "distinct", "rejected", "published", "expired", "failed", "dropped", "abandoned")
ENDS = FLOW[4:]
LEGAL = {
    "idle": {"running"},
    "running": {"restarting", "draining", "failed"},
    "restarting": {"running"},
    "draining": {"stopped", "failed"},
    "stopped": {"running"},
    "failed": {"running"},
}
DELIVERY = 30.0
"""Seconds a delivery may take."""
STUBBORN = 65.0
"""Seconds after which a call that ignores its cancellation is let go."""


class Witness:
    """Keeps a second account of windows, outcomes and pushed events, each event by its number.

    Args:
        merges: Whether a kept event carries the numbers of all that it stands for.
        every: Turns of the loop between two checks of the account.
    """

    def __init__(
        self, pipeline: Orchestrator, feed: Feed, api: Api, store: Store, *, merges: bool, most: int, every: int
    ) -> None:
        self.orchestrator = pipeline
        self.feed, self.api, self.store = feed, api, store
        self.merges, self.most, self.every = merges, most, every
        self.loop: Any = asyncio.get_running_loop()
        self.state = "idle"
        self.runs: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()  # outcomes of this run
        self.before = Account()
        self.open: dict[Ident, list[tuple[float, Any]]] = {}  # between window and outcome
        self.ends: dict[int, str] = {}
        self.places: Counter[int] = Counter()
        self.published: Counter[Ident] = Counter()
        self.counts = self.turns = 0
        self.broken: BaseException | None = None
        for observable, see in (
            (pipeline.windows, self.on_window),
            (pipeline.outcomes, self.on_outcome),
            (pipeline.states, self.on_state),
        ):
            observable.subscribe(self.guarded(see))
        once, check = self.loop._run_once, self.guarded(self.on_turn)
        self.once = once

        def turn() -> None:
            once()
            check()

        self.loop._run_once = turn

    def guarded(self, check: Callable[..., None]) -> Callable[..., None]:
        """Remember the first failure: what an observer raises reaches nobody else."""

        def guard(*given: Any) -> None:
            if self.broken is None:
                try:
                    check(*given)
                except BaseException as error:
                    self.broken = error

        return guard

    def raise_if_broken(self) -> None:
        if self.broken is not None:
            raise self.broken

    # ── during the run ─────────────────────────────────────────────────────────────────────────────────────────────

    def on_window(self, window: Any) -> None:
        assert len({compacted.key for compacted in window}) == len(window) > 0
        for compacted in window:
            self.open.setdefault(ident(compacted), []).append((self.loop.time(), compacted.event["ns"]))
            self.counted(compacted.event, compacted.count)

    def counted(self, event: dict[str, Any], count: int) -> None:
        self.places.update(event["ns"])
        self.counts += count

    def on_outcome(self, outcome: Any) -> None:
        if outcome.outcome == "rejected" and outcome.stage == "compact":
            self.outcomes["rejected"] += 1
            self.counted(outcome.event, 1)
            # an event that could not be merged has the outcome of the one that it was to be merged into
            self.ended(
                outcome.event["ns"], {"stopped": "abandoned", "accumulator": "unmerged"}.get(outcome.reason, "rejected")
            )
            return
        self.outcomes[outcome.outcome] += 1
        compacted = outcome.event
        if outcome.outcome != "published" and outcome.stage == "compact":
            self.counted(compacted.event, compacted.count)
            self.ended(compacted.event["ns"], outcome.outcome)
            return
        assert compacted.event["id"] == compacted.key
        alike = self.open[ident(compacted)]
        self.ended(alike.pop(0)[1], outcome.outcome)
        if not alike:
            del self.open[ident(compacted)]
        if outcome.outcome == "published":
            self.published[ident(compacted)] += 1
            assert self.published[ident(compacted)] <= self.store.took[ident(compacted)], "published, not taken"

    def ended(self, numbers: list[int], end: str) -> None:
        self.ends.update(dict.fromkeys(numbers, end))

    def on_state(self, state: str) -> None:
        if state == self.state:
            return
        assert state in LEGAL[self.state], (self.state, state)
        if state == "running" and self.state != "restarting":
            self.outcomes, self.before = Counter(), Account()
            self.api.run += 1
            self.feed.raised.clear()
        self.state = self.feed.state = state
        if state in ("stopped", "failed"):
            self.runs.update(self.orchestrator.account._asdict())

    def on_turn(self) -> None:
        self.turns += 1
        if self.turns % self.every:
            return
        now, holders = self.orchestrator.account, held(self.orchestrator)
        assert now.received == now.duplicates + now.distinct + now.rejected
        assert now.distinct == sum(getattr(now, end) for end in ENDS) + now.in_flight
        assert now.in_flight == sum(holders.values()), (now, holders)
        assert 0 <= now.in_flight <= self.orchestrator.pipeline.max_in_flight, now
        assert min(now) >= 0
        assert all(getattr(now, name) >= getattr(self.before, name) for name in FLOW), (self.before, now)
        assert all(getattr(now, end) == self.outcomes[end] for end in ("rejected", *ENDS)), (now, self.outcomes)
        assert self.api.under_way[self.api.run] <= self.most, "more calls at once than max_concurrent"
        self.before = now
        if self.turns % 500 < self.every:
            oldest = min((alike[0][0] for alike in self.open.values()), default=self.loop.time())
            assert self.loop.time() - oldest < self.orchestrator.pipeline.max_age + DELIVERY + STUBBORN, "forgotten"

    # ── at the end ────────────────────────────────────────────────────────────────────────────────────────────────

    def verdict(self) -> None:
        """Check that each pushed event had one outcome, and that nothing is left."""
        self.raise_if_broken()
        self.loop._run_once = self.once  # the turns of closing the loop depend on what was collected before
        assert not self.open, "without an outcome"
        assert self.runs["received"] == len(self.feed.given), (self.runs, len(self.feed.given))
        assert self.counts == len(self.feed.given)
        assert not self.published - self.store.took, "published, but not taken"
        if self.merges:
            assert set(self.places) == self.feed.given
            assert set(self.places.values()) <= {1}, "an event in two places"
            self.acks()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert [timer for timer in self.loop._scheduled if not timer.cancelled()] == []

    def acks(self) -> None:
        """Check that a message is settled when all of its events are, unless one was abandoned."""
        for number, message in enumerate(self.feed.messages):
            ends = {self.ends[n] for n in message}
            if ends and not ends & {"unmerged", "dropped"}:  # a dropped one is settled when its window closes
                assert self.feed.settled[number] == ("abandoned" not in ends), (number, ends)
