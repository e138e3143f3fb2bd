"""The source that a broker's URL describes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

from rxcompact.brokers.source import BrokerSource
from rxcompact.commands.common import duration
from rxcompact.errors import ArgumentError
from rxcompact.format import redacted

EXPECTED = "nats://HOST:PORT/STREAM or redis://HOST:PORT/DB/STREAM"
NATS: dict[str, Any] = {"consumer": str, "start": str, "ack_wait": duration, "max_ack_pending": int, "prefetch": int}
REDIS: dict[str, Any] = dict.fromkeys(("group", "consumer", "field", "start"), str)
REDIS |= {"min_idle_time": duration, "max_pending": int, "prefetch": int}
NAME = "rxcompact"
"""Of the consumer or group, where the URL has none."""


def partitions(text: str) -> Sequence[int]:
    """Return the numbers of "2" or "0-3"."""
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII)
    numbers = range(int(found[1]), int(found[2] or found[1]) + 1) if found else ()
    if not numbers:
        raise argparse.ArgumentTypeError(f"not partitions: {text!r} (0, or 0-3)")
    return numbers


def broker_source(url: str, partitions: Sequence[int] | None, start: str | None) -> BrokerSource:
    """Return the source.

    Args:
        url: ``nats://HOST:PORT[,HOST:PORT…]/STREAM`` or ``redis://HOST:PORT/DB/STREAM``, with options in its query.
        partitions: Of a NATS stream.
        start: Where a consumer that is made begins.

    Raises:
        ArgumentError: for a URL that is neither, options that the broker has not, and without its extra.
    """
    address, _, query = url.partition("?")
    server, _, stream = address.rpartition("/")
    on_redis = re.fullmatch(r"rediss?://[^/]+/\d+", server) is not None
    if not stream or not (on_redis or re.fullmatch(r"(nats|tls)://[^/]+", server)):
        raise ArgumentError("--source", redacted(url), EXPECTED)
    if on_redis and partitions is not None:
        raise ArgumentError("--partitions", partitions, "absent: a stream of Redis has none")
    named: dict[str, Any] = {"group": NAME} if on_redis else {"consumer": NAME, "partitions": partitions}
    options: dict[str, Any] = named | {"stream": unquote(stream)} | _options(url, query, REDIS if on_redis else NATS)
    if start is not None:
        options["start"] = start
    try:
        if on_redis:
            from rxcompact.brokers.redis import RedisStreamSource  # noqa: PLC0415 - an extra

            return RedisStreamSource(server, **options)
        from rxcompact.brokers.jetstream import JetStreamSource  # noqa: PLC0415 - an extra

        scheme, _, hosts = server.partition("://")
        servers = [f"{scheme}://{host}" for host in hosts.split(",")]
        return JetStreamSource(servers, **options)
    except ImportError:
        extra = "redis" if on_redis else "nats"
        raise ArgumentError("--source", redacted(url), f'with the extra: pip install "rxcompact[{extra}]"') from None


def _options(url: str, query: str, types: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := found.keys() - types.keys():
        expected = f"without {', '.join(sorted(unknown))}; its options are {', '.join(types)}"
        raise ArgumentError("--source", redacted(url), expected)
    options: dict[str, Any] = {}
    for name, text in found.items():
        try:
            options[name] = types[name](text)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ArgumentError(f"{name} of --source", text, str(error)) from None
    return options
