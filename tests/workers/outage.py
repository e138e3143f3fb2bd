"""A partition's worker that dies in virtual time: a pipeline that runs, and what a broker keeps for it."""

import asyncio
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import count
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from reactivex.subject import Subject

from rxcompact import Ack, Chunk, Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.events import Compacted
from rxcompact.testing import START, SimulatedApi, virtual_loop

Event: TypeAlias = tuple[str, float]
KEY, TIME = itemgetter(0), itemgetter(1)
TURN = 0.1
"""Seconds between two pulls of a worker."""


class Partition:
    """What a broker keeps for one worker: events in order, each until it is acknowledged."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events, self._taken, self._numbers, self._chunks = events, 0, count(), Subject[Any]()
        self._unacknowledged: dict[int, Sequence[Event]] = {}
        self._returned: deque[tuple[float, Sequence[Event]]] = deque()

    def stream(self, _: Any) -> Subject[Any]:
        return self._chunks

    def waiting(self, now: float) -> int:
        due = sum(len(events) for at, events in self._returned if at <= now)
        return due + bisect_right(self.events, now, key=TIME) - self._taken

    def over(self) -> bool:
        return self._taken == len(self.events) and not self._returned

    def deliver(self, now: float, most: int) -> int:
        """Deliver what was not acknowledged in time before what is new; return how much waits."""
        while most > 0 and self.waiting(now):
            begin = self._taken
            if self._returned and self._returned[0][0] <= now:
                events = self._returned.popleft()[1]
            else:
                self._taken = min(begin + most, bisect_right(self.events, now, key=TIME))
                events = self.events[begin : self._taken]
            number, most = next(self._numbers), most - len(events)
            self._unacknowledged[number] = events
            self._chunks.on_next(Chunk(events, Ack(self._acknowledge, number)))
        return self.waiting(now)

    def _acknowledge(self, numbers: list[int]) -> None:
        for number in numbers:
            self._unacknowledged.pop(number, None)

    def lost(self, until: float) -> None:
        """Wait until then for a worker that was killed."""
        self._returned.extend((until, events) for events in self._unacknowledged.values())
        self._unacknowledged.clear()


class Outage(NamedTuple):
    backlog: int  # events that waited when there was a worker again
    caught_up: float  # seconds from then until none did
    ends: dict[str, Counter[Event]]  # how often each key and birth was published, expired, rejected


async def outage(
    events: Sequence[Event],
    *,
    down: float,
    seconds: float,
    capacity: int,
    ack_wait: float,
    timespan: float,
    lateness: float | None,
    max_age: float,
) -> Outage:
    """Kill a partition's worker some time after the start; after so many seconds another takes its place."""
    loop, broker, found = virtual_loop(), Partition(events), Outage(0, 0.0, {})

    def note(end: Any) -> None:
        event = (end.event.key, end.event.first_seen) if isinstance(end.event, Compacted) else end.event
        found.ends.setdefault(end.outcome, Counter())[event] += 1

    async def pull(until: Callable[[int], bool]) -> float:
        began = loop.time()
        while not until(broker.deliver(loop.wall(), int(capacity * TURN))):
            await asyncio.sleep(TURN)
        return loop.time() - began

    def worker() -> Orchestrator:
        compact = rxo.compact(timespan, key_mapper=KEY, time_mapper=TIME, lateness=lateness)
        calls = rxo.enrich(SimulatedApi()), rxo.publish(lambda _: None)
        return Orchestrator(Pipeline(broker, compact, *calls, max_age=max_age, max_in_flight=10**9))

    first, second = worker(), worker()
    noting = first.outcomes.subscribe(note)
    await first.start()
    await pull(lambda _: loop.wall() >= START + down)
    noting.dispose()  # killed: from now on nothing is received from it
    broker.lost(loop.wall() + ack_wait)
    await first.stop(0)
    await asyncio.sleep(seconds)
    second.outcomes.subscribe(note)
    await second.start()
    backlog = broker.waiting(loop.wall())
    caught_up = await pull(lambda waiting: not waiting)
    await pull(lambda _: broker.over())
    await asyncio.sleep(3 * timespan)
    await second.stop()
    return found._replace(backlog=backlog, caught_up=caught_up)
