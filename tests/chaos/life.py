"""One pipeline with parts that fail, and calls of every kind on it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from faulty import MOODS, Api, Cache, Dice, OddError, Store
from feeds import Feed, Hot, Pulled, Streamed
from pipelines import held, simple_pipeline
from witness import Witness

from rxcompact import Orchestrator, key_of
from rxcompact.operators.retry import full_jitter
from rxcompact.testing import START, virtual_loop

SMALL = 1e-3
SOURCE_ERRORS = {"died", "stream", "subscribe"}
"""Of sources that were given up."""
EXPECTED = ("closing failed", "unsubscribing from the source failed")
"""Messages of the loop's exception handler when a source or a wait fails on purpose."""


class Life:
    """One run of a pipeline, all of whose randomness comes from the seed."""

    def __init__(self, seed: int, every: int) -> None:
        self.loop = virtual_loop()
        dice = self.dice = Dice(seed)
        self.feed = Feed(dice, lambda: START + self.loop.time())
        self.api, self.store = Api(dice), Store(dice)
        self.source: Any = dice.choice(
            [Hot, Hot, Streamed, lambda feed: Pulled(feed, sync=False), lambda feed: Pulled(feed, sync=True)]
        )(self.feed)
        self.merges = dice.random() < 0.5
        self.timespan, self.max_age = dice.choice([0.5, 2.0, 7.0]), dice.choice([8.0, 20.0, 60.0])
        lateness = dice.choice([None, None, 1.0])
        self.timed = lateness is not None or dice.random() < 0.2
        self.room, self.max_concurrent = dice.choice([3, 40, 10_000]), dice.choice([1, 5, 50])
        self.orchestrator = Orchestrator(
            simple_pipeline(
                source=getattr(self.source, "source", self.source), enricher=self.api if dice.random() < 0.8 else None,
                sink=self.store, key_mapper=key_of("id", missing="reject"), timespan=self.timespan,
                max_age=self.max_age, lateness=lateness, time_mapper="ts" if self.timed else None,
                count=dice.choice([None, None, 5]), keep=self.merge if self.merges else dice.choice(["first", "last"]),
                max_concurrent=self.max_concurrent, timeout=dice.choice([None, 3.0]), ordered=dice.random() < 0.3,
                cache=Cache(dice) if dice.random() < 0.3 else None, batch_count=dice.choice([1, 3, 100]),
                batch_timespan=dice.choice([0.0, 0.5, 5.0]), max_in_flight=self.room,
                overflow=dice.choice(["drop_oldest", "drop_newest", "error"]),
                wait=self.wait_for if dice.random() < 0.5 else full_jitter,
            ),
            report=dice.random() < 0.1,
        )  # fmt: skip
        self.witness = Witness(
            self.orchestrator, self.feed, self.api, self.store, merges=self.merges, most=self.max_concurrent,
            every=every,
        )  # fmt: skip
        self.stops = 0
        self.complaints: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def merge(self, kept: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        if self.dice.mood("event") == "no key":
            raise RuntimeError("accumulator")
        return kept | {"ns": kept["ns"] + event["ns"]}

    def wait_for(self, _: Any) -> Any:
        match self.dice.mood("wait"):
            case "raises":
                raise ZeroDivisionError
            case "raises no Exception":
                raise OddError("of a wait")
            case "nonsense":
                return self.dice.choice([None, "soon", float("nan"), -1])
        return self.dice.uniform(0, 3)

    def on_exception(self, _: Any, context: dict[str, Any]) -> None:
        if not context["message"].startswith(EXPECTED):
            self.complaints.append(f"{context['message']}: {context.get('exception')!r}")

    # ── forces ────────────────────────────────────────────────────────────────────────────────────────

    async def feeding(self) -> None:
        while True:
            await asyncio.sleep(self.dice.expovariate(2))
            self.source.push([self.feed.event() for _ in range(self.dice.choice([0, 1, 1, 3, 20]))])

    async def moods(self) -> None:
        while True:
            await asyncio.sleep(self.dice.uniform(0.5, 15))
            self.change_mood(self.dice.choice(sorted(MOODS)))

    def change_mood(self, boundary: str) -> None:
        self.dice.moods[boundary] = "up" if self.dice.random() < 0.4 else self.dice.choice(MOODS[boundary])

    async def releases(self) -> None:
        while True:
            await asyncio.sleep(60)
            await self.release()

    async def release(self) -> None:
        for released in (self.api.released, self.store.released):
            released.set()
        await asyncio.sleep(0.01)
        for released in (self.api.released, self.store.released):
            released.clear()

    async def stop(self, deadline: float) -> None:
        began = self.loop.time()
        self.stops += 1
        report = await self.orchestrator.stop(deadline)
        assert self.loop.time() - began <= deadline + SMALL, f"stop({deadline}) took {self.loop.time() - began}"
        assert report.account.in_flight == 0, (began, report, self.witness.state, self.orchestrator.pipeline.source)

    async def wait(self) -> None:
        try:
            await self.orchestrator.wait()
        except Exception as error:
            assert type(error).__name__ == "NoRoomError" or str(error) in SOURCE_ERRORS, error

    def call(self) -> Coroutine[Any, Any, Any]:
        which = self.dice.choice(["start", "restart", "restart", "stop", "wait"])
        if which == "stop":
            return self.stop(self.dice.choice([0, 0.001, 0.3, 2.0, 10.0]))
        return self.wait() if which == "wait" else getattr(self.orchestrator, which)()

    async def calling(self) -> None:
        """Start, stop, restart and wait, concurrently; some callers are cancelled at some await."""
        while True:
            await asyncio.sleep(self.dice.uniform(0.1, 25))
            calls = [asyncio.create_task(self.call()) for _ in range(self.dice.choice([1, 1, 2, 4]))]
            self.tasks += calls
            if self.dice.random() < 0.3:
                for _ in range(self.dice.randrange(8)):
                    await asyncio.sleep(0)
                self.dice.injected["caller cancelled"] += 1
                self.dice.choice(calls).cancel()
            if self.dice.random() < 0.7:
                await asyncio.wait(calls, timeout=self.dice.uniform(0, 12))
                self.tasks.append(asyncio.create_task(self.orchestrator.start()))
            self.watch_tasks()

    def watch_tasks(self) -> None:
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            if not task.cancelled():
                task.result()

    async def accidents(self) -> None:
        while True:
            await asyncio.sleep(self.dice.expovariate(0.1))
            # with ages of the events' own, a run that starts after a jump finds all of them too old or too new
            jumps = ["clock jumps"] if not self.timed else []
            what = self.dice.choice(["source dies", "source dies", "source completes", "worker cancelled", *jumps])
            self.dice.injected[what] += 1
            match what:
                case "source dies":
                    self.source.die()
                case "source completes":
                    self.source.complete()
                case "clock jumps":
                    self.loop.jump(self.dice.choice([-86_400, -5, 5, 3600]))
                case "worker cancelled":
                    workers = [worker for worker in self.api.workers if worker is not None and not worker.done()]
                    if workers:
                        self.dice.choice(workers).cancel()

    async def observers(self) -> None:
        here = self.orchestrator
        while True:
            await asyncio.sleep(self.dice.uniform(0.5, 20))
            watched = self.dice.choice([here.signals, here.outcomes, here.windows, here.dead_letters, here.states])
            subscription = watched.subscribe(self.meddle)
            await asyncio.sleep(self.dice.uniform(0, 10))
            subscription.dispose()

    def meddle(self, _: Any) -> None:
        """Misbehave in an observer."""
        match self.dice.mood("observer"):
            case "raises":
                raise ZeroDivisionError
            case "raises no Exception":
                raise OddError("of an observer")
            case "cancels":
                raise asyncio.CancelledError
            case "stops" if self.dice.random() < 0.1:
                self.tasks.append(asyncio.ensure_future(self.stop(1.0)))
            case "restarts" if self.dice.random() < 0.1:
                self.tasks.append(asyncio.ensure_future(self.orchestrator.restart()))
            case "pushes" if self.dice.random() < 0.3:
                self.source.push([self.feed.event()])

    # ── start to end ───────────────────────────────────────────────────────────────────────────────────────

    async def live(self, minutes: float) -> None:
        self.loop.set_exception_handler(self.on_exception)
        for boundary in sorted(MOODS):
            self.change_mood(boundary)
        await self.orchestrator.start()
        forces = [self.feeding, self.moods, self.releases, self.calling, self.accidents, self.observers]
        running = [asyncio.create_task(force()) for force in forces]
        ended, _ = await asyncio.wait(running, timeout=60 * minutes, return_when=asyncio.FIRST_EXCEPTION)
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        for task in ended:
            task.result()
        await self.recover()
        await self.die()
        assert self.complaints == []
        self.witness.verdict()

    def events_are_freed(self) -> None:
        """Check that at most one event is held for the last error of each stage, or an iterator's last chunk."""
        most, held = len(self.orchestrator.stages), len(self.feed.alive())
        if isinstance(self.source, Pulled):
            most += len(self.source.waiting) + 256  # in the frames of its last error
        assert held <= most, f"{held} events are held after the end"

    async def recover(self) -> None:
        """Check that everything works when nothing fails any more."""
        self.dice.moods.clear()
        if isinstance(self.source, Pulled):
            self.source.waiting.clear()
        for _ in range(3):
            await self.release()
            await asyncio.sleep(self.max_age + 70)
            await self.orchestrator.start()
            if self.witness.state == "running" and self.orchestrator.account.in_flight == 0:
                break
        self.witness.raise_if_broken()
        assert self.orchestrator.account.in_flight == 0, held(self.orchestrator)
        if isinstance(self.source, Pulled):
            return  # a synchronous one has ended by now; the other may wait
        published = self.witness.outcomes["published"]
        await asyncio.sleep(self.timespan)
        assert self.witness.state == "running", self.witness.state
        self.source.push([self.feed.event(key) for key in (2001, 2002, 2003)])
        await asyncio.sleep(self.timespan + 15)
        if self.max_age > 8 and self.witness.outcomes["published"] != published + 3:
            raise AssertionError(f"it did not recover: {self.witness.outcomes}")

    async def die(self) -> None:
        await self.stop(10)
        self.witness.raise_if_broken()
        # an iterator that raises cannot begin anew, and fails the run; what it raises in a drain may come too late
        ends = {"failed" if self.feed.raised else "stopped", "failed" if "running" in self.feed.raised else "stopped"}
        assert self.witness.state in ends, (self.witness.state, self.feed.raised)
        account = self.orchestrator.account
        await self.release()
        await asyncio.sleep(1000)
        assert self.orchestrator.account == account, "something happened after the end"
        self.watch_tasks()
        assert not self.tasks, f"a caller waits for ever: {self.tasks}"
