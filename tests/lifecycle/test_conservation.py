"""Random sequences of steps in virtual time: the account balances after each, and each event has one outcome."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import pytest
import reactivex as rx
from hypothesis import example, given
from hypothesis import strategies as st
from pipelines import held, simple_pipeline
from reactivex.disposable import Disposable

from rxcompact import Orchestrator, Outcome, key_of
from rxcompact.errors import PermanentError, RateLimitedError, TransientError
from rxcompact.testing import run

MAX_AGE, TIMEOUT = 30.0, 5.0
TIMESPAN, LINGER = 2.0, 0.5
CALL, DELIVERY = 0.1, 0.05
SMALL = 1e-3
ROOMY = 50


class World:
    """A source that dies, an API and a sink with moods; remembers what they were given."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.api = self.sink = "up"
        self.observer: Any = None
        self.pushed: dict[int, float] = {}
        self.keys: dict[int, int | None] = {}
        self.calls: defaultdict[int, list[float]] = defaultdict(list)
        self.answered: defaultdict[int, list[float]] = defaultdict(list)
        self.deliveries: defaultdict[int, list[float]] = defaultdict(list)
        self.took: Counter[int] = Counter()
        self.busy: list[tuple[float, float]] = []
        self.stopped: list[float] = []
        self.released = asyncio.Event()
        self.runs, self.fresh = 0, True
        self.serials: dict[tuple[Any, ...], int] = {}

    def closed(self, window: Any) -> None:
        self.serials.update({(self.runs, c.key, c.first_seen): c.event["n"] for c in window})

    def serial(self, compacted: Any) -> int:
        """Return an event's number; the answer to a call serves all of its key, and has the number of one of them."""
        event: dict[str, Any] = compacted.event
        return self.serials[self.runs, compacted.key, compacted.first_seen] if "enriched" in event else event["n"]

    # a source

    def stream(self, _: Any) -> rx.Observable[list[Any]]:
        def subscribe(observer: Any, _: Any = None) -> Any:
            self.observer = observer

            def unsubscribe() -> None:
                if self.observer is observer:
                    self.observer = None

            return Disposable(unsubscribe)

        return rx.Observable(subscribe)

    def push(self, keys: list[int | None]) -> None:
        if self.observer is None:
            return
        chunk: list[dict[str, Any]] = []
        for key in keys:
            event = {"n": len(self.pushed), "at": self.loop.time()}
            self.pushed[event["n"]], self.keys[event["n"]] = event["at"], key
            chunk.append(event if key is None else event | {"id": key})
        self.observer.on_next(chunk)

    def die(self) -> None:
        if self.observer is not None:
            self.observer.on_error(OSError("died"))

    # an enricher

    async def enrich(self, event: Any) -> Any:
        n, mood = event["n"], self.api
        self.calls[n].append(self.loop.time())
        await asyncio.sleep(CALL)
        if mood == "down":
            raise TransientError
        if mood == "limits":
            raise RateLimitedError(retry_after=5)
        if mood == "cancels":
            raise asyncio.CancelledError
        if mood == "refuses" and event["id"] == 0:
            raise PermanentError
        if mood == "hangs" and event["id"] == 1:
            await asyncio.sleep(1000)
        while mood == "stubborn" and event["id"] == 2 and not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                continue
        self.answered[n].append(self.loop.time())
        return event | {"enriched": True}

    # a sink

    async def publish(self, batch: Any) -> Mapping[int, BaseException]:
        began = self.loop.time()
        try:
            return await self.deliver(batch)
        finally:
            self.busy.append((began, self.loop.time()))

    def sink_was_free(self, since: float, until: float) -> float:
        """Return how long of a time no delivery was under way: there is one at a time."""
        busy = sum(max(0.0, min(end, until) - max(began, since)) for began, end in self.busy)
        return max(0.0, until - since) - busy

    async def deliver(self, batch: Any) -> Mapping[int, BaseException]:
        mood = self.sink
        for compacted in batch:
            self.deliveries[self.serial(compacted)].append(self.loop.time())
        await asyncio.sleep(DELIVERY)
        if mood == "down":
            raise TransientError
        if mood == "hangs":
            await asyncio.sleep(1000)
        failed: dict[int, BaseException] = {}
        if mood == "half":
            failed = {position: TransientError() for position in range(0, len(batch), 2)}
        elif mood == "picky":
            failed = {position: PermanentError() for position, c in enumerate(batch) if c.key == 3}
        self.took.update(self.serial(c) for position, c in enumerate(batch) if position not in failed)
        return failed


def tenths(most: int) -> st.SearchStrategy[float]:
    return st.integers(0, most).map(lambda n: n / 10)


nothing = st.none()
keys = st.one_of(st.integers(0, 5), st.integers(0, 5), st.integers(0, 200), nothing)
pushes = st.tuples(st.just("push"), st.lists(keys, min_size=1, max_size=8))
waits = st.tuples(st.just("wait"), tenths(250))
methods = st.sampled_from(["start", "stop", "restart"])
lives = st.lists(
    st.one_of(
        pushes,
        waits,
        pushes,
        waits,
        st.tuples(st.just("api"), st.sampled_from(["up", "down", "limits", "cancels", "refuses", "hangs", "stubborn"])),
        st.tuples(st.just("sink"), st.sampled_from(["up", "down", "half", "picky", "hangs"])),
        st.tuples(st.just("jump"), st.integers(-9999, 9999)),
        st.tuples(st.just("stop"), tenths(200)),
        st.tuples(st.just("at once"), st.lists(methods, min_size=2, max_size=3)),
        st.tuples(st.sampled_from(["die", "restart", "start", "bad observer"]), nothing),
    ),
    min_size=10,
    max_size=40,
)


def balances(orchestrator: Orchestrator, room: int) -> None:
    now = orchestrator.account
    assert now.received == now.duplicates + now.distinct + now.rejected
    assert now.distinct == (now.published + now.expired + now.failed + now.dropped + now.abandoned + now.in_flight)
    assert now.in_flight == sum(held(orchestrator).values())
    assert 0 <= now.in_flight <= room
    assert min(now) >= 0


async def live(life: list[tuple[str, Any]], room: int, max_concurrent: int, overflow: Any) -> None:
    loop: Any = asyncio.get_running_loop()
    world = World(loop)
    orchestrator = Orchestrator(
        simple_pipeline(
            source=world, enricher=world, sink=world, key_mapper=key_of("id", missing="reject"),
            timespan=TIMESPAN, max_age=MAX_AGE,
            batch_count=3, batch_timespan=LINGER, timeout=TIMEOUT, max_concurrent=max_concurrent, max_in_flight=room,
            overflow=overflow,
        )
    )  # fmt: skip
    outcomes: list[tuple[float, int, Outcome]] = []
    sums: Counter[str] = Counter()

    def end_of_run(state: str) -> None:
        assert state != "failed"
        if state == "running":
            world.runs += world.fresh
            world.fresh = False
        if state == "draining":
            world.stopped.append(loop.time())
        if state == "stopped":
            sums.update(orchestrator.account._asdict())
            assert orchestrator.account.in_flight == 0
            world.fresh = True

    def end_of_event(outcome: Outcome) -> None:
        at_intake = outcome.outcome == "rejected" and outcome.stage == "compact"
        n = outcome.event["n"] if at_intake else world.serial(outcome.event)
        outcomes.append((loop.time(), n, outcome))

    orchestrator.windows.subscribe(world.closed)
    orchestrator.outcomes.subscribe(end_of_event)
    orchestrator.states.subscribe(end_of_run)
    await orchestrator.start()
    for what, given_ in [*life, ("stop", 5.0)]:
        match what:
            case "push":
                world.push(given_)
            case "wait":
                await asyncio.sleep(given_)
            case "api":
                world.api = given_
            case "sink":
                world.sink = given_
            case "jump":
                loop.jump(given_)
            case "die":
                world.die()
            case "restart":
                await orchestrator.restart()
                assert orchestrator.state == "running"
            case "start":
                await orchestrator.start()
                assert orchestrator.state == "running"
            case "at once":
                await asyncio.gather(*(getattr(orchestrator, method)() for method in given_))
            case "bad observer":
                orchestrator.signals.subscribe(lambda _: 1 / 0)
                orchestrator.outcomes.subscribe(lambda _: {}["no"])
            case "stop":
                began = loop.time()
                report = await orchestrator.stop(given_)
                assert loop.time() - began <= given_ + SMALL
                assert report.account == orchestrator.account
                assert orchestrator.state == "stopped"
                assert sum(held(orchestrator).values()) == report.account.in_flight == 0
        balances(orchestrator, room)
        await asyncio.sleep(0.001)
        balances(orchestrator, room)

    account = orchestrator.account
    world.released.set()
    await asyncio.sleep(1000)
    assert orchestrator.account == account, "something came after the end"
    check(world, outcomes, sums, roomy=max_concurrent >= ROOMY)


def check(world: World, outcomes: list[tuple[float, int, Outcome]], sums: Counter[str], *, roomy: bool) -> None:
    """Check what was remembered of a life."""
    refused = [n for _, n, o in outcomes if o.outcome == "rejected" and o.stage == "compact"]
    distinct = [each for each in outcomes if each[1] not in set(refused)]
    assert sums["received"] == len(world.pushed)
    assert sums["rejected"] == len(refused) == sum(key is None for key in world.keys.values())
    assert sums["distinct"] == len(distinct)
    assert sum(o.event.count for _, _, o in distinct) + len(refused) == len(world.pushed)
    assert len({n for _, n, _ in outcomes}) == len(outcomes), "an event has two outcomes"
    for outcome in ("published", "expired", "failed", "dropped", "abandoned"):
        assert sums[outcome] == sum(o.outcome == outcome for _, _, o in distinct), outcome

    published = {n: at for at, n, o in distinct if o.outcome == "published"}
    assert world.took == Counter(published.keys()), "published is what the sink took, once"

    for attempts in (world.calls, world.deliveries):
        for n, times in attempts.items():
            assert max(times) < world.pushed[n] + MAX_AGE, "an attempt past its age"
    for at, n, o in distinct:
        if o.outcome == "expired":
            assert o.age == pytest.approx(at - world.pushed[n], abs=SMALL)
            assert at - world.pushed[n] >= MAX_AGE - SMALL, "expired too young"
    if roomy:
        nobody_is_held_back(world, {n: at for at, n, _ in distinct}, published)


def nobody_is_held_back(world: World, ends: dict[int, float], published: dict[int, float]) -> None:
    """Check that an event is called for, delivered and published in time, by its own answers alone."""
    for n, pushed in world.pushed.items():
        stopped = min((at for at in world.stopped if at >= pushed), default=float("inf"))
        calls, answered, deliveries = world.calls[n], world.answered[n], world.deliveries[n]
        follows = any(world.keys[m] == world.keys[n] and end >= pushed for m, end in ends.items() if m < n)
        limit = pushed + TIMESPAN + SMALL
        if n in ends and limit < min(stopped, ends[n]) and not follows:
            assert calls, "never called"
            assert calls[0] <= limit, "called late"
        if len(calls) != 1 or not answered:
            continue
        due = answered[0] + LINGER + SMALL
        delivered = min([*deliveries, stopped, ends.get(n, stopped), pushed + MAX_AGE])
        assert world.sink_was_free(due, delivered) <= SMALL, "delivered late"
        if len(deliveries) == 1 and n in published:
            assert published[n] <= deliveries[0] + DELIVERY + SMALL, "published late"


HELD_BACK = [("push", [0]), ("sink", "down"), ("wait", 2.7), ("push", [1]), ("wait", 4.0), ("push", [3]), ("wait", 9.0)]


@example(HELD_BACK, 0, 1000, ROOMY, "drop_oldest")  # one waits to be tried again while others come: seldom generated
@given(
    lives, st.integers(0, 9), st.sampled_from([3, 1000]), st.sampled_from([2, ROOMY]),
    st.sampled_from(["drop_oldest", "drop_newest"]),
)  # fmt: skip
def test_in_any_life_the_account_balances_and_each_event_has_one_outcome(
    life: list[tuple[str, Any]], seed: int, room: int, max_concurrent: int, overflow: str
) -> None:
    run(lambda: live(life, room, max_concurrent, overflow), seed=seed)


@pytest.mark.parametrize("observable", ["signals", "windows", "batches", "outcomes", "dead_letters", "states"])
def test_the_account_balances_whenever_an_observer_looks(observable: str) -> None:
    for seed in range(5):
        accounts = run(lambda: looked_at(observable, random.Random(seed)))
        assert accounts
        for now in accounts:
            assert now.received == now.duplicates + now.distinct + now.rejected
            ended = now.published + now.expired + now.failed + now.dropped + now.abandoned
            assert now.distinct == ended + now.in_flight
            assert min(now) >= 0


async def looked_at(observable: str, dice: random.Random) -> list[Any]:
    async def enrich(event: Any) -> Any:
        await asyncio.sleep(dice.choice([0, 0.1, 2]))
        if dice.random() < 0.3:
            raise dice.choice([TransientError, PermanentError])("now and then")
        return event

    def sink(batch: Any) -> Any:
        return dict.fromkeys(range(0, len(batch), 2), dice.choice([TransientError(), PermanentError()]))

    source: rx.Subject[Any] = rx.Subject()
    orchestrator = Orchestrator(
        simple_pipeline(
            source=source, key_mapper=key_of("id", missing="reject"), timespan=1, enricher=enrich, sink=sink, max_age=8,
            count=dice.choice([None, 5]), max_in_flight=dice.choice([4, 30]), batch_timespan=0.5,
            overflow=dice.choice(["drop_oldest", "drop_newest"]),
        )
    )  # fmt: skip
    accounts: list[Any] = []
    getattr(orchestrator, observable).subscribe(lambda _: accounts.append(orchestrator.account))
    await orchestrator.start()
    for _ in range(40):
        for _ in range(dice.choice([1, 3, 20])):
            source.on_next({"id": dice.randrange(30)} if dice.random() < 0.9 else {})
        await asyncio.sleep(dice.choice([0, 0.1, 0.5]))
        if dice.random() < 0.1:
            await orchestrator.restart()
    await orchestrator.stop(dice.choice([0, 0.5, 5]))
    return accounts
