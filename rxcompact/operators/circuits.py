"""The circuit breakers of a pool: one for each service that fails."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from heapq import heapify
from itertools import count
from typing import Any

from rxcompact.operators.breaker import PAUSE, Breaker, Place
from rxcompact.operators.job import Entry, Job
from rxcompact.operators.verdict import verdict

TARGETS = 1000
"""Services that have one at a time."""


class Circuits(ABC):
    """Has jobs wait for a service that is down. While nothing fails there is no breaker, and no cost."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_age: float, max_concurrent: int) -> None:
        self._loop, self._max_age, self._max_concurrent = loop, max_age, max_concurrent
        self._breakers: dict[str, Breaker] = {}  # by the name of the service
        self._queue: list[Place] = []  # a heap; some may have expired
        self._numbers = count()
        self._calls = 0
        self._since, self._answers = loop.time(), 0  # in the present second
        self._stopping = False

    def failing(self) -> tuple[str, ...]:
        """Return the names of the services that are down, as far as is known."""
        return tuple(target for target, breaker in self._breakers.items() if breaker.opened is not None)

    def _target(self, _: Entry) -> str:
        """Return the name of the service that is called for an entry."""
        return ""

    def _failing(self, target: str, error: BaseException) -> None:  # noqa: B027 - who wants to knows
        """Notify others that a service is down."""

    def _healed(self, target: str, after: float) -> None:  # noqa: B027 - as above
        """Notify others that a service is back."""

    @abstractmethod
    def _enqueue(self, job: Job) -> None: ...

    @abstractmethod
    def _pull(self) -> None: ...

    @abstractmethod
    def _arm(self, job: Job) -> None: ...

    @abstractmethod
    def _remove(self, job: Job) -> None: ...

    @abstractmethod
    def _give_up(self, job: Job) -> None: ...

    def _has_place(self) -> bool:
        return self._calls < self._max_concurrent

    def _place(self, job: Job) -> Place:
        # one after another is in order
        return 0.0 if self._max_concurrent == 1 else job.earliest, next(self._numbers), job

    def _is_held(self, job: Job) -> bool:
        """Have a job wait, where the service that it is for is down; forget it, where it has expired."""
        if not job.entries:
            self._remove(job)
            return True
        breaker = self._breakers.get(self._target(job.entries[0]))
        released, job.released = job.released, False
        if breaker is None or released or breaker.admits():
            return False
        job.error = job.error or breaker.error
        breaker.hold(self._place(job))
        self._arm(job)
        return True

    def _succeed_at(self, target: str) -> None:
        """Note that a service answered."""
        breaker = self._breakers.get(target)
        if breaker is None:
            return
        opened = breaker.opened
        if breaker.succeeded():
            del self._breakers[target]
            self._queue += breaker.close()
            heapify(self._queue)
            self._pull()
        if opened is not None and breaker.opened is None:
            self._healed(target, self._loop.time() - opened)

    def _fail_at(self, target: str, job: Job, error: BaseException) -> None:
        """Note that a call failed, so that it is made again."""
        breaker = self._breakers.get(target)
        if breaker is None:
            if len(self._breakers) >= TARGETS:
                self._breakers = {name: each for name, each in self._breakers.items() if not each.is_idle()}
                if len(self._breakers) >= TARGETS:
                    return
            counts: Any = {"most": self._max_concurrent, "since": self._since, "answers": self._answers}
            breaker = self._breakers[target] = Breaker(self._loop, self._enqueue, self._has_place, **counts)
        if verdict(error) == "rate limited":
            breaker.limited(min(job.asked or min(job.wait, PAUSE), self._max_age))
        elif breaker.failed(error):
            self._failing(target, error)
        if breaker.opened is not None:
            job.last = False  # it was a probe, or under way when the service failed
        if breaker.is_down and self._stopping:  # that was the last attempt of all
            for _, _, held in breaker.close():
                self._give_up(held)
