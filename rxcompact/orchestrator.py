"""Runs a pipeline: states, start, stop, restart, and the signals of the operating system."""

from __future__ import annotations

import asyncio
import signal
import warnings
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeAlias
from weakref import WeakKeyDictionary, WeakValueDictionary

from loguru import logger
from reactivex.abc import DisposableBase
from reactivex.disposable import Disposable, SerialDisposable

from rxcompact.clock import Seconds, count, seconds
from rxcompact.contracts import DurableSource, close
from rxcompact.deadline import Deadline
from rxcompact.errors import ArgumentError, InUseError, LoopError
from rxcompact.observers.metrics import exposition
from rxcompact.observers.observables import Observables
from rxcompact.observers.report import ReportObserver
from rxcompact.observers.statistics import Statistics
from rxcompact.operators.retry import Wait, full_jitter
from rxcompact.pipeline import Pipeline
from rxcompact.run import Run
from rxcompact.signals import Account, StageNow, State
from rxcompact.supervisor import Supervisor

DEADLINE = 10.0  # seconds that a drain may take by default
SOURCE_SHARE, DRAIN_SHARE = 0.45, 0.9
"""Shares of a stop's deadline after which its source is left behind, and what is not settled abandoned."""
ENDED: frozenset[State] = frozenset({"idle", "stopped", "failed"})
Steps = Callable[[Run, Deadline], Coroutine[Any, Any, "Report"]]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to."""

    account: Account
    seconds: float
    """How long stopping took."""
    in_time: bool
    """Whether everything was settled before the deadline; what was not was abandoned."""


class Orchestrator(Observables):
    """Owns the subscription of a pipeline.

    ::

        idle ──start──▶ running ──stop, or the source completes──▶ draining ──▶ stopped
                   ▲     │                                                       │
                   └─────┴── restart (of the source: nothing held is lost)       └── start ──▶ running

    It belongs to the loop it was started in; its methods may be called from any task there, again and again.

    A source that dies is subscribed to again, after a wait that grows with each failure and is short again once it has
    been healthy for a while. What the stages hold stays where it is meanwhile.

    ``stop`` ends in steps: 1. the source takes no more; 2. the open windows close; 3. every wait is cut short, for one
    last attempt; 4. what was enriched is published; 5. at nine tenths of the deadline what is not settled is abandoned;
    6. dead letters that wait are delivered.

    Args:
        pipeline: What to run.
        wait: Between a source's failure and its next subscription: tenacity's, or a function like one.
        healthy_after: Seconds without failure after which a source's failures are forgotten.
        max_failures: Failures in a row at which the run has failed. A source that cannot begin anew fails it at once.
        deadline: Seconds that a drain may take, where `stop` gives no others.
        report: Log losses and failures, as `ReportObserver` does.

    What happens can be observed: see `Observables`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        wait: Wait = full_jitter,
        healthy_after: Seconds = 60.0,
        max_failures: int = 100,
        deadline: Seconds = DEADLINE,
        report: bool = True,
    ) -> None:
        if not isinstance(pipeline, Pipeline):  # pyright: ignore[reportUnnecessaryIsInstance] - of a notebook's user
            raise ArgumentError("pipeline", pipeline, "a Pipeline")
        super().__init__(Statistics(self))
        if report:
            self.attach(ReportObserver())
        self.pipeline = pipeline
        self._wait = wait
        self._max_failures = count("max_failures", max_failures)
        self._drain_seconds = seconds("deadline", deadline, zero=True)
        self._healthy_after = seconds("healthy_after", healthy_after)
        self._state: State = "idle"
        self._run: Run | None = None
        self._supervisor: Supervisor | None = None
        self._ending: asyncio.Task[Report] | None = None
        self._deadline: Deadline
        self._report: Report | None = None
        self._source_error: Exception | None = None  # that ended the run
        self._finished: asyncio.Future[asyncio.Task[Report]]  # done, with what ended the run, when it has
        self._lock = asyncio.Lock()
        self._stops: set[asyncio.Future[Report]] = set()
        self._signal_handlers = SerialDisposable()
        self._time: Callable[[], float] = float
        self._started_at, self._ended_at = 0.0, 0.0
        self.restarts = 0
        """How often the source was subscribed to anew, since the last start."""

    # ── what can be seen ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> State:
        """What it is doing."""
        return self._state

    @property
    def account(self) -> Account:
        """What came in and what became of it, since the last start."""
        return self._run.account() if self._run is not None else Account()

    @property
    def stages(self) -> Mapping[str, StageNow]:
        """What each stage holds, how old the oldest of it is, and the last error; empty before the first start."""
        return self._run.stages() if self._run is not None else {}

    @property
    def unknown_fields(self) -> tuple[str, ...]:
        """The fields of keys and times that no event had, since the last start."""
        return self._run.unknown_fields if self._run is not None else ()

    @property
    def uptime(self) -> float:
        """Seconds since the last start, or from it until the end."""
        return (self._ended_at if self._state in ENDED else self._time()) - self._started_at

    def _repr_html_(self) -> str:
        from rxcompact.render.tables import orchestrator_html  # noqa: PLC0415 - pictures are for those who look

        return orchestrator_html(self.pipeline, self)

    def _set_state(self, state: State) -> None:
        if state != self._state:
            self._ended_at = self._time()
            old, self._state = self._state, state
            self._on_state(old, state)

    # ── start, restart ────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Start, unless it runs.

        Raises:
            InUseError: while another orchestrator runs the pipeline's source.
            LoopError: while it runs on another loop.
        """
        async with self._lock:
            if self._ending is not None and not self._ending.done():
                await asyncio.wait({self._ending})
            self._forget_closed_loop()
            if self._state in ENDED:
                self._start()

    def _forget_closed_loop(self) -> None:
        """Begin anew where the loop of the last run was closed before it was stopped.

        Raises:
            LoopError: where that loop is another one, and open.
        """
        run = self._run
        if run is None or self._state in ENDED or run.loop is asyncio.get_running_loop():
            return
        if not run.loop.is_closed():
            raise LoopError("it runs on another loop: stop it there first")
        in_flight = run.account().in_flight
        logger.warning("the loop was closed before the pipeline was stopped: {} events in flight are lost", in_flight)
        if self._supervisor is not None:
            self._supervisor.pause()
        self._ending, self._supervisor, self._lock = None, None, asyncio.Lock()
        self._set_state("stopped")

    def _start(self) -> None:
        other = _running.get(id(self.pipeline.source))
        if other is not None and other is not self and other.state not in ENDED:
            raise InUseError(f"another orchestrator runs its source: {other!r}; stop it first, or give each a source")
        _running[id(self.pipeline.source)] = self
        self._ending = None
        self._report = None
        self._source_error = None
        self._time = asyncio.get_running_loop().time
        self._started_at, self.restarts = self._time(), 0
        self._run = Run(
            self.pipeline,
            on_window=self._on_window,
            on_delivered=self._on_delivered,
            on_dead_letter=self._on_dead_letter,
            on_retry=self._on_signal,
            metrics=lambda: exposition(self.statistics.snapshot()),
        )
        self._finished = asyncio.get_running_loop().create_future()
        self._run.ended.add_done_callback(self._on_ended)
        self._set_state("running")
        self._supervise(self._run)

    def _supervise(self, run: Run) -> None:
        self._supervisor = Supervisor(
            self.pipeline.source,
            run,
            wait=self._wait,
            healthy_after=self._healthy_after,
            max_failures=self._max_failures,
            on_failure=self._on_signal,
            on_ended=self._on_source_ended,
        )

    def _on_source_ended(self, error: Exception | None) -> None:
        self._source_error = error
        if self._run is not None and self._ending is None:
            self._set_state("draining")
            self._run.complete()

    async def restart(self) -> None:
        """Subscribe to the source anew, or start. Windows, waiting retries and unpublished events stay.

        Nothing is done while the last events of a source that completed are on their way.
        """
        async with self._lock:
            if self._ending is not None and not self._ending.done():
                await asyncio.wait({self._ending})
            self._forget_closed_loop()
            if self._state in ENDED or self._run is None:
                self._start()
            elif self._state == "running" and self._supervisor is not None:
                self._set_state("restarting")
                self.restarts += 1
                self._set_state("running")
                self._supervisor.pause()  # after observers were notified, which may take its time
                self._supervise(self._run)

    # ── stop ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def stop(self, deadline: Seconds | None = None) -> Report:
        """Stop, and return what the run came to, by the deadline.

        Args:
            deadline: Seconds; by default the orchestrator's. Of several calls the earliest holds, also when its
                caller was cancelled.
        """
        limit = self._drain_seconds if deadline is None else seconds("deadline", deadline, zero=True)
        ending = self._ending
        if ending is not None:
            self._deadline.shorten(limit)
        elif self._run is None or self._state in ENDED:
            return self._report or Report(self.account, 0.0, in_time=True)
        else:
            ending = self._begin_drain(self._drain, self._run, limit)
        return await asyncio.shield(ending)

    def _begin_drain(self, steps: Steps, run: Run, limit: float) -> asyncio.Task[Report]:
        self._set_state("draining")
        self._deadline = Deadline(limit)
        self._ending = asyncio.create_task(steps(run, self._deadline), name="rxcompact drain")
        self._ending.add_done_callback(self._finished.set_result)
        return self._ending

    async def _drain(self, run: Run, deadline: Deadline) -> Report:
        began = asyncio.get_running_loop().time()
        await self._stop_source(deadline)
        run.drain()
        in_time = await deadline.wait(run.ended, DRAIN_SHARE)
        if not in_time:
            run.abandon()
        return await self._finish(run, deadline, began, in_time=in_time)

    def _on_ended(self, ended: asyncio.Future[None]) -> None:
        """End the run when its source completed or its stream failed."""
        if self._ending is None and self._run is not None and not ended.cancelled():
            self._begin_drain(self._finish_ended, self._run, self._drain_seconds)

    async def _finish_ended(self, run: Run, deadline: Deadline) -> Report:
        began = asyncio.get_running_loop().time()
        await self._stop_source(deadline)
        if run.ended.exception() is not None:
            run.abandon()
        return await self._finish(run, deadline, began, in_time=True)

    async def _stop_source(self, deadline: Deadline) -> None:
        if self._supervisor is not None:
            self._supervisor.retire()
        await deadline.limit(close(self.pipeline.source), SOURCE_SHARE)
        if self._supervisor is not None:
            self._supervisor.pause()
            self._supervisor = None

    async def _finish(self, run: Run, deadline: Deadline, began: float, *, in_time: bool) -> Report:
        await deadline.limit(run.deliver_dead_letters())
        pipeline = self.pipeline
        parts = [*(each.enricher for each in pipeline.enrichments), pipeline.publication.sink, pipeline.dead_letters]
        await asyncio.gather(*map(deadline.limit, (*map(close, parts), self._release())))
        took = asyncio.get_running_loop().time() - began
        failed = run.ended.exception() is not None or self._source_error is not None
        self._report = Report(run.account(), took, in_time and not failed)
        self._set_state("failed" if failed else "stopped")
        self._signal_handlers.disposable = Disposable()
        return self._report

    async def _release(self) -> None:
        if isinstance(self.pipeline.source, DurableSource):
            await self.pipeline.source.release()

    async def wait(self) -> Report:
        """Wait until it has stopped.

        Raises:
            Exception: what the source died of, when it failed too often or cannot begin anew; or what the stream failed
                with: a bug, or no capacity under the policy "error".
        """
        run = self._run
        if run is None:
            return Report(Account(), 0.0, in_time=True)
        ending = await asyncio.shield(self._finished)
        run.ended.result()
        if self._source_error is not None:
            raise self._source_error
        return ending.result()

    def stop_on(self, *numbers: int, deadline: Seconds | None = None) -> None:
        """Have signals stop it, until it has stopped; by default SIGTERM, SIGINT and SIGHUP.

        A second one cuts the drain short. The handlers that were there before are put back.
        """

        def stop() -> None:
            if self._ending is not None:
                self._deadline.shorten(0.0)
            task = asyncio.ensure_future(self.stop(deadline))
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)

        self._signal_handlers.disposable = add_signal_handlers(
            numbers or (signal.SIGTERM, signal.SIGINT, signal.SIGHUP), stop
        )

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


_running: WeakValueDictionary[int, Orchestrator] = WeakValueDictionary()
"""By the source that it runs."""


Handlers: TypeAlias = dict[int, list[Callable[[], object]]]
_handlers: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Handlers, dict[int, Any]]] = WeakKeyDictionary()


def add_signal_handlers(numbers: Collection[int], handler: Callable[[], object]) -> DisposableBase:
    """Call a handler at signals, beside those that others added, until disposed of.

    asyncio has one handler for a signal; the last of ours to go puts back what was there before.
    """
    loop = asyncio.get_running_loop()
    handlers, before = _handlers.setdefault(loop, ({}, {}))

    def handle(number: int) -> None:
        for each in list(handlers[number]):
            each()

    for number in numbers:
        if number not in handlers:
            before[number] = signal.getsignal(number), getattr(loop, "_signal_handlers", {}).get(number)
        handlers.setdefault(number, []).append(handler)
        loop.add_signal_handler(number, handle, number)

    def dispose() -> None:
        for number in numbers:
            handlers[number].remove(handler)
            if not handlers[number]:
                del handlers[number]
                loop.remove_signal_handler(number)
                of_process, of_loop = before.pop(number)
                if of_loop is not None:
                    loop.add_signal_handler(number, of_loop._callback, *of_loop._args)
                else:
                    signal.signal(number, of_process)

    return Disposable(dispose)
