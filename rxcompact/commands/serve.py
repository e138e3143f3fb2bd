"""rxcompact serve: events in over HTTP or from a broker, each distinct one enriched and published."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from pathlib import Path
from typing import Any

from reactivex import operators as ops

from rxcompact import operators as rxo
from rxcompact.brokers.source import BrokerSource
from rxcompact.commands import common
from rxcompact.commands.broker import broker_source, partitions
from rxcompact.commands.live import live
from rxcompact.contracts import Sink, Source
from rxcompact.enrichers.http import HttpEnricher
from rxcompact.errors import ArgumentError, PermanentError, TransientError
from rxcompact.events import DeadLetter
from rxcompact.format import error_text
from rxcompact.observers import LogObserver
from rxcompact.orchestrator import Orchestrator
from rxcompact.pipeline import Pipeline, Step
from rxcompact.signals import Signal, SourceFailed
from rxcompact.sinks.encoding import flat_object, json_object
from rxcompact.sinks.http import HttpSink
from rxcompact.sinks.ndjson import NdjsonSink
from rxcompact.sources.http import HttpSource

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
  1    events were abandoned at the deadline, none of those received was published, none had a field that was named,
       standard output was closed by its reader, or the run failed
  2    wrong usage, or an address that cannot be listened on
"""
LISTENER = [
    *("path", "strict", "success_status", "max_body", "max_event", "max_events", "body_timeout", "header_timeout"),
    *("max_connections", "retry_after", "linger"),
]
PIPELINE = ("max_age", "max_in_flight")
ORCHESTRATOR = ("deadline",)
ENRICHER = ("max_concurrent",)
SINK = ("gzip",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--listen", metavar="HOST:PORT", help="listen there; without a host on all addresses")
    brokers = "nats://HOST:PORT/STREAM (extra nats) or redis://HOST:PORT/DB/STREAM (extra redis), durable"
    source.add_argument("--source", metavar="URL", help=f"consume {brokers}")
    add("--partitions", type=partitions, metavar="N[-M]", help="of --source nats: only the subjects *.N.>")
    add("--start", metavar="all|new|TIME", help="where a consumer of --source that is made begins (all)")
    common.add_event_arguments(
        parser, "an event's age counts from this field (default: its arrival)", key_required=True
    )
    common.add_parameters(parser, Pipeline, PIPELINE)
    common.add_parameters(parser, Orchestrator, ORCHESTRATOR)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--live", action="store_true", help="show its state on standard error (extra live)")
    output.add_argument("--verbose", action="store_true", help="log all that happens to standard error")

    group = parser.add_argument_group("listener")
    group.add_argument("--token", help="bearer token that senders must send; ps shows it, see below")
    group.add_argument("--token-file", metavar="FILE", help="file with that token")
    common.add_parameters(group, HttpSource, LISTENER)

    group = parser.add_argument_group("enrichment")
    header: Any = {"type": _header, "action": "append", "default": [], "metavar": "NAME:VALUE"}
    group.add_argument("--enrich", metavar="URL", help="request this for each event; {field} is the field's value")
    group.add_argument("--enrich-header", help="of the request; may be repeated", **header)
    common.add_parameters(group, rxo.enrich, ENRICHER)

    group = parser.add_argument_group("publishing")
    add = group.add_argument
    add("--publish", default="-", metavar="URL", help="post batches there; - is standard output (default)")
    add("--header", help="of the posts; may be repeated", **header)
    add("--format", choices=["ndjson", "array"], default="ndjson", help="of a post (%(default)s)")
    add("--flat", action="store_true", help="the event's own fields with count and times beside them, as for a table")
    common.add_parameters(group, HttpSink, SINK)


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


def _pipeline(options: argparse.Namespace) -> Pipeline:
    key_mapper, time_mapper = common.mappers(options)
    operators: list[Step] = [rxo.compact(options.timespan, key_mapper=key_mapper, time_mapper=time_mapper)]
    if options.enrich is not None:
        concurrent = common.given(options, ENRICHER)
        enricher = HttpEnricher(options.enrich, headers=dict(options.enrich_header), **concurrent)
        operators.append(rxo.enrich(enricher, **concurrent))
    to_json = flat_object if options.flat else json_object
    sink: Sink = NdjsonSink(to_json=to_json)
    if options.publish != "-":
        post: dict[str, Any] = {"format": options.format, "headers": dict(options.header)}
        sink = HttpSink(options.publish, to_json=to_json, **post, **common.given(options, SINK))
    if options.source:
        source: Source = broker_source(options.source, options.partitions, options.start, options.items)
    else:
        host, port = _address(options.listen)
        listener = common.given(options, LISTENER)
        source = HttpSource(host=host, port=port, items=options.items, token=_token(options), **listener)
    letters = common.dead_letter_sink(options.dead_letters)
    return Pipeline(source, *operators, rxo.publish(sink), dead_letters=letters, **common.given(options, PIPELINE))


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    common.configure_log(options)
    return common.run_loop(_serve(_pipeline(options), options))


def _is_fatal(signal: Signal) -> bool:
    return isinstance(signal, SourceFailed) and not isinstance(signal.error, TransientError)


async def _serve(pipeline: Pipeline, options: argparse.Namespace) -> int:
    """Run the pipeline until it ends; return the exit code."""
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
    with orchestrator.signals.pipe(ops.filter(_is_fatal), ops.take(1)).subscribe(failed.set_result):
        await orchestrator.start()
        ready = asyncio.ensure_future(_ready(pipeline.source))
        ended = asyncio.ensure_future(orchestrator.wait())
        waits: set[asyncio.Future[Any]] = {ready, failed, ended}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():  # later failures are retried; this one is for whoever typed the address
        ready.cancel()
        await orchestrator.stop()
        if isinstance(error := failed.result().error, OSError) and options.listen:
            raise OSError(f"--listen {options.listen}: {error}") from error
        raise error
    if ready.done():
        common.note(ready.result())
    if options.live:
        await live(orchestrator, sys.stderr)
    in_time = False
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
