"""rxcompact serve: events in over HTTP, each distinct one enriched and published."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from typing import Any

from rxcompact import operators as rxo
from rxcompact.commands.live import live
from rxcompact.commands.loop import run
from rxcompact.contracts import Source
from rxcompact.enrichers.http import HttpEnricher
from rxcompact.errors import ArgumentError
from rxcompact.fields import JsonKey, JsonTime
from rxcompact.observers import LogObserver
from rxcompact.orchestrator import Orchestrator, Report
from rxcompact.pipeline import Pipeline, Step
from rxcompact.signals import Signal, SourceFailed
from rxcompact.sinks.http import HttpSink
from rxcompact.sinks.ndjson import NdjsonSink
from rxcompact.sources.http import HttpSource

DESCRIPTION = """\
Take JSON events by POST, and publish each distinct one once per window of time, enriched from an API.

A body is an object, an array, NDJSON or concatenated JSON, gzip or not; 202 means that it was taken, 503 with
Retry-After that there is no room now. GET /healthz, /readyz and /metrics tell how it is.
SIGTERM or Ctrl-C drains it; the last line is the account.
"""
EPILOG = """\
example:
  rxcompact serve --listen :8080 --key host,alert --timespan 10 --max-age 60 \\
      --enrich 'http://cmdb:9000/hosts/{host}' --publish http://store:9200/alerts
  curl --data-binary @events.ndjson http://localhost:8080/

exit code: 0; 1 if events had to be abandoned at the deadline, or the stream failed; 2 for wrong usage
"""


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="run the service: HTTP in, enrich, publish",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--listen", metavar="HOST:PORT", help="where to listen; without a host on all addresses")
    source.add_argument(
        "--source",
        metavar="URL",
        help="take from nats://HOST:PORT/STREAM (extra nats) or redis://HOST:PORT/DB/STREAM (extra redis); durable",
    )
    add("--partitions", type=_partitions, metavar="N[-M]", help="of --source nats: those subjects alone that are *.N.>")
    add("--key", required=True, metavar="FIELD[,FIELD…]", help="what makes events equal")
    add("--timespan", required=True, type=float, metavar="S", help="length of a window, seconds")
    add("--max-age", required=True, type=float, metavar="S", help="age at which an event expires, seconds")
    add("--time", metavar="FIELD", help="an event's age counts from this field (default: its arrival)")
    add("--enrich", metavar="URL", help="ask this API about each event; {field} stands for a field's value")
    add("--publish", default="-", metavar="URL", help="post batches there; - is standard output (default)")
    add("--path", default="/", metavar="PATH", help="what senders post to (%(default)s)")
    add("--items", metavar="FIELD", help="the field of a posted object that holds the list of events, such as alerts")
    add("--token", help="ask senders for this bearer token")
    add("--max-in-flight", type=int, default=100_000, metavar="N", help="distinct events held at most (%(default)s)")
    add("--max-concurrent", type=int, default=100, metavar="N", help="calls of the API at once (%(default)s)")
    add("--deadline", type=float, default=10.0, metavar="S", help="seconds that a drain may take (%(default)s)")
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--live", action="store_true", help="show how it is doing, to standard error (extra live)")
    told.add_argument("--verbose", action="store_true", help="log what happens, to standard error")
    parser.set_defaults(run=lambda options: _run(parser, options))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    try:
        report = run(_serve(options))
    except (ArgumentError, OSError) as error:
        parser.error(str(error))
    print(report.account, file=sys.stderr)
    return 0 if report.in_time and not report.account.abandoned else 1


def _partitions(text: str) -> range:
    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()) or int(last or first) < int(first):
        raise argparse.ArgumentTypeError(f"not partitions: {text!r} (0, or 0-3)")
    return range(int(first), int(last or first) + 1)


def _broker(url: str, partitions: range | None) -> Source:
    server, _, stream = url.rpartition("/")
    on_redis = re.fullmatch(r"rediss?://[^/]+/\d+", server)
    shown = re.sub(r"(?<=//).*@|\?.*", "", url)  # without credentials
    if not stream or "?" in url or not (on_redis or server.startswith(("nats://", "tls://"))):
        raise ArgumentError("--source", shown, "nats://HOST:PORT/STREAM or redis://HOST:PORT/DB/STREAM")
    if on_redis and partitions is not None:
        raise ArgumentError("--partitions", partitions, "absent: a stream of Redis has none")
    try:
        return _redis(server, stream) if on_redis else _nats(server, stream, partitions)
    except ImportError:
        extra = "redis" if on_redis else "nats"
        raise ArgumentError("--source", shown, f'with the extra: pip install "rxcompact[{extra}]"') from None


def _redis(server: str, stream: str) -> Source:
    from rxcompact.brokers.redis import RedisStreamSource  # noqa: PLC0415 - an extra

    return RedisStreamSource(server, stream=stream, group="rxcompact")


def _nats(server: str, stream: str, partitions: range | None) -> Source:
    from rxcompact.brokers.jetstream import JetStreamSource  # noqa: PLC0415 - an extra

    if partitions is None:
        return JetStreamSource(server, stream=stream, consumer="rxcompact")
    # workers of the same partitions share a consumer: one that is killed may be replaced
    consumer = f"rxcompact-{partitions[0]}-{partitions[-1]}"
    return JetStreamSource(
        server, stream=stream, consumer=consumer, subjects=[f"*.{number}.>" for number in partitions]
    )


def _listener(options: argparse.Namespace) -> Source:
    host, colon, port = options.listen.rpartition(":")
    if not colon or not port.isdecimal():
        raise ArgumentError("--listen", options.listen, "HOST:PORT")
    return HttpSource(
        host=host or "0.0.0.0",  # noqa: S104 - asked for
        port=int(port),
        path=options.path,
        items=options.items,
        token=options.token,
    )


def pipeline(options: argparse.Namespace) -> Pipeline:
    """Return the pipeline that the options describe."""
    names = options.key.split(",")
    source = _broker(options.source, options.partitions) if options.source else _listener(options)
    time_mapper = JsonTime(options.time) if options.time else None
    operators: list[Step] = [rxo.compact(options.timespan, key_mapper=JsonKey(*names), time_mapper=time_mapper)]
    if options.enrich:
        enricher = HttpEnricher(options.enrich, max_concurrent=options.max_concurrent)
        operators.append(rxo.enrich(enricher, max_concurrent=options.max_concurrent))
    operators.append(rxo.publish(NdjsonSink() if options.publish == "-" else HttpSink(options.publish)))
    return Pipeline(source, *operators, max_age=options.max_age, max_in_flight=options.max_in_flight)


async def _serve(options: argparse.Namespace) -> Report:
    orchestrator = Orchestrator(pipeline(options), report=not options.verbose)
    if options.verbose:
        orchestrator.attach(LogObserver())
    orchestrator.stop_on(deadline=options.deadline)
    cannot: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def fail(signal: Signal) -> None:
        if isinstance(signal, SourceFailed) and not cannot.done():
            cannot.set_result(signal.error)

    first = orchestrator.attach(fail)
    await orchestrator.start()
    ready = asyncio.ensure_future(_ready(orchestrator.pipeline.source))
    ended = asyncio.ensure_future(orchestrator.wait())
    waits: set[asyncio.Future[Any]] = {ready, cannot, ended}
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    first.dispose()
    if cannot.done():  # later failures are retried; this one is for who typed the address
        ready.cancel()
        await orchestrator.stop()
        raise cannot.result()
    if ready.done():
        print(ready.result(), file=sys.stderr, flush=True)
    if options.live:
        await live(orchestrator, sys.stderr)
    return await ended


async def _ready(source: Source) -> str:
    if isinstance(source, HttpSource):
        await source.listening()
        return f"listening on {source.url}"
    await asyncio.sleep(1)  # in which it would fail
    return f"consuming {source!r}"
