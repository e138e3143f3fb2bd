"""Anything in any order, in virtual time: the account balances after every step, and each event has one end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import reactivex as rx
from hypothesis import example, given
from hypothesis import strategies as st
from pipelines import held, simple_pipeline

from rxcompact import Orchestrator, Outcome
from rxcompact.errors import PermanentError, RateLimitedError, TransientError
from rxcompact.testing import run

MAX_AGE = 30.0
TIMESPAN, LINGER = 2.0, 0.5
CALL, DELIVERY = 0.1, 0.05


class World:
    """A source that dies, an API and a sink with moods; remembers what they were given."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.api = self.sink = "up"
        self.events: rx.Subject[list[Any]] = rx.Subject()
        self.calls: list[tuple[float, Any]] = []
        self.took: list[Any] = []

    def stream(self, _: Any) -> rx.Observable[list[Any]]:
        self.events = rx.Subject()
        return self.events

    async def enrich(self, event: Any) -> Any:
        self.calls.append((self.loop.time(), event))
        mood = self.api
        await asyncio.sleep(CALL)
        if mood == "down":
            raise TransientError
        if mood == "limits":
            raise RateLimitedError(retry_after=5)
        if mood == "refuses" and event["id"] == 0:
            raise PermanentError
        if mood == "hangs" and event["id"] == 1:
            await asyncio.sleep(1000)
        return event

    async def publish(self, batch: Any) -> Mapping[int, BaseException]:
        mood = self.sink
        await asyncio.sleep(DELIVERY)
        if mood == "down":
            raise TransientError
        failed: dict[int, BaseException] = {}
        if mood == "half":
            failed = {position: TransientError() for position in range(0, len(batch), 2)}
        elif mood == "picky":
            failed = {position: PermanentError() for position, c in enumerate(batch) if c.key == 2}
        self.took += [c.event for position, c in enumerate(batch) if position not in failed]
        return failed


pushes = st.tuples(st.just("push"), st.lists(st.integers(0, 5), min_size=1, max_size=8))
waits = st.tuples(st.just("wait"), st.integers(1, 300).map(lambda tenths: tenths / 10))
steps = st.lists(
    st.one_of(
        pushes,
        waits,
        pushes,
        waits,
        st.tuples(st.just("api"), st.sampled_from(["up", "down", "limits", "refuses", "hangs"])),
        st.tuples(st.just("sink"), st.sampled_from(["up", "down", "half", "picky"])),
        st.tuples(st.just("jump"), st.integers(-9999, 9999)),
        st.tuples(st.just("stop"), st.integers(1, 200).map(lambda tenths: tenths / 10)),
        st.tuples(st.sampled_from(["die", "restart", "start", "bad observer"]), st.none()),
    ),
    min_size=5,
    max_size=40,
)


def balances(orchestrator: Orchestrator, room: int) -> None:
    now = orchestrator.account
    ends = now.published + now.expired + now.failed + now.dropped + now.abandoned
    assert now.received == now.duplicates + now.distinct + now.rejected
    assert now.distinct == ends + now.in_flight
    assert now.in_flight == sum(held(orchestrator).values())  # counted where they are held
    assert 0 <= now.in_flight <= room
    assert now.duplicates >= 0


@given(steps, st.integers(0, 9), st.sampled_from([3, 50]))
@example([("api", "down"), ("push", [0]), ("wait", 2.1), ("api", "up"), ("push", [0])], 0, 3)
def test_whatever_happens_nothing_is_lost(steps: list[tuple[str, Any]], seed: int, room: int) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        world = World(loop)
        orchestrator = Orchestrator(
            simple_pipeline(
                source=world,
                enricher=world,
                sink=world,
                key_mapper="id",
                timespan=TIMESPAN,
                max_age=MAX_AGE,
                batch_count=3,
                batch_timespan=LINGER,
                timeout=5,
                max_concurrent=2,
                max_in_flight=room,
            )
        )
        outcomes: list[Outcome] = []
        orchestrator.outcomes.subscribe(outcomes.append)
        await orchestrator.start()
        pushed: list[dict[str, Any]] = []
        runs: Counter[str] = Counter()
        for what, given_ in [*steps, ("stop", 5.0)]:
            await asyncio.sleep(0.001)
            match what:
                case "push" if orchestrator.state == "running" and not world.events.is_stopped:
                    events = [{"id": key, "n": len(pushed) + n, "at": loop.time()} for n, key in enumerate(given_)]
                    pushed += events
                    world.events.on_next(events)
                case "wait":
                    await asyncio.sleep(given_)
                case "api":
                    world.api = given_
                case "sink":
                    world.sink = given_
                case "jump":
                    loop.jump(given_)
                case "die":
                    world.events.on_error(RuntimeError("dead"))
                case "restart":
                    await orchestrator.restart()
                case "start":
                    await orchestrator.start()
                case "bad observer":
                    orchestrator.signals.subscribe(lambda _: 1 / 0)
                case "stop" if orchestrator.state != "stopped":
                    began = loop.time()
                    report = await orchestrator.stop(given_)
                    assert loop.time() - began <= given_ + 1e-3
                    assert report.account.in_flight == 0
                    runs.update(report.account._asdict())
            balances(orchestrator, room)

        assert runs["received"] == len(pushed)
        assert runs["distinct"] == len(outcomes)
        # by key and time, not by the event: one that followed another of its key carries that one's answer; what was
        # dropped left its bucket without its times, and may have come back in the same instant
        kept = [outcome.event for outcome in outcomes if outcome.outcome != "dropped"]
        assert len({(c.key, c.first_seen) for c in kept}) == len(kept), "an event had two ends"
        assert sum(outcome.event.count for outcome in outcomes) == len(pushed)
        published = [outcome.event.event["n"] for outcome in outcomes if outcome.outcome == "published"]
        assert set(published) <= {event["n"] for event in world.took}
        assert all(at < event["at"] + MAX_AGE + 1e-3 for at, event in world.calls)
        for outcome in outcomes:
            if outcome.outcome == "expired":  # where a delivery was under way, when that was over
                assert MAX_AGE - 1e-3 <= (outcome.age or 0) <= MAX_AGE + 5 + 1e-3
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main, seed=seed)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=15, unique=True), st.integers(0, 9))
def test_a_neighbour_that_fails_holds_nobody_back(keys: list[int], seed: int) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        ends: dict[int, float] = {}

        async def mapper(event: Any) -> Any:
            if event["id"] % 2:
                raise TransientError
            return event

        def sink(batch: Any) -> dict[int, BaseException]:
            failed = {position: TransientError() for position, c in enumerate(batch) if c.key % 4}
            ends.update({c.key: loop.time() for position, c in enumerate(batch) if position not in failed})
            return dict(failed)

        pipeline = simple_pipeline(
            source=[{"id": key} for key in keys], key_mapper="id", timespan=TIMESPAN, enricher=mapper, sink=sink,
            max_age=MAX_AGE, batch_timespan=LINGER, max_concurrent=1,
        )  # fmt: skip
        async with Orchestrator(pipeline) as orchestrator:
            report = await orchestrator.wait()
        good = {key for key in keys if key % 4 == 0}
        assert set(ends) == good
        assert all(at <= TIMESPAN + LINGER + 1e-3 for at in ends.values())
        assert report.account.published == len(good)
        assert report.account.expired == len(keys) - len(good)

    run(main, seed=seed)


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_a_subject_that_cannot_wait_is_cut_down_to_what_there_is_room_for(overflow: Any) -> None:
    async def main() -> None:
        events: rx.Subject[Any] = rx.Subject()
        pipeline = simple_pipeline(
            source=events, key_mapper="id", timespan=TIMESPAN, sink=lambda _: None, max_age=MAX_AGE, max_in_flight=10,
            overflow=overflow,
        )  # fmt: skip
        async with Orchestrator(pipeline) as orchestrator:
            dropped: list[int] = []
            orchestrator.dead_letters.subscribe(lambda letter: dropped.append(letter.event.key))
            for key in [*range(25), *range(25)]:
                events.on_next({"id": key})
                await asyncio.sleep(0.001)
            balances(orchestrator, 10)
            report = await orchestrator.stop()
        assert report.account.published == 10
        assert report.account.dropped == len(dropped) == report.account.distinct - 10
        if overflow == "drop_newest":
            assert dropped == [*range(10, 25), *range(10, 25)]
            assert report.account.duplicates == 10

    run(main)
