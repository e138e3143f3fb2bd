"""The source that a broker's URL describes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

from rxcompact.brokers.source import BrokerSource
from rxcompact.commands.common import kind_of
from rxcompact.errors import ArgumentError
from rxcompact.format import redacted

EXPECTED = "nats://HOST:PORT/STREAM or redis://HOST:PORT/DB/STREAM"
NATS = ("consumer", "start", "items", "ack_wait", "max_ack_pending", "prefetch")
REDIS = ("group", "consumer", "field", "start", "items", "min_idle_time", "max_pending", "prefetch")
NAME = "rxcompact"  # of the consumer or group, where the URL has none


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
    """Return the source.

    Args:
        url: ``nats://HOST:PORT[,HOST:PORT…]/STREAM`` or ``redis://HOST:PORT/DB/STREAM``, with options in its query.
        partitions: Of a NATS stream.
        start: Where a consumer that is made begins.
        items: The path to the lists of events in each message.

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
    where: Any = server
    options: dict[str, Any] = {"group": NAME} if on_redis else {"consumer": NAME, "partitions": partitions}
    source: Callable[..., BrokerSource]
    try:
        if on_redis:
            from rxcompact.brokers.redis import RedisStreamSource  # noqa: PLC0415 - an extra

            source = RedisStreamSource
        else:
            from rxcompact.brokers.jetstream import JetStreamSource  # noqa: PLC0415 - an extra

            source = JetStreamSource
            scheme, _, hosts = server.partition("://")
            where = [f"{scheme}://{host}" for host in hosts.split(",")]
    except ImportError:
        extra = "redis" if on_redis else "nats"
        raise ArgumentError("--source", redacted(url), f'with the extra: pip install "rxcompact[{extra}]"') from None
    names = REDIS if on_redis else NATS
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in names:
            expected = f"without {name}; its options are {', '.join(names)}"
            raise ArgumentError("--source", redacted(url), expected)
        try:
            options[name] = kind_of(source, name)[0](text)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ArgumentError(f"{name} of --source", text, str(error)) from None
    options |= {name: value for name, value in (("start", start), ("items", items)) if value is not None}
    return source(where, stream=unquote(stream), **options)
