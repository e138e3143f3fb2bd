"""Calls to be made, and what they wait for: a place, the next attempt, the rate, a service that is down."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count

from rxcompact.clock import INFINITY, TICK
from rxcompact.operators.jobs import Entry, Job, Loss, deadline_of
from rxcompact.operators.retry import LAST_PART
from rxcompact.operators.service import PAUSE, WITHIN, Place, Service
from rxcompact.operators.turns import SLICE
from rxcompact.operators.verdict import verdict

TARGETS = 1000
"""Services that are known to fail at once."""
FEW = 10
"""Alarms and places of jobs that are gone, and may be left."""
DUE = SLICE // 2
"""Events that are called for again, or settled, at once: each takes twice as long as one that is handed over."""
LAG = 0.005
"""Seconds by which a timer may be late; what it is late for is caught up with."""
MARGIN = 1.25
"""Times that answers took of late: less time than this is too short for another."""


class Waiting(ABC):
    """Jobs, each until it is called: at most ``max_concurrent`` at once, and ``rate`` a second."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_age: float, max_concurrent: int, rate: float) -> None:
        self._loop, self._max_age, self._max_concurrent = loop, max_age, max_concurrent
        self._jobs: dict[Job, None] = {}  # a set in order, so that what is done to all of them is repeatable
        self._queue: list[Place] = []  # a heap; some may have expired; last is what leaves no time for an answer
        self._latency = 0.0  # of answers of late, seconds
        # a heap of instants and the jobs to be looked at then; a timer of the loop for each would take 3 µs, and all of
        # one instant would be due in one turn
        self._alarms: list[tuple[float, int]] = []
        self._armed: dict[int, Job] = {}  # by number
        self._timer: asyncio.TimerHandle | None = None  # of the first of them, or of one that was
        self._timer_at = INFINITY
        self._numbers = count(1)
        self._calls = self._calling = 0  # and the events that they are for
        self._services: dict[str, Service] = {}  # those that fail, by name
        self._since, self._answers = loop.time(), 0  # in the present second
        self._interval = 1 / rate
        self._next_call = -INFINITY  # when the rate allows the next call
        self._turn: asyncio.TimerHandle | None = None
        self._stopping = self._closed = False

    @abstractmethod
    def _start(self, job: Job) -> None: ...

    @abstractmethod
    def _lost(self, outcome: Loss, entry: Entry, job: Job, error: BaseException | None = None) -> None:
        """Settle what is too old, cannot be mended by retrying, or is given up.

        Where another event goes on in the place of one that expired, the entry is its from now on.
        """

    def _target(self, entry: Entry) -> str:  # noqa: ARG002 - of a stage
        """Return the name of the service that is called for an entry."""
        return ""

    def _switched(self, target: str, service: Service, error: BaseException | None, after: float = 0.0) -> None:  # noqa: B027
        """Notify others that a service is down, or, without an error, that it is back after some time."""

    def failing(self) -> tuple[str, ...]:
        """Return the names of the services that are down, as far as is known."""
        return tuple(target for target, service in self._services.items() if service.opened is not None)

    def waiting(self) -> int:
        """Return how many calls failed and wait to be made again."""
        return sum((job.waiting or job.held) and job.count > 0 for job in self._armed.values())

    def oldest(self) -> float | None:
        """Return the age of the oldest event that is called for, or waits for it, seconds."""
        jobs: Iterable[Job] = self._jobs
        if self._queue and self._queue[0][0] and (first := self._queue[0][2]).entries:  # by deadline; others are armed
            jobs = first, *self._armed.values()
        return max((self._max_age - job.earliest + self._loop.time() for job in jobs), default=None)

    def _add(self, job: Job, entries: list[Entry], wait: float) -> None:
        """Add entries to a job that waits, and have it wait no longer than this."""
        job.entries += entries
        deadlines = [*map(deadline_of, entries)]
        job.earliest, job.latest = min(job.earliest, *deadlines), max(job.latest, *deadlines)
        job.due = min(job.due, self._loop.time() + wait)
        self._arm(job)

    def _enqueue(self, job: Job) -> None:
        """Have a job called as soon as there is a place: the one with the earliest deadline first."""
        self._jobs[job] = None
        job.waiting = False
        job.due = INFINITY
        if self._calls < self._max_concurrent and not (self._interval and self._waits_for_turn()):
            self._start(job)
            return
        one_by_one = self._max_concurrent == 1  # in order
        heappush(self._queue, (0.0 if one_by_one else job.earliest, next(self._numbers), job))
        if one_by_one:
            self._arm(job)
        elif job.earliest < self._timer_at:
            self._set_timer()

    def _waits_for_turn(self) -> bool:
        """Return whether the rate allows no call now; those that wait are called when it does."""
        if self._next_call <= self._loop.time() + TICK:
            return False
        if self._turn is None or self._turn.when() < self._next_call:
            self._turn = self._loop.call_at(self._next_call, self._pull)
        return True

    def _pull(self) -> None:
        """Have those called that wait for a place: the earliest deadline first that leaves the time for an answer.

        While more comes than can be called for, all calls would else be for what expires in them.
        """
        now = self._loop.time() + TICK
        soon = now + MARGIN * self._latency
        for _ in range(SLICE):
            if not self._queue or self._calls >= self._max_concurrent:
                return
            if self._interval and self._waits_for_turn():
                return
            key, _, job = self._queue[0]
            if job.entries and job.earliest <= now:  # it is looked at first
                return
            heappop(self._queue)
            if job.entries and 0 < key < INFINITY and job.latest < soon:
                heappush(self._queue, (INFINITY, -next(self._numbers), job))  # until no other waits
                self._arm(job)
            elif job.entries:
                self._start(job)
        self._loop.call_soon(self._pull)

    def _sleep(self, job: Job, wait: float) -> None:
        job.task = None
        if self._stopping:  # that was its last attempt
            self._give_up(job)
            return
        self._jobs[job] = None
        job.waiting = True
        job.due = self._loop.time() + wait
        self._arm(job)

    def _arm(self, job: Job) -> None:
        # a call goes on while one of its entries is young enough
        at = min(job.due, job.earliest if job.task is None else job.latest)
        if job.timer and job.alarm == at:
            return
        self._armed.pop(job.timer, None)
        job.alarm, job.timer = at, 0
        if at < INFINITY:
            job.timer = next(self._numbers)
            self._armed[job.timer] = job
            heappush(self._alarms, (at, job.timer))
            if at < self._timer_at:
                self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._next_alarm()
        self._timer = self._loop.call_at(self._timer_at, self._ring) if self._timer_at < INFINITY else None

    def _next_alarm(self) -> float:
        at = self._alarms[0][0] if self._alarms else INFINITY
        return min(at, self._queue[0][0] or INFINITY) if self._queue else at

    def _ring(self) -> None:
        """Look at the jobs that are due; at many in slices, with the loop's turn between them."""
        now, left = self._loop.time() + TICK, DUE
        try:
            while left > 0 and self._next_alarm() <= now:
                left -= max(1, self._look_at_next(now))
        finally:
            self._set_timer()
            self._pull()

    def _look_at_next(self, now: float) -> int:
        """Look at the job that is due first; return how many events it has."""
        if not self._alarms or self._alarms[0][0] > now:
            job = heappop(self._queue)[2]
            events = len(job.entries)
            self._expire(job, now)
            if job.entries:
                heappush(self._queue, (job.earliest, next(self._numbers), job))
            else:
                self._remove(job)
            return events
        number = heappop(self._alarms)[1]
        if number not in self._armed:
            return 0
        job = self._armed.pop(number)
        job.timer = 0
        events = len(job.entries)
        self._wake(job)
        return events

    def _wake(self, job: Job) -> None:
        now = self._loop.time() + TICK
        task = job.task
        if (job.earliest if task is None else job.latest) <= now:
            if task is not None:
                self._time_out(job, now)
            self._expire(job, now)
        if not job.entries:
            self._remove(job)
            if task is not None:
                task.cancel()
        elif task is None and job.due == INFINITY and not job.held and self._max_concurrent > 1:
            self._enqueue(job.split(job.entries))  # in the place of another event
            job.entries = []
            self._remove(job)
        elif job.due > now:
            self._arm(job)
        elif task is None:
            self._enqueue(job)
        else:
            job.timed_out = True
            job.due = INFINITY
            task.cancel()
            self._arm(job)

    def _time_out(self, job: Job, now: float) -> None:
        """Note that a call is not answered while its events live: its service may be down, if there was the time."""
        error = TimeoutError("the call took longer than the event may live")
        job.error = job.error or error
        if not job.timed_out and now - job.began >= max(2 * self._latency, LAST_PART * self._max_age):
            job.timed_out = True
            self._fail_at(self._target(job.entries[0]), job, error)

    def _expire(self, job: Job, now: float) -> None:
        expired = [entry for entry in job.entries if entry.deadline <= now]
        job.narrow_to([entry for entry in job.entries if entry.deadline > now])
        for entry in expired:
            self._lost("expired", entry, job)
        going_on = [entry for entry in expired if entry.deadline > now]
        if going_on:
            job.narrow_to([*job.entries, *going_on])
            job.last = False
            if job.waiting:
                job.due = now + job.fit(job.earliest - now)
            if self._closed:  # by an observer
                self._give_up(job)

    def _remove(self, job: Job) -> None:
        self._jobs.pop(job, None)
        job.waiting = job.held = job.released = False
        self._armed.pop(job.timer, None)
        job.timer = 0
        if len(self._alarms) > 2 * len(self._armed) + FEW:
            self._alarms = [alarm for alarm in self._alarms if alarm[1] in self._armed]
            heapify(self._alarms)
        if len(self._queue) > 2 * len(self._jobs) + FEW:
            self._queue = [place for place in self._queue if place[2].entries]
            heapify(self._queue)

    # ── services that fail ────────────────────────────────────────────────────────────────────────────────────────

    def _is_held(self, job: Job) -> bool:
        """Have a job wait, where the service that it is for is down; forget it, where it has expired."""
        if not job.entries:
            self._remove(job)
            return True
        service = self._services.get(self._target(job.entries[0]))
        key = 0.0 if self._max_concurrent == 1 else job.earliest
        if service is None or not service.holds((key, next(self._numbers), job)):
            return False
        self._arm(job)
        return True

    def _succeed_at(self, target: str) -> None:
        if (service := self._services.get(target)) is None:
            return
        opened = service.opened
        if service.succeeded():
            del self._services[target]
            if held := list(service.close()):
                for place in held:
                    place[2].held = False
                self._queue += held
                heapify(self._queue)
                self._pull()
        if opened is not None and service.opened is None:
            self._switched(target, service, None, self._loop.time() - opened)

    def _fail_at(self, target: str, job: Job, error: BaseException) -> None:
        service = self._services.get(target)
        if service is None:
            if len(self._services) >= TARGETS:  # those that fail now and then make room
                down = self.failing()
                self._services = {name: each for name, each in self._services.items() if name in down}
            if len(self._services) >= TARGETS:
                return
            service = Service(self._loop, self._enqueue, self._max_concurrent, self._since, self._answers)
            self._services[target] = service
        took = self._loop.time() - job.began
        is_silent = job.timed_out or took >= max(WITHIN, 2 * self._latency)  # a client may have a limit of its own
        if verdict(error) == "rate limited":
            service.limited(min(job.asked or min(job.wait, PAUSE), self._max_age))
        elif service.failed(error, took if is_silent else 0.0):
            self._switched(target, service, error)
        if service.opened is not None:
            job.last = False  # it was a probe, or under way when the service failed
            if self._stopping and not service.successes:  # that was the last attempt of all
                self._each(self._give_up, (place[2] for place in service.close()))

    def _each(self, action: Callable[[Job], None], jobs: Iterator[Job], at_once: float = DUE) -> None:
        """Do something with jobs, so many events at once, with the loop's turn between them."""
        left = at_once
        for job in jobs:
            if job in self._jobs:  # else its call has ended meanwhile
                left -= len(job.entries)
                action(job)
                if left <= 0:
                    self._loop.call_soon(self._each, action, jobs, at_once)
                    break

    def _give_up(self, job: Job) -> None:
        if job.task is not None:
            job.task.cancel()
        self._remove(job)
        entries, job.entries = job.entries, []
        for entry in entries:
            self._lost("abandoned", entry, job)
