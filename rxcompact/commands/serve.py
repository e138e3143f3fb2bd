"""rxcompact serve: events in over HTTP or from a broker, each distinct one enriched and published."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rxcompact import operators as rxo
from rxcompact.brokers.source import BrokerSource
from rxcompact.commands.broker import broker_source, partitions
from rxcompact.commands.common import add_event_arguments, duration, mappers, note, run, stop_signals
from rxcompact.commands.live import live
from rxcompact.contracts import Sink, Source
from rxcompact.enrichers.http import HttpEnricher
from rxcompact.errors import ArgumentError, PermanentError, TransientError
from rxcompact.events import Compacted
from rxcompact.observers import LogObserver
from rxcompact.orchestrator import Orchestrator, Report
from rxcompact.pipeline import Pipeline, Step
from rxcompact.signals import Signal, SourceFailed
from rxcompact.sinks.encoding import flat_object, json_object
from rxcompact.sinks.http import HttpSink
from rxcompact.sinks.ndjson import NdjsonSink
from rxcompact.sources.http import MIB, HttpSource

DESCRIPTION = """\
Take JSON events by POST, and publish each distinct one once per window of time, enriched from an API.

A body is an object, an array, NDJSON or concatenated JSON, gzip or not; 202 means that it was taken, 503 with
Retry-After that there is no capacity now. GET /healthz and /readyz are probes, /metrics is for Prometheus.
SIGTERM, SIGHUP or Ctrl-C drains it; the last line is the account.
"""
EPILOG = """\
durations: 10 (seconds), 0.5, 500ms, 10s, 5m, 1h

Every option can be given by the environment, --max-age by RXCOMPACT_MAX_AGE. What ps must not show belongs there, or
into a file: RXCOMPACT_TOKEN or --token-file, RXCOMPACT_HEADER, an URL with a password in RXCOMPACT_PUBLISH.

example:
  rxcompact serve --listen :8080 --key host,alert --timespan 10 --max-age 1m \\
      --enrich 'http://cmdb:9000/hosts/{host}' --publish http://store:9200/alerts
  curl --data-binary @events.ndjson http://localhost:8080/

exit code:
  0    drained: after a signal, or because the source ended
  1    events were abandoned at the deadline, none of those received was published, standard output was closed by its
       reader, or the stream failed
  2    wrong usage, or an address that cannot be listened on
"""


def add_parser(commands: Any, description: str) -> argparse.ArgumentParser:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help=description,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--listen", metavar="HOST:PORT", help="listen there; without a host on all addresses")
    brokers = "nats://HOST:PORT/STREAM (extra nats) or redis://HOST:PORT/DB/STREAM (extra redis), durable"
    source.add_argument("--source", metavar="URL", help=f"consume {brokers}")
    add("--partitions", type=partitions, metavar="N[-M]", help="of --source nats: only the subjects *.N.>")
    add("--start", metavar="all|new|TIME", help="where a consumer of --source that is made begins (all)")
    add_event_arguments(parser)
    add("--timespan", required=True, type=duration, metavar="T", help="length of a window")
    add("--max-age", required=True, type=duration, metavar="T", help="age at which an event expires")
    add("--time", metavar="FIELD", help="an event's age counts from this field (default: its arrival)")
    add("--max-in-flight", type=int, default=100_000, metavar="N", help="distinct events held at most (%(default)s)")
    add("--deadline", type=duration, default=10.0, metavar="T", help="duration of a drain at most (%(default)s)")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--live", action="store_true", help="show its state on standard error (extra live)")
    output.add_argument("--verbose", action="store_true", help="log what happens to standard error")
    _add_listener(parser.add_argument_group("listener"))
    _add_enricher(parser.add_argument_group("enrichment"))
    _add_sink(parser.add_argument_group("publishing"))
    parser.set_defaults(run=lambda options: _run(parser, options))
    return parser


def _add_listener(group: Any) -> None:
    add = group.add_argument
    add("--path", default="/", metavar="PATH", help="path of the posts (%(default)s)")
    add("--token", help="bearer token that senders must send; ps shows it, see below")
    add("--token-file", metavar="FILE", help="file with that token")
    add("--strict", action="store_true", help="answer 400 to a body with any bad line, and take none of it")
    add("--success-status", type=int, default=202, metavar="N", help="status of a body that was taken (%(default)s)")
    add("--max-body", type=int, default=16 * MIB, metavar="N", help="bytes of a body at most (%(default)s)")
    add("--body-timeout", type=duration, default=30.0, metavar="T", help="duration of a body at most (%(default)s)")
    add("--header-timeout", type=duration, default=75.0, metavar="T", help="of the head of a request (%(default)s)")
    add("--max-connections", type=int, default=1000, metavar="N", help="connections at once (%(default)s)")
    add("--retry-after", type=int, default=1, metavar="N", help="Retry-After of a 503, seconds (%(default)s)")
    add(
        "--linger",
        type=duration,
        default=0.0,
        metavar="T",
        help="answer /metrics so long after a drain (%(default)s)",
    )


def _add_enricher(group: Any) -> None:
    add = group.add_argument
    add("--enrich", metavar="URL", help="request this for each event; {field} is replaced by the field's value")
    add("--enrich-header", type=_header, action="append", metavar="NAME:VALUE", help="of the request; may be repeated")
    add("--max-concurrent", type=int, default=100, metavar="N", help="requests at once (%(default)s)")


def _add_sink(group: Any) -> None:
    add = group.add_argument
    add("--publish", default="-", metavar="URL", help="post batches there; - is standard output (default)")
    add("--header", type=_header, action="append", metavar="NAME:VALUE", help="of the posts; may be repeated")
    add("--format", choices=["ndjson", "array"], default="ndjson", help="of a post (%(default)s)")
    add("--flat", action="store_true", help="the event's own fields with count and times beside them, as for a table")
    add("--gzip", action="store_true", help="compress the posts")


# ── argument types ────────────────────────────────────────────────────────────────────────────────────────────────────


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not value.strip().isprintable():
        raise argparse.ArgumentTypeError("not a header: NAME:VALUE expected")  # the value may be a secret
    return name, value.strip()


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isdecimal() or int(port) >= 1 << 16 or (":" in host and not is_bracketed):
        raise ArgumentError("--listen", text, "HOST:PORT, :PORT or [IPV6]:PORT, with a port up to 65535")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - asked for


def _token(options: argparse.Namespace) -> str | None:
    if options.token_file is None or options.token is not None:
        return options.token  # type: ignore[no-any-return]
    token = Path(options.token_file).read_text().strip()
    if not token:
        raise ArgumentError("--token-file", options.token_file, "a file with a token")
    return token


# ── the pipeline ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _listener(options: argparse.Namespace) -> Source:
    host, port = _address(options.listen)
    return HttpSource(
        host=host,
        port=port,
        path=options.path,
        items=options.items,
        token=_token(options),
        max_body=options.max_body,
        body_timeout=options.body_timeout,
        header_timeout=options.header_timeout,
        max_connections=options.max_connections,
        strict=options.strict,
        retry_after=options.retry_after,
        success_status=options.success_status,
        linger=options.linger,
    )


class _Stdout(NdjsonSink):
    """Standard output; `gone` is set when nobody reads it any more."""

    def __init__(self, **options: Any) -> None:
        super().__init__("-", **options)
        self.gone = asyncio.Event()

    async def publish(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException] | None:
        try:
            return await super().publish(batch)
        except BrokenPipeError:
            self.gone.set()
            raise PermanentError("standard output is closed") from None


def _sink(options: argparse.Namespace) -> Sink:
    to_json = flat_object if options.flat else json_object
    if options.publish == "-":
        return _Stdout(to_json=to_json)
    return HttpSink(
        options.publish, format=options.format, to_json=to_json, gzip=options.gzip, headers=dict(options.header or ())
    )


def _enricher(options: argparse.Namespace) -> HttpEnricher:
    headers = dict(options.enrich_header or ())
    return HttpEnricher(options.enrich, headers=headers, max_concurrent=options.max_concurrent)


def _pipeline(options: argparse.Namespace, sink: Sink) -> Pipeline:
    source = broker_source(options.source, options.partitions, options.start) if options.source else _listener(options)
    key_mapper, time_mapper = mappers(options)
    operators: list[Step] = [rxo.compact(options.timespan, key_mapper=key_mapper, time_mapper=time_mapper)]
    if options.enrich is not None:
        operators.append(rxo.enrich(_enricher(options), max_concurrent=options.max_concurrent))
    operators.append(rxo.publish(sink))
    letters = NdjsonSink(options.dead_letters) if options.dead_letters else None
    return Pipeline(
        source, *operators, max_age=options.max_age, max_in_flight=options.max_in_flight, dead_letters=letters
    )


# ── the run ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if not (options.key or options.exclude):
        parser.error("--key or --exclude is required: what makes events equal")
    try:
        sink = _sink(options)
        report = run(_serve(_pipeline(options, sink), sink, options))
    except (ArgumentError, OSError) as error:
        parser.error(str(error))
    note(str(report.account))
    account = report.account
    useless = account.received > 0 and not account.published
    gone = isinstance(sink, _Stdout) and sink.gone.is_set()
    return int(useless or gone or not report.in_time or account.abandoned > 0)


async def _serve(pipeline: Pipeline, sink: Sink, options: argparse.Namespace) -> Report:
    orchestrator = Orchestrator(pipeline, report=not options.verbose)
    if options.verbose:
        orchestrator.attach(LogObserver())
    if numbers := stop_signals():
        orchestrator.stop_on(*numbers, deadline=options.deadline)
    failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def on_signal(signal: Signal) -> None:
        if isinstance(signal, SourceFailed) and not isinstance(signal.error, TransientError) and not failed.done():
            failed.set_result(signal.error)

    first = orchestrator.attach(on_signal)
    await orchestrator.start()
    ready = asyncio.ensure_future(_ready(pipeline.source))
    ended = asyncio.ensure_future(orchestrator.wait())
    waits: set[asyncio.Future[Any]] = {ready, failed, ended}
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    first.dispose()
    if failed.done():  # later failures are retried; this one is for whoever typed the address
        ready.cancel()
        await orchestrator.stop()
        raise failed.result()
    if ready.done():
        note(ready.result())
    if isinstance(sink, _Stdout):
        watching = asyncio.ensure_future(_stop_without_reader(sink, orchestrator, options.deadline))
        ended.add_done_callback(lambda _: watching.cancel())
    if options.live:
        await live(orchestrator, sys.stderr)
    return await ended


async def _stop_without_reader(sink: _Stdout, orchestrator: Orchestrator, deadline: float) -> None:
    await sink.gone.wait()
    await orchestrator.stop(deadline)


async def _ready(source: Source) -> str:
    if isinstance(source, HttpSource):
        await source.listening()
        return f"listening on {source.url}"
    if isinstance(source, BrokerSource):
        await source.bound()
    return f"consuming {source!r}"
