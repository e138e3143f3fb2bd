"""Runs a pipeline: states, start, stop, restart, and the signals of the operating system."""

from __future__ import annotations

import asyncio
import signal
import warnings
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self
from weakref import WeakValueDictionary

from loguru import logger
from reactivex.abc import DisposableBase
from reactivex.disposable import CompositeDisposable, Disposable, SerialDisposable

from rxcompact.clock import Seconds, count, seconds
from rxcompact.contracts import Demand, DurableSource, close
from rxcompact.errors import ArgumentError, InUseError, LoopError
from rxcompact.observers.log import ReportObserver
from rxcompact.observers.observables import Observables
from rxcompact.observers.statistics import ENDED, Statistics
from rxcompact.pipeline import Pipeline
from rxcompact.run import Run
from rxcompact.signals import Account, Report, StageNow, State
from rxcompact.supervisor import Supervisor

DEADLINE = 10.0  # seconds that a drain may take by default
SOURCE_SHARE, DRAIN_SHARE = 0.45, 0.9
"""Shares of a stop's deadline after which its source is left behind, and what is not settled abandoned."""


class Orchestrator(Observables):
    """Owns the subscription of a pipeline. What happens can be observed: see `Observables`.

    It belongs to the loop it was started in; its methods may be called from any task there, again and again. A source
    that dies is subscribed to again, after a wait that grows with each failure and is short again once it has been
    healthy for a minute. What the stages hold stays where it is meanwhile. Its states, and the steps of a stop, are in
    the manual: shutdown.

    Args:
        max_failures: Failures in a row at which the run has failed. A source that cannot begin anew fails it at once.
        deadline: Seconds that a drain may take, where `stop` gives no others.
        report: Log losses and failures, as `ReportObserver` does.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        max_failures: int = 100,
        deadline: Seconds = DEADLINE,
        report: bool = True,
    ) -> None:
        if not isinstance(pipeline, Pipeline):  # pyright: ignore[reportUnnecessaryIsInstance] - of a notebook's user
            raise ArgumentError("pipeline", pipeline, "a Pipeline")
        super().__init__(Statistics(self), pipeline.name)
        if report:
            self.attach(ReportObserver())
        self.pipeline = pipeline
        self._supervisor = Supervisor(
            source=pipeline.source,
            max_failures=count("max_failures", max_failures),
            on_failure=self.notify_signal,
            on_ended=self._on_source_ended,
        )
        self._drain_seconds = seconds("deadline", deadline, zero=True)
        self._state: State = "idle"
        self._run: Run | None = None
        self._source_error: Exception | None = None  # that ended the run
        self._deadline: Deadline
        self._ending: asyncio.Task[Report] | None = None
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
    def demand(self) -> Demand | None:
        """What the stages have capacity for; None before the first start."""
        return self._run

    @property
    def account(self) -> Account:
        """What came in and what became of it, since the last start."""
        return self._run.account() if self._run is not None else Account()

    @property
    def bytes_held(self) -> int:
        """Bytes of JSON that are in flight, dead letters on their way and unfinished request bodies included."""
        return self._run.size() + self._run.receiving if self._run is not None else 0

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

    def __repr__(self) -> str:
        return f"<Orchestrator {self._state}: {self.account}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return self.statistics.snapshot()._repr_mimebundle_()  # pyright: ignore[reportPrivateUsage]

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
        await self._drained()
        if self._state in ENDED:
            self._start()

    async def restart(self) -> None:
        """Subscribe to the source anew, or start. Windows, waiting retries and unpublished events stay.

        Nothing is done while the last events of a source that completed are on their way.
        """
        await self._drained()
        if self._run is None or self._state in ENDED:
            self._start()
        elif self._state == "running":
            self._set_state("restarting")
            self.restarts += 1
            self._set_state("running")
            self._supervisor.pause()  # after observers were notified, which may take its time
            self._supervisor.subscribe(self._run)

    async def _drained(self) -> None:
        self._check_loop()
        while self._ending is not None and not self._ending.done():
            await asyncio.wait({self._ending})

    def _check_loop(self) -> None:
        """End a run whose loop was closed before its end.

        Raises:
            LoopError: where it runs on another loop.
        """
        run = self._run
        if run is not None and self._state not in ENDED and run.loop is not asyncio.get_running_loop():
            if not run.loop.is_closed():
                raise LoopError("it runs on another loop: stop it there")
            lost = run.account().in_flight
            logger.warning("the loop was closed before the pipeline was stopped: {} events in flight are lost", lost)
            self._supervisor.pause()
            self._ending = None
            self._set_state("stopped")

    def _start(self) -> None:
        other = _running.get(id(self.pipeline.source))
        if other is not None and other is not self and other.state not in ENDED:
            raise InUseError(f"another orchestrator runs its source: {other!r}; stop it first, or give each a source")
        _running[id(self.pipeline.source)] = self
        loop = asyncio.get_running_loop()
        self._ending = self._source_error = None
        self._time = loop.time
        self._started_at, self.restarts = loop.time(), 0
        self._run = Run(self.pipeline, self)
        self.now = self._run.scheduler.wall
        self._run.ended.add_done_callback(self._on_ended)
        self._set_state("running")
        self._supervisor.subscribe(self._run)

    def _on_source_ended(self, error: Exception | None) -> None:
        self._source_error = error
        if self._run is not None and self._ending is None:
            self._set_state("draining")
            self._run.complete()

    # ── stop ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def stop(self, deadline: Seconds | None = None) -> Report:
        """Stop, and return what the run came to, by the deadline.

        Args:
            deadline: Seconds; by default the orchestrator's. Of several the earliest holds, caller cancelled or not.

        Raises:
            LoopError: where it runs on another loop.
        """
        limit = self._drain_seconds if deadline is None else seconds("deadline", deadline, zero=True)
        self._check_loop()
        self._begin_drain(limit)
        if self._ending is None:
            return Report(self.account, 0.0, in_time=not self.account.in_flight)
        return await asyncio.shield(self._ending)

    def _on_ended(self, _: asyncio.Future[None]) -> None:
        if self._ending is None:
            self._begin_drain(self._drain_seconds)

    def _begin_drain(self, limit: float) -> None:
        """Drain what runs in so many seconds; where that is under way already, do it sooner."""
        if self._ending is not None:
            self._deadline.shorten(limit)
        elif self._run is not None and self._state not in ENDED:
            self._set_state("draining")
            self._deadline = Deadline(limit)
            self._ending = asyncio.create_task(self._drain(self._run, self._deadline), name="rxcompact drain")

    async def _drain(self, run: Run, deadline: Deadline) -> Report:
        pipeline, source = self.pipeline, self.pipeline.source
        self._supervisor.retire()
        await deadline.limit(close(source), SOURCE_SHARE)
        self._supervisor.pause()
        if not run.ended.done():
            run.drain()
            await asyncio.sleep(0)  # that was enough for a turn of the loop
        in_time = await deadline.wait(run.ended, DRAIN_SHARE)
        if not in_time or run.ended.exception() is not None:
            await run.abandon()
        await deadline.limit(run.deliver_dead_letters())
        parts = [*(each.enricher for each in pipeline.enrichments), pipeline.publication.sink, pipeline.dead_letters]
        closings = [close(part) for part in parts]
        if isinstance(source, DurableSource):
            closings.append(source.release())
        await asyncio.gather(*map(deadline.limit, closings))
        failed = run.ended.exception() is not None or self._source_error is not None
        self._set_state("failed" if failed else "stopped")
        await deadline.limit(self._end_observers())
        self._signal_handlers.disposable = Disposable()
        return Report(run.account(), deadline.took(), in_time and not failed)

    async def wait(self) -> Report:
        """Wait until it has stopped.

        Raises:
            Exception: what the source died of, when it failed too often or cannot begin anew; or what the stream failed
                with: a bug, or no capacity under the policy "error".
        """
        self._check_loop()
        run = self._run
        if run is not None and self._state not in ENDED:
            await asyncio.wait({run.ended})  # of which `_on_ended` is notified before
        if run is None or self._ending is None:
            return await self.stop()
        report = await asyncio.shield(self._ending)
        run.ended.result()
        if self._source_error is not None:
            raise self._source_error
        return report

    def stop_on(self, *numbers: int) -> None:
        """Have signals stop it, until it has stopped; by default SIGTERM, SIGINT and SIGHUP.

        A second one cuts the drain short. The handlers that were there before are put back.
        """

        def stop() -> None:
            self._begin_drain(self._drain_seconds if self._ending is None else 0.0)

        numbers = numbers or (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        self._signal_handlers.disposable = CompositeDisposable([add_signal_handler(each, stop) for each in numbers])

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __del__(self) -> None:
        if getattr(self, "_state", "idle") not in ENDED:
            warnings.warn(f"{self!r} was never stopped", ResourceWarning, source=self, stacklevel=1)


_running: WeakValueDictionary[int, Orchestrator] = WeakValueDictionary()
"""By the source that it runs."""


class Deadline:
    """A span of time that the steps of a stop share, and that may be shortened."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._seconds = seconds
        self._shortened: asyncio.Future[None] = self._loop.create_future()

    def took(self) -> float:
        return self._loop.time() - self._began

    def shorten(self, seconds: float) -> None:
        if (shorter := self.took() + seconds) < self._seconds:
            self._seconds = shorter
            self._shortened.set_result(None)
            self._shortened = self._loop.create_future()

    async def wait(self, future: asyncio.Future[Any], share: float = 1.0) -> bool:
        """Wait until a future is done, or this share of the time is over; return whether it is done."""
        while not future.done() and (left := self._began + self._seconds * share - self._loop.time()) > 0:
            await asyncio.wait({future, self._shortened}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return future.done()

    async def limit(self, work: Awaitable[Any], share: float = 1.0) -> None:
        """Have something done in this share of the time; what ignores its cancellation then is left behind."""
        task: asyncio.Future[Any] = asyncio.ensure_future(work)
        await asyncio.sleep(0)  # even with no time left it gets to begin
        if not await self.wait(task, share):
            task.cancel()
        elif not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "closing failed", "exception": error})


_handlers: defaultdict[int, list[Callable[[], object]]] = defaultdict(list)  # ours, by signal
_handlers_before: dict[int, Any] = {}


def add_signal_handler(number: int, handler: Callable[[], object]) -> DisposableBase:
    """Call a handler on the running loop at a signal, beside those that were added before, until disposed of.

    The last of them to go puts back what was there before. One whose loop was closed is gone.
    """
    loop, handlers = asyncio.get_running_loop(), _handlers[number]

    def call() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(handler)
            return
        dispose()
        if not handlers:
            signal.raise_signal(number)

    def dispose() -> None:
        handlers.remove(call)
        if not handlers:
            signal.signal(number, _handlers_before.pop(number))

    if not handlers:
        _handlers_before[number] = signal.signal(number, lambda *_: [each() for each in list(handlers)])
    handlers.append(call)
    return Disposable(dispose)
