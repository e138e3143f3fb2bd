"""Runs a pipeline: start, stop, restart, supervision, drain, the account."""

from __future__ import annotations

import asyncio
import signal
import warnings
from dataclasses import dataclass
from typing import Any, Self

from rxcompact.clock import Seconds, seconds
from rxcompact.flow import Flow
from rxcompact.observed import Observed
from rxcompact.operators.retry import Wait, full_jitter
from rxcompact.pipeline import Pipeline
from rxcompact.signals import Account, State
from rxcompact.supervisor import Supervisor, close, within

DEADLINE = 10.0
GRACE = 0.1
"""Share of a stop's deadline that is kept for closing connections."""
ENDED: frozenset[State] = frozenset({"idle", "stopped", "failed"})


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to."""

    account: Account
    seconds: float
    """How long stopping took."""
    in_time: bool
    """Whether everything met its end before the deadline; what had not was abandoned."""


class Orchestrator(Observed):
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

    What happens is to be seen in the observables of `Observed`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        wait: Wait = full_jitter,
        healthy_after: Seconds = 60.0,
    ) -> None:
        super().__init__()
        self.pipeline = pipeline
        self._wait = wait
        self._healthy_after = seconds("healthy_after", healthy_after)
        self._state: State = "idle"
        self._flow: Flow | None = None
        self._supervisor: Supervisor | None = None
        self._ending: asyncio.Task[Report] | None = None
        self._report: Report | None = None
        self._cut: asyncio.Event = asyncio.Event()
        self._lock = asyncio.Lock()
        self._stops: set[asyncio.Future[Report]] = set()

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

    def _become(self, state: State) -> None:
        if state != self._state:
            old, self._state = self._state, state
            self._on_state(old, state)

    # ── start, restart ────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Start, unless it runs."""
        async with self._lock:
            if self._ending is not None:
                await asyncio.wait({self._ending})
            if self._state in ENDED:
                await self._start()

    async def _start(self) -> None:
        self._cut = asyncio.Event()
        self._ending = None
        self._report = None
        self._flow = Flow(
            self.pipeline,
            on_window=self._on_window,
            on_delivered=self._on_delivered,
            on_dead_letter=self._on_dead_letter,
            on_retry=self._on_signal,
        )
        self._flow.ended.add_done_callback(self._on_ended)
        self._become("running")
        await self._supervise(self._flow)

    async def _supervise(self, flow: Flow) -> None:
        supervisor = self._supervisor = Supervisor(
            self.pipeline.source,
            flow,
            wait=self._wait,
            healthy_after=self._healthy_after,
            announce=self._on_signal,
        )
        await supervisor.subscribed()

    async def _stop_source(self, deadline: float) -> None:
        if self._supervisor is not None:
            await self._supervisor.stop(deadline)
            self._supervisor = None

    async def restart(self) -> None:
        """Subscribe to the source anew, or start. Windows, waiting retries and unpublished events stay."""
        async with self._lock:
            if self._ending is not None:
                await asyncio.wait({self._ending})
            if self._state in ENDED or self._flow is None:
                await self._start()
                return
            self._become("restarting")
            if self._supervisor is not None:
                await self._supervisor.pause(DEADLINE)
            if self._state == "restarting":
                self._become("running")
                await self._supervise(self._flow)

    # ── stop ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def stop(self, deadline: Seconds = DEADLINE) -> Report:
        """Stop, and return what the run came to, by the deadline.

        Args:
            deadline: Seconds; of several calls the earliest deadline holds.
        """
        limit = seconds("deadline", deadline, zero=True)
        if self._ending is None:
            if self._state in ENDED:
                return self._report or Report(self.account, 0.0, in_time=True)
            self._ending = asyncio.create_task(self._drain(limit), name="rxcompact drain")
        timer = asyncio.get_running_loop().call_later(limit * (1 - GRACE), self._cut.set)
        try:
            return await asyncio.shield(self._ending)
        finally:
            timer.cancel()

    async def _drain(self, limit: float) -> Report:
        loop = asyncio.get_running_loop()
        began = loop.time()
        flow = self._flow
        if flow is None:
            raise AssertionError("nothing runs")
        self._become("draining")
        await self._stop_source(limit * (1 - GRACE) / 2)
        flow.drain()
        cut = asyncio.create_task(self._cut.wait())
        waits: set[asyncio.Future[Any]] = {flow.ended, cut}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
        in_time = flow.ended.done()
        if not in_time:
            flow.abandon()
        left = max(0.0, limit - (loop.time() - began))
        return await self._finish(flow, began, in_time=in_time, left=left)

    def _on_ended(self, ended: asyncio.Future[None]) -> None:
        """End the run when its source completed or its stream failed."""
        if self._ending is None and self._flow is not None and not ended.cancelled():
            self._ending = asyncio.ensure_future(self._wind_up(self._flow))

    async def _wind_up(self, flow: Flow) -> Report:
        self._become("draining")
        began = asyncio.get_running_loop().time()
        await self._stop_source(DEADLINE)
        if flow.ended.exception() is not None:
            flow.abandon()
        return await self._finish(flow, began, in_time=True, left=DEADLINE)

    async def _finish(self, flow: Flow, began: float, *, in_time: bool, left: float) -> Report:
        parts = (self.pipeline.enricher, self.pipeline.sink)
        await within(asyncio.gather(*map(close, parts)), left)
        took = asyncio.get_running_loop().time() - began
        self._report = Report(flow.account(), took, in_time and flow.ended.exception() is None)
        self._become("stopped" if flow.ended.exception() is None else "failed")
        return self._report

    async def wait(self) -> Report:
        """Wait until it has stopped.

        Raises:
            Exception: what the stream failed with, if it did: a bug, or no room under the policy "error".
        """
        flow = self._flow
        if flow is None:
            return Report(Account(), 0.0, in_time=True)
        await asyncio.wait({flow.ended})
        await asyncio.sleep(0)  # for what is done when it ends, which is asked to before this
        report = await self.stop()
        flow.ended.result()
        return report

    def stop_on(self, *numbers: int, deadline: Seconds = DEADLINE) -> None:
        """Have signals stop it; by default SIGTERM and SIGINT. A second one cuts the drain short."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self._ending is not None:
                self._cut.set()
            task = asyncio.ensure_future(self.stop(deadline))
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)

        for number in numbers or (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)

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
