"""The source that a broker's URL describes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from ssl import create_default_context
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from rxcompact.commands.common import kind_of
from rxcompact.errors import ArgumentError
from rxcompact.format import redacted

if TYPE_CHECKING:
    from rxcompact.brokers.source import BrokerSource

EXPECTED = "nats://HOST:PORT/STREAM, redis://HOST:PORT/DB/STREAM or kafka://HOST:PORT/TOPIC"
BROKERS = {  # by the extra: what a server looks like, its source, the parameters for the stream and whoever reads it
    "nats": (r"(nats|tls)://[^/]+", "jetstream", "JetStreamSource", "stream", "consumer"),
    "redis": (r"rediss?://[^/]+/\d+", "redis", "RedisStreamSource", "stream", "group"),
    "kafka": (r"kafkas?://[^/]+", "kafka", "KafkaSource", "topic", "group"),
}
OPTIONS = {
    "nats": ("consumer", "start", "items", "ack_wait", "max_ack_pending", "prefetch"),
    "redis": ("group", "sentinel", "consumer", "field", "start", "items", "min_idle_time", "max_pending", "prefetch"),
    "kafka": ("group", "start", "items", "grace", "max_pending", "prefetch", "mechanism"),
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
    _, module, kind, of_stream, of_reader = BROKERS[extra]
    options: dict[str, Any] = {of_stream: unquote(stream), of_reader: NAME}
    where: Any = server
    if extra == "nats":
        scheme, _, hosts = server.partition("://")
        where = [f"{scheme}://{host}" for host in hosts.split(",")]
        options["partitions"] = partitions
    elif partitions is not None:
        raise ArgumentError("--partitions", partitions, "absent: it is of NATS alone")
    try:
        source: Callable[..., BrokerSource] = getattr(import_module(f"rxcompact.brokers.{module}"), kind)
    except ImportError:
        raise ArgumentError("--source", redacted(url), f'with the extra: pip install "rxcompact[{extra}]"') from None
    files, client = FILES[extra], dict[str, Any]()
    names = (*OPTIONS[extra], *files)
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in names:
            expected = f"without {name}; its options are {', '.join(names)}"
            raise ArgumentError("--source", redacted(url), expected)
        try:
            if name in files:
                with Path(text).open("rb"):  # or the client would report it once a second
                    client |= files[name](text)
                continue
            options[name] = kind_of(source, name)[0](text)
        except (OSError, ValueError, argparse.ArgumentTypeError) as error:
            raise ArgumentError(f"{name} of --source", text, str(error)) from None
    options |= {name: value for name, value in (("start", start), ("items", items)) if value is not None}
    return source(where, **options, options=client)
