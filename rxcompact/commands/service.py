"""Any pipeline as a service: signals, probes, its state live, the account at the end; in several processes."""

from __future__ import annotations

import argparse
import asyncio
import hmac
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, TextIO

from aiohttp import web
from reactivex import operators as ops

from rxcompact.brokers.source import BrokerSource
from rxcompact.commands import common
from rxcompact.contracts import Source
from rxcompact.errors import ArgumentError, PermanentError, TransientError
from rxcompact.events import DeadLetter
from rxcompact.format import error_text, short
from rxcompact.observers import LogObserver
from rxcompact.observers.statistics import ENDED, Snapshot
from rxcompact.orchestrator import Orchestrator
from rxcompact.pipeline import Pipeline
from rxcompact.signals import SourceFailed
from rxcompact.sources.connections import Probes, Server
from rxcompact.sources.http import HttpSource

if TYPE_CHECKING:
    from rich.text import Text

ORCHESTRATOR = ("deadline",)
MAX_CONNECTIONS, TIMEOUT = 100, 75.0  # of --status
USAGE = 2  # the exit code of a worker that would end at once again
PAUSE = 1.0  # seconds until a worker that died is started again
WORKER = "RXCOMPACT_WORKER"
PERIOD, LINE = 0.25, 1.0  # seconds between two updates of --live on a terminal, and between two lines elsewhere
EXIT_CODES = """\
exit code:
  0    drained: after a signal, or because the source ended
  1    events were abandoned at the deadline, none of those received was published, none had a field that was named,
       standard output was closed by its reader, or the run failed
  2    wrong usage, or an address that cannot be listened on
"""


def add_service_arguments(parser: argparse.ArgumentParser) -> Any:
    """Add the options of all commands that run a service; return the group of those that start processes."""
    add = parser.add_argument
    processes = parser.add_mutually_exclusive_group()
    common.add_parameters(parser, Orchestrator, ORCHESTRATOR)
    status = "answer /healthz, /readyz and /metrics there, whatever the source; a worker N at PORT + N"
    add("--status", metavar="HOST:PORT", help=status)
    keys = "answer /keys there: the most frequent of the last minute, for who sends the bearer token in this file"
    add("--status-token-file", metavar="FILE", help=keys)
    requires = "answer 503 to /readyz while what this stage calls is down"
    add("--ready-requires", choices=["enrich", "publish"], help=requires)
    workers = "processes, each with its share of --partitions; one that dies is started again (%(default)s)"
    processes.add_argument("--workers", type=common.positive, default=1, metavar="N", help=workers)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--live", action="store_true", help="show its state on standard error (extra live)")
    output.add_argument("--verbose", action="store_true", help="log all that happens to standard error")
    return processes


async def serve(pipeline: Pipeline, options: argparse.Namespace) -> int:
    """Run the pipeline until it ends; return the exit code."""
    orchestrator = Orchestrator(pipeline, report=not options.verbose, **common.given(options, ORCHESTRATOR))
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    stops: list[asyncio.Future[Any]] = []  # for want of a reader of standard output

    def stop_without_reader(letter: DeadLetter) -> None:
        error = letter.error
        if not stops and isinstance(error, PermanentError) and isinstance(error.__cause__, BrokenPipeError):
            stops.append(asyncio.ensure_future(orchestrator.stop()))

    orchestrator.dead_letters.subscribe(stop_without_reader)
    fatal = ops.filter(lambda each: isinstance(each, SourceFailed) and not isinstance(each.error, TransientError))
    if options.verbose:
        orchestrator.attach(LogObserver())
    if numbers := common.stop_signals():
        orchestrator.stop_on(*numbers)
    ready = asyncio.ensure_future(_ready(pipeline.source))
    in_time = False
    async with _status(orchestrator, ready, options):
        with orchestrator.signals.pipe(fatal, ops.take(1)).subscribe(failed.set_result):
            await orchestrator.start()
            ended = asyncio.ensure_future(orchestrator.wait())
            waits: set[asyncio.Future[Any]] = {ready, failed, ended}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():  # later failures are retried; this one is for whoever typed the address
            ready.cancel()
            await orchestrator.stop()
            raise failed.result().error
        if ready.done():
            common.note(ready.result())
        if options.live:
            await live(orchestrator, sys.stderr)
        try:
            in_time = (await ended).in_time
        except Exception as error:  # noqa: BLE001 - whatever the source or the stream failed with
            common.note(f"rxcompact: {error_text(error)}", "ERROR")
    account = orchestrator.account
    common.note(str(account), **account._asdict())
    useless = account.received > 0 and not account.published
    return int(useless or bool(stops) or not in_time or account.abandoned > 0 or bool(orchestrator.unknown_fields))


async def _ready(source: Source) -> str:
    if isinstance(source, HttpSource):
        await source.listening()
        return f"listening on {source.url}"
    if isinstance(source, BrokerSource):
        await source.bound.wait()
    return f"consuming {source!r}"


async def _keys(orchestrator: Orchestrator, credentials: bytes, request: web.BaseRequest) -> web.Response:
    """Answer with the most frequent keys of the last minute, and how often each came."""
    sent = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(sent, credentials):
        return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
    return web.json_response([[short(key, 200), count] for key, count in orchestrator.statistics.top.most()])


@asynccontextmanager
async def _status(
    orchestrator: Orchestrator, ready: asyncio.Future[Any], options: argparse.Namespace
) -> AsyncGenerator[None]:
    """Answer probes and metrics meanwhile."""
    place = options.status
    if place is None:
        if options.status_token_file is not None:
            raise ArgumentError("--status-token-file", options.status_token_file, "given with --status")
        yield
        return

    def state() -> str:
        if orchestrator.state != "running":
            return orchestrator.state
        return "ok" if ready.done() else "starting"

    host, port = common.address("--status", place)
    routes = dict(Probes(state, lambda: orchestrator.demand, options.ready_requires).routes())
    if options.status_token_file is not None:
        token = common.read_token("--status-token-file", options.status_token_file)
        routes["/keys"] = {"GET": partial(_keys, orchestrator, f"Bearer {token}".encode())}
    server = Server(routes, MAX_CONNECTIONS, TIMEOUT, retry_after=1)
    try:
        port = await server.open(host, port + (worker() if port else 0))
    except OSError as error:
        raise ArgumentError("--status", place, f"free ({error})") from None
    common.note(f"status on http://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        yield
    finally:
        await server.close()


def worker() -> int:
    """Return the number of this process, from 0; 0 too where it is the only one."""
    return int(os.environ.get(WORKER, "0"))


class Workers:
    """Runs a function in several processes until each has ended by itself, or a signal has stopped them all."""

    def __init__(self, number: int, run: Callable[[], int]) -> None:
        self._run, self._signals, self._stopping = run, common.stop_signals(), 0  # the signal, once there was one
        self._processes: dict[int, BaseProcess] = {}
        for each in self._signals:
            signal.signal(each, self._stop)
        for n in range(number):
            self._start(n)

    def _start(self, number: int) -> None:
        # signals wait meanwhile: a process that was just forked has the handlers of this one
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        if not self._stopping:
            self._processes[number] = multiprocessing.get_context("fork").Process(target=self._work, args=(number,))
            self._processes[number].start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)

    def _work(self, number: int) -> None:
        os.environ[WORKER] = str(number)
        for each in self._signals:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        sys.exit(self._run())

    def _stop(self, number: int, _: Any = None) -> None:
        self._stopping = number
        for process in self._processes.values():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    def wait(self) -> int:
        """Return the exit code of wrong usage, else the highest, when all have ended."""
        codes = [0]
        while self._processes:
            wait([process.sentinel for process in self._processes.values()])
            for number, process in list(self._processes.items()):
                code = process.exitcode
                if code is not None and self._is_over(number, code) and code != -self._stopping:  # it had not begun
                    codes.append(code if code >= 0 else common.SIGNALLED - code)
        return USAGE if USAGE in codes else max(codes)

    def _is_over(self, number: int, code: int) -> bool:
        """Start a worker again, unless it ended by itself or all are to end."""
        del self._processes[number]
        if code == USAGE:
            self._stop(signal.SIGTERM)
        if code and not self._stopping:
            common.note(f"rxcompact: worker {number} ended with {code}, and is started again", "ERROR")
            time.sleep(PAUSE)
            self._start(number)
        return number not in self._processes


async def live(orchestrator: Orchestrator, file: TextIO | None = None) -> None:
    """Show the state until the run ends: in place on a terminal, elsewhere and without rich as a line a second."""
    out = file or sys.stdout
    if not out.isatty() or os.environ.get("TERM", "dumb") == "dumb" or find_spec("rich") is None:
        while orchestrator.state not in ENDED:
            print(orchestrator.account, file=out, flush=True)
            await asyncio.sleep(LINE)
        return
    from rich.console import Console  # noqa: PLC0415 - an extra
    from rich.live import Live  # noqa: PLC0415

    # what is logged and printed meanwhile goes above it
    with Live(console=Console(file=out), auto_refresh=False) as view:
        while orchestrator.state not in ENDED:
            view.update(coloured(orchestrator.statistics.snapshot()), refresh=True)
            await asyncio.sleep(PERIOD)
        view.update(coloured(orchestrator.statistics.snapshot()), refresh=True)


def coloured(now: Snapshot) -> Text:
    """Return a snapshot as text of rich, outcomes in their colours."""
    from rich.text import Text  # noqa: PLC0415 - an extra

    from rxcompact.render.svg import OUTCOME_COLOURS  # noqa: PLC0415 - takes long to import

    text = Text(str(now), no_wrap=True, overflow="ellipsis")
    text.highlight_regex(r"\A.*", "bold")
    for outcome, (_, colour) in OUTCOME_COLOURS.items():
        text.highlight_regex(rf"\b{outcome}\b", colour)
    return text
