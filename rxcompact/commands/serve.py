"""rxcompact serve: events in over HTTP or from a broker, each distinct one enriched and published."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from ssl import create_default_context
from typing import Any
from urllib.parse import parse_qsl, unquote

from rxcompact import operators as rxo
from rxcompact.brokers.source import BrokerSource
from rxcompact.commands import common
from rxcompact.commands.service import EXIT_CODES, add_service_arguments, serve
from rxcompact.contracts import Sink, Source
from rxcompact.enrichers.http import HttpEnricher
from rxcompact.errors import ArgumentError
from rxcompact.format import redacted
from rxcompact.pipeline import Pipeline, Step
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
EPILOG = f"""\
durations: 10 (seconds), 0.5, 500ms, 10s, 5m, 1h

Every option can be given by the environment, --max-age by RXCOMPACT_MAX_AGE. What ps must not show belongs there, or
into a file: RXCOMPACT_TOKEN or --token-file, RXCOMPACT_HEADER, an URL with a password in RXCOMPACT_PUBLISH.

example:
  rxcompact serve --listen :8080 --key host,alert --timespan 10 --max-age 1m \\
      --enrich 'http://cmdb:9000/hosts/{{host}}' --publish http://store:9200/alerts
  curl --data-binary @events.ndjson http://localhost:8080/

{EXIT_CODES}"""
LISTENER = [
    *("path", "strict", "success_status", "max_body", "max_event", "max_events", "body_timeout", "header_timeout"),
    *("max_connections", "retry_after", "linger"),
]
PIPELINE = ("max_age", "max_in_flight", "max_bytes", "name")
ENRICH = ("max_concurrent", "rate")
SINK = ("gzip", "method")

EXPECTED = "nats://HOST:PORT/STREAM, redis://HOST:PORT/DB/STREAM or kafka://HOST:PORT/TOPIC"
BROKERS = {  # by the extra: what a server looks like, and its source
    "nats": (r"(nats|tls)://[^/]+", "jetstream", "JetStreamSource"),
    "redis": (r"rediss?://[^/]+/\d+", "redis", "RedisStreamSource"),
    "kafka": (r"kafkas?://[^/]+", "kafka", "KafkaSource"),
}
FILES: dict[str, dict[str, Callable[[str], dict[str, Any]]]] = {  # options of the client that are files
    "nats": {
        "ca": lambda path: {"tls": create_default_context(cafile=path)},
        "credentials": lambda path: {"user_credentials": path},
        "nkey": lambda path: {"nkeys_seed": path},
    },
    "redis": {"ca": lambda path: {"ssl_ca_certs": path}},
    "kafka": {"ca": lambda path: {"ssl_context": create_default_context(cafile=path)}},
}
NAME = "rxcompact"  # of the consumer or group, where the URL has none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--listen", metavar="HOST:PORT", help="listen there; without a host on all addresses")
    source.add_argument("--source", metavar="URL", help=f"consume, durably: {EXPECTED} (extras)")
    add("--partitions", type=partitions, metavar="N[-M]", help="of --source nats: only the subjects *.N.>")
    add("--start", metavar="all|new|TIME", help="where a consumer of --source that is made begins (all)")
    common.add_event_arguments(
        parser, "an event's age counts from this field (default: its arrival)", key_required=True
    )
    common.add_parameters(parser, Pipeline, PIPELINE)
    add_service_arguments(parser)

    group = parser.add_argument_group("listener")
    group.add_argument("--token", help="bearer token that senders must send; ps shows it, see below")
    group.add_argument("--token-file", metavar="FILE", help="file with that token")
    common.add_parameters(group, HttpSource, LISTENER)

    group = parser.add_argument_group("enrichment")
    header: Any = {"type": _header, "action": "append", "default": [], "metavar": "NAME:VALUE"}
    group.add_argument("--enrich", metavar="URL", help="request this for each event; {field} is the field's value")
    group.add_argument("--enrich-header", help="of the request; may be repeated", **header)
    common.add_parameters(group, rxo.enrich, ENRICH)

    group = parser.add_argument_group("publishing")
    add = group.add_argument
    publish = "post batches there, or each event where it has {field}; - is standard output (default)"
    add("--publish", default="-", metavar="URL", help=publish)
    add("--header", help="of the posts; may be repeated", **header)
    add("--format", choices=["ndjson", "array", "object"], default="ndjson", help="of a post (%(default)s)")
    add("--flat", action="store_true", help="the event's own fields with count and times beside them, as for a table")
    common.add_parameters(group, HttpSink, SINK)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not value.strip().isprintable():
        raise argparse.ArgumentTypeError("not a header: NAME:VALUE expected")  # the value may be a secret
    return name, value.strip()


def partitions(text: str) -> Sequence[int]:
    """Return the numbers of "2" or "0-3"."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII)
    numbers = range(int(found[1]), int(found[2] or found[1]) + 1) if found else ()
    if not numbers:
        raise argparse.ArgumentTypeError(f"not partitions: {text!r} (0, or 0-3)")
    return numbers


def broker_source(
    url: str, partitions: Sequence[int] | None, start: str | None, items: str | None = None
) -> BrokerSource:
    """Return the source of a URL, which has its options in the query; several hosts have commas between them."""
    address, _, query = url.partition("?")
    server, _, stream = address.rpartition("/")
    extra = next((name for name, (pattern, *_) in BROKERS.items() if re.fullmatch(pattern, server)), None)
    if not stream or extra is None:
        raise ArgumentError("--source", redacted(url), EXPECTED)
    _, module, kind = BROKERS[extra]
    try:
        source: Callable[..., BrokerSource] = getattr(import_module(f"rxcompact.brokers.{module}"), kind)
    except ImportError:
        raise ArgumentError("--source", redacted(url), f'with the extra: pip install "rxcompact[{extra}]"') from None
    files, client = FILES[extra], dict[str, Any]()
    of_servers, of_stream, of_reader, *others = signature(source).parameters
    options: dict[str, Any] = {of_servers: server, of_stream: unquote(stream), of_reader: NAME}
    if extra == "nats":
        scheme, _, hosts = server.partition("://")
        options |= {of_servers: [f"{scheme}://{host}" for host in hosts.split(",")], "partitions": partitions}
    elif partitions is not None:
        raise ArgumentError("--partitions", partitions, "absent: it is of NATS alone")
    names = [of_reader, *(name for name in others if name not in ("partitions", "options")), *files]
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in names:
            expected = f"without {name}; its options are {', '.join(names)}"
            raise ArgumentError("--source", redacted(url), expected)
        try:
            if name in files:
                with Path(text).open("rb"):  # or the client would report it once a second
                    client |= files[name](text)
                continue
            options[name] = common.kind_of(source, name)[0](text)
        except (OSError, ValueError, argparse.ArgumentTypeError) as error:
            raise ArgumentError(f"{name} of --source", text, str(error)) from None
    options |= {name: value for name, value in (("start", start), ("items", items)) if value is not None}
    return source(**options, options=client)


def _pipeline(options: argparse.Namespace) -> Pipeline:
    key_mapper, time_mapper = common.mappers(options)
    operators: list[Step] = [rxo.compact(key_mapper=key_mapper, time_mapper=time_mapper, **common.windows(options))]
    if options.enrich is not None:
        headers, at_once = dict(options.enrich_header), options.max_concurrent
        enricher = HttpEnricher(options.enrich, headers=headers, max_concurrent=at_once)
        operators.append(rxo.enrich(enricher, **common.given(options, ENRICH)))
    to_json = flat_object if options.flat else json_object
    sink: Sink = NdjsonSink(to_json=to_json)
    if options.publish != "-":
        post: dict[str, Any] = {"format": options.format, "headers": dict(options.header)}
        sink = HttpSink(options.publish, to_json=to_json, **post, **common.given(options, SINK))
    if options.source:
        partitions = options.partitions and options.partitions[common.worker() :: options.workers]
        source: Source = broker_source(options.source, partitions, options.start, options.items)
    else:
        host, port = common.address("--listen", options.listen)
        listener = common.given(options, [*LISTENER, "items", "token", "ready_requires"])
        if options.token is None and options.token_file is not None:
            listener["token"] = common.read_token("--token-file", options.token_file)
        source = HttpSource(host=host, port=port, **listener)
    letters = common.dead_letter_sink(options.dead_letters)
    return Pipeline(source, *operators, rxo.publish(sink), dead_letters=letters, **common.given(options, PIPELINE))


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    if options.workers > 1 and not options.source:
        raise argparse.ArgumentError(None, "--workers needs --source: the posts of a key would go to any of them")
    if options.partitions and options.workers > len(options.partitions):
        raise argparse.ArgumentError(None, f"--workers {options.workers} are more than there are partitions")
    common.configure_log(options)
    pipeline = _pipeline(options)
    try:
        return common.run_loop(serve(pipeline, options))
    except OSError as error:
        if isinstance(error, BrokenPipeError) or not options.listen:
            raise
        raise OSError(f"--listen {options.listen}: {error}") from error
