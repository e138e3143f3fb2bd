"""Any pipeline as a service: signals, probes, its state live, the account at the end; in several processes."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.util import find_spec
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
from rxcompact.sources.connections import Probes, Server, is_authorized
from rxcompact.sources.http import HttpSource

if TYPE_CHECKING:
    from rich.text import Text

ORCHESTRATOR = ("deadline",)
MAX_CONNECTIONS, TIMEOUT = 100, 75.0  # of --status
USAGE = 2  # the exit code of a worker that would end at once again
PAUSE = 1.0  # seconds until a worker that died is started again
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
    processes.add_argument("--workers", type=int, default=1, metavar="N", help=workers)
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
    if not is_authorized(request, [credentials]):
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
        port = await server.open(host, port + (common.worker() if port else 0))
    except OSError as error:
        raise ArgumentError("--status", place, f"free ({error})") from None
    common.note(f"status on http://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        yield
    finally:
        await server.close()


async def run_workers(number: int) -> int:
    """Run this command in several processes until each has ended by itself, or a signal has stopped them all.

    Returns the exit code of wrong usage, else the highest.
    """
    processes: dict[int, asyncio.subprocess.Process] = {}
    stopped: list[int] = []  # the signals that did

    def stop(by: int) -> None:
        stopped.append(by)
        for process in processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(by)

    async def work(worker: int) -> int:
        command = [sys.executable, "-m", "rxcompact", *sys.argv[1:]]
        code = 0
        while not stopped:
            environment = os.environ | {common.WORKER: str(worker)}
            process = processes[worker] = await asyncio.create_subprocess_exec(*command, env=environment)
            if stopped:  # meanwhile
                process.send_signal(stopped[-1])
            code = await process.wait()
            if code == USAGE:
                stop(signal.SIGTERM)
            if not code or stopped:
                break
            common.note(f"rxcompact: worker {worker} ended with {code}, and is started again", "ERROR")
            await asyncio.sleep(PAUSE)
        if -code in stopped:  # it had not begun
            return 0
        return code if code >= 0 else common.SIGNALLED - code

    for each in common.stop_signals():
        asyncio.get_running_loop().add_signal_handler(each, stop, each)
    codes = await asyncio.gather(*map(work, range(number)))
    return USAGE if USAGE in codes else max(codes)


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
