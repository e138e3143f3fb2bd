"""Runs a pipeline: start, stop, restart, supervision, drain, the account."""

from __future__ import annotations

import asyncio
import signal
import warnings
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Self

from reactivex.disposable import Disposable, SerialDisposable

from rxcompact.clock import Seconds, seconds
from rxcompact.contracts import DurableSource, close
from rxcompact.deadline import Deadline
from rxcompact.interrupts import hear
from rxcompact.observers.observables import Observables
from rxcompact.observers.prometheus import exposition
from rxcompact.observers.statistics import Statistics
from rxcompact.operators.retry import Wait, full_jitter
from rxcompact.pipeline import Pipeline
from rxcompact.render import StageNow, orchestrator_html
from rxcompact.run import Flow
from rxcompact.signals import Account, State
from rxcompact.supervisor import Supervisor

DEADLINE = 10.0
STOPPED, DRAINED = 0.45, 0.9
"""Shares of a stop's deadline after which its source is left behind, and what has not met its end abandoned."""
ENDED: frozenset[State] = frozenset({"idle", "stopped", "failed"})
Steps = Callable[[Flow, Deadline], Coroutine[Any, Any, "Report"]]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to."""

    account: Account
    seconds: float
    """How long stopping took."""
    in_time: bool
    """Whether everything met its end before the deadline; what had not was abandoned."""


class Orchestrator(Observables):
    """Owns the subscription of a pipeline.

    ::

        idle ──start──▶ running ──stop, or the source completes──▶ draining ──▶ stopped
                   ▲     │                                                       │
                   └─────┴── restart (of the source: nothing held is lost)       └── start ──▶ running

    It belongs to the loop it was started in; its methods may be called from any task there, again and again.

    A source that dies is subscribed to again, after a wait that grows with each failure and is short again once it has
    been healthy for a while. What the stages hold stays where it is meanwhile.

    ``stop`` ends in steps: 1. the sources take no more; 2. the open windows close; 3. every wait is cut short, for one
    last attempt; 4. what came through is published; 5. at the deadline what has not met its end is abandoned.

    Args:
        pipeline: What to run.
        wait: Between a source's failure and its next subscription: tenacity's, or a function like one.
        healthy_after: Seconds without failure after which a source's failures are forgotten.

    What happens is to be seen in the observables of `Observables`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        wait: Wait = full_jitter,
        healthy_after: Seconds = 60.0,
    ) -> None:
        super().__init__(Statistics(self))
        self.pipeline = pipeline
        self._wait = wait
        self._healthy_after = seconds("healthy_after", healthy_after)
        self._state: State = "idle"
        self._flow: Flow | None = None
        self._supervisor: Supervisor | None = None
        self._ending: asyncio.Task[Report] | None = None
        self._deadline: Deadline
        self._report: Report | None = None
        self._over: asyncio.Future[asyncio.Task[Report]]  # done, with what ended the run, when it has
        self._lock = asyncio.Lock()
        self._stops: set[asyncio.Future[Report]] = set()
        self._hearing = SerialDisposable()
        self._time: Callable[[], float] = float
        self._began, self._ended = 0.0, 0.0
        self.restarts = 0
        """How often the source was subscribed to anew, since the last start."""
        pipeline.run_by(self)

    # ── what is to be seen ────────────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> State:
        """What it is doing."""
        return self._state

    @property
    def account(self) -> Account:
        """What came in and what became of it, since the last start."""
        return self._flow.account() if self._flow is not None else Account()

    @property
    def held(self) -> dict[str, int]:
        """How many distinct events each stage holds."""
        return self._flow.held() if self._flow is not None else {}

    @property
    def stages(self) -> Mapping[str, StageNow]:
        """What each stage holds, how old the oldest of it is, and the last error; empty before the first start."""
        return self._flow.stages() if self._flow is not None else {}

    @property
    def uptime(self) -> float:
        """Seconds since the last start, or from it until the end."""
        return (self._ended if self._state in ENDED else self._time()) - self._began

    def _repr_html_(self) -> str:
        return orchestrator_html(self.pipeline, self)

    def _become(self, state: State) -> None:
        if state != self._state:
            self._ended = self._time()
            old, self._state = self._state, state
            self._on_state(old, state)

    # ── start, restart ────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Start, unless it runs."""
        async with self._lock:
            if self._ending is not None and not self._ending.done():
                await asyncio.wait({self._ending})
            if self._state in ENDED:
                self._start()

    def _start(self) -> None:
        self._ending = None
        self._report = None
        self._time = asyncio.get_running_loop().time
        self._began, self.restarts = self._time(), 0
        self._flow = Flow(
            self.pipeline,
            on_window=self._on_window,
            on_delivered=self._on_delivered,
            on_dead_letter=self._on_dead_letter,
            on_retry=self._on_signal,
            metrics=lambda: exposition(self.statistics.snapshot()),
        )
        self._over = asyncio.get_running_loop().create_future()
        self._flow.ended.add_done_callback(self._on_ended)
        self._become("running")
        self._supervise(self._flow)

    def _supervise(self, flow: Flow) -> None:
        self._supervisor = Supervisor(
            self.pipeline.source,
            flow,
            wait=self._wait,
            healthy_after=self._healthy_after,
            announce=self._on_signal,
            completed=self._on_source_completed,
        )

    def _on_source_completed(self) -> None:
        if self._flow is not None and self._ending is None:
            self._become("draining")
            self._flow.complete()

    async def restart(self) -> None:
        """Subscribe to the source anew, or start. Windows, waiting retries and unpublished events stay.

        Nothing is done while the last events of a source that completed are on their way.
        """
        async with self._lock:
            if self._ending is not None and not self._ending.done():
                await asyncio.wait({self._ending})
            if self._state in ENDED or self._flow is None:
                self._start()
            elif self._state == "running" and self._supervisor is not None:
                self._become("restarting")
                self.restarts += 1
                self._become("running")
                self._supervisor.pause()  # after observers were told, which may take its time
                self._supervise(self._flow)

    # ── stop ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def stop(self, deadline: Seconds = DEADLINE) -> Report:
        """Stop, and return what the run came to, by the deadline.

        Args:
            deadline: Seconds; of several calls the earliest deadline holds, also when its caller was cancelled.
        """
        limit = seconds("deadline", deadline, zero=True)
        ending = self._ending
        if ending is not None:
            self._deadline.move_up(limit)
        elif self._flow is None or self._state in ENDED:
            return self._report or Report(self.account, 0.0, in_time=True)
        else:
            ending = self._end(self._drain, self._flow, limit)
        return await asyncio.shield(ending)

    def _end(self, steps: Steps, flow: Flow, limit: float) -> asyncio.Task[Report]:
        self._become("draining")
        self._deadline = Deadline(limit)
        self._ending = asyncio.create_task(steps(flow, self._deadline), name="rxcompact drain")
        self._ending.add_done_callback(self._over.set_result)
        return self._ending

    async def _drain(self, flow: Flow, deadline: Deadline) -> Report:
        began = asyncio.get_running_loop().time()
        await self._stop_source(deadline)
        flow.drain()
        in_time = await deadline.wait(flow.ended, DRAINED)
        if not in_time:
            flow.abandon()
        return await self._finish(flow, deadline, began, in_time=in_time)

    def _on_ended(self, ended: asyncio.Future[None]) -> None:
        """End the run when its source completed or its stream failed."""
        if self._ending is None and self._flow is not None and not ended.cancelled():
            self._end(self._wind_up, self._flow, DEADLINE)

    async def _wind_up(self, flow: Flow, deadline: Deadline) -> Report:
        began = asyncio.get_running_loop().time()
        await self._stop_source(deadline)
        if flow.ended.exception() is not None:
            flow.abandon()
        return await self._finish(flow, deadline, began, in_time=True)

    async def _stop_source(self, deadline: Deadline) -> None:
        if self._supervisor is not None:
            self._supervisor.retire()
        await deadline.within(close(self.pipeline.source), STOPPED)
        if self._supervisor is not None:
            self._supervisor.pause()
            self._supervisor = None

    async def _finish(self, flow: Flow, deadline: Deadline, began: float, *, in_time: bool) -> Report:
        parts = (close(self.pipeline.enricher), close(self.pipeline.sink), self._release())
        await asyncio.gather(*map(deadline.within, parts))
        took = asyncio.get_running_loop().time() - began
        failed = flow.ended.exception() is not None
        self._report = Report(flow.account(), took, in_time and not failed)
        self._become("failed" if failed else "stopped")
        self._hearing.disposable = Disposable()
        return self._report

    async def _release(self) -> None:
        if isinstance(self.pipeline.source, DurableSource):
            await self.pipeline.source.release()

    async def wait(self) -> Report:
        """Wait until it has stopped.

        Raises:
            Exception: what the stream failed with, if it did: a bug, or no room under the policy "error".
        """
        flow = self._flow
        if flow is None:
            return Report(Account(), 0.0, in_time=True)
        ending = await asyncio.shield(self._over)
        flow.ended.result()
        return ending.result()

    def stop_on(self, *numbers: int, deadline: Seconds = DEADLINE) -> None:
        """Have signals stop it, until it has stopped; by default SIGTERM and SIGINT. A second cuts the drain short."""

        def stop() -> None:
            if self._ending is not None:
                self._deadline.move_up(0.0)
            task = asyncio.ensure_future(self.stop(deadline))
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)

        self._hearing.disposable = hear(numbers or (signal.SIGTERM, signal.SIGINT), stop)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __del__(self) -> None:
        if getattr(self, "_state", "idle") not in ENDED:
            warnings.warn(f"{self!r} was never stopped", ResourceWarning, source=self, stacklevel=1)

    def __repr__(self) -> str:
        return f"<Orchestrator {self._state}: {self.account}>"
