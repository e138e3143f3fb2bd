"""Any pipeline as a service: signals, probes, its state live, the account at the end."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from reactivex import operators as ops

from rxcompact.commands import common
from rxcompact.errors import PermanentError, TransientError
from rxcompact.events import DeadLetter
from rxcompact.format import error_text
from rxcompact.observers import LogObserver
from rxcompact.orchestrator import Orchestrator
from rxcompact.pipeline import Pipeline
from rxcompact.signals import Signal, SourceFailed

ORCHESTRATOR = ("deadline",)
EXIT_CODES = """\
exit code:
  0    drained: after a signal, or because the source ended
  1    events were abandoned at the deadline, none of those received was published, none had a field that was named,
       standard output was closed by its reader, or the run failed
  2    wrong usage, or an address that cannot be listened on
"""


def add_service_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of all commands that run a service."""
    add = parser.add_argument
    common.add_parameters(parser, Orchestrator, ORCHESTRATOR)
    status = "answer /healthz, /readyz and /metrics there, whatever the source; a worker N at PORT + N"
    add("--status", metavar="HOST:PORT", help=status)
    workers = "processes, each with its share of --partitions; one that dies is started again (%(default)s)"
    add("--workers", type=common.positive, default=1, metavar="N", help=workers)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--live", action="store_true", help="show its state on standard error (extra live)")
    output.add_argument("--verbose", action="store_true", help="log all that happens to standard error")


def _is_fatal(signal: Signal) -> bool:
    return isinstance(signal, SourceFailed) and not isinstance(signal.error, TransientError)


async def serve(pipeline: Pipeline, options: argparse.Namespace) -> int:
    """Run the pipeline until it ends; return the exit code."""
    from rxcompact.commands.status import ready_text, status  # noqa: PLC0415 - aiohttp takes long to import

    orchestrator = Orchestrator(pipeline, report=not options.verbose, **common.given(options, ORCHESTRATOR))
    failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    stops: list[asyncio.Future[Any]] = []  # for want of a reader of standard output

    def on_dead_letter(letter: DeadLetter) -> None:
        error = letter.error
        if isinstance(error, PermanentError) and isinstance(error.__cause__, BrokenPipeError) and not stops:
            stops.append(asyncio.ensure_future(orchestrator.stop()))

    orchestrator.dead_letters.subscribe(on_dead_letter)
    if options.verbose:
        orchestrator.attach(LogObserver())
    if numbers := common.stop_signals():
        orchestrator.stop_on(*numbers)
    ready = asyncio.ensure_future(ready_text(pipeline.source))
    in_time = False
    async with status(orchestrator, ready, options.status):
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
            from rxcompact.commands.live import live  # noqa: PLC0415 - so does what it shows

            await live(orchestrator, sys.stderr)
        try:
            in_time = (await ended).in_time
        except Exception as error:  # noqa: BLE001 - whatever the source or the stream failed with
            common.note(f"rxcompact: {error_text(error)}", "ERROR")
    account = orchestrator.account
    common.note(str(account), **account._asdict())
    useless = account.received > 0 and not account.published
    return int(useless or bool(stops) or not in_time or account.abandoned > 0 or bool(orchestrator.unknown_fields))
