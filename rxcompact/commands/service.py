"""Any pipeline as a service: signals, probes, its state live, the account at the end."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from reactivex import operators as ops

from rxcompact.brokers.source import BrokerSource
from rxcompact.commands import common
from rxcompact.commands.workers import worker
from rxcompact.contracts import Source
from rxcompact.errors import ArgumentError, PermanentError, TransientError
from rxcompact.events import DeadLetter
from rxcompact.format import error_text
from rxcompact.observers import LogObserver
from rxcompact.orchestrator import Orchestrator
from rxcompact.pipeline import Pipeline
from rxcompact.signals import Signal, SourceFailed
from rxcompact.sources.connections import Server
from rxcompact.sources.http import HttpSource
from rxcompact.sources.probes import Probes

ORCHESTRATOR = ("deadline",)
MAX_CONNECTIONS, TIMEOUT = 100, 75.0  # of --status
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
    requires = "answer 503 to /readyz while what this stage calls is down"
    add("--ready-requires", choices=["enrich", "publish"], help=requires)
    workers = "processes, each with its share of --partitions; one that dies is started again (%(default)s)"
    processes.add_argument("--workers", type=common.positive, default=1, metavar="N", help=workers)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--live", action="store_true", help="show its state on standard error (extra live)")
    output.add_argument("--verbose", action="store_true", help="log all that happens to standard error")
    return processes


def _is_fatal(signal: Signal) -> bool:
    return isinstance(signal, SourceFailed) and not isinstance(signal.error, TransientError)


def _is_of_a_closed_pipe(letter: DeadLetter) -> bool:
    return isinstance(letter.error, PermanentError) and isinstance(letter.error.__cause__, BrokenPipeError)


async def serve(pipeline: Pipeline, options: argparse.Namespace) -> int:
    """Run the pipeline until it ends; return the exit code."""
    orchestrator = Orchestrator(pipeline, report=not options.verbose, **common.given(options, ORCHESTRATOR))
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    stops: list[asyncio.Future[Any]] = []  # for want of a reader of standard output

    closed = orchestrator.dead_letters.pipe(ops.filter(_is_of_a_closed_pipe), ops.take(1))
    closed.subscribe(lambda _: stops.append(asyncio.ensure_future(orchestrator.stop())))
    if options.verbose:
        orchestrator.attach(LogObserver())
    if numbers := common.stop_signals():
        orchestrator.stop_on(*numbers)
    ready = asyncio.ensure_future(_ready(pipeline.source))
    in_time = False
    async with _status(orchestrator, ready, options):
        with orchestrator.signals.pipe(ops.filter(_is_fatal), ops.take(1)).subscribe(failed.set_result):
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
            from rxcompact.commands.live import live  # noqa: PLC0415 - takes long to import

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
        await source.bound()
    return f"consuming {source!r}"


@asynccontextmanager
async def _status(
    orchestrator: Orchestrator, ready: asyncio.Future[Any], options: argparse.Namespace
) -> AsyncGenerator[None]:
    """Answer probes and metrics meanwhile."""
    place = options.status
    if place is None:
        yield
        return

    def state() -> str:
        if orchestrator.state != "running":
            return orchestrator.state
        return "ok" if ready.done() else "starting"

    host, port = common.address("--status", place)
    app = web.Application()
    app.add_routes(Probes(state, lambda: orchestrator.demand, options.ready_requires).routes())
    server = Server(app, MAX_CONNECTIONS, TIMEOUT, retry_after=1)
    try:
        port = await server.open(host, port + (worker() if port else 0))
    except OSError as error:
        raise ArgumentError("--status", place, f"free ({error})") from None
    common.note(f"status on http://{f'[{host}]' if ':' in host else host}:{port}")
    try:
        yield
    finally:
        await server.close()
