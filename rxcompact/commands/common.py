"""What the commands share: options, the environment, the log, standard streams, the event loop."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from inspect import Parameter, signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias, TypeVar

from rxcompact import log
from rxcompact.clock import count
from rxcompact.contracts import Sink
from rxcompact.errors import ArgumentError
from rxcompact.fields import parse_names
from rxcompact.keys import encoder
from rxcompact.mappers import Mapper, key_of, time_of
from rxcompact.operators.compact import compact
from rxcompact.operators.merge import MERGES, merge
from rxcompact.sinks.ndjson import NdjsonSink

T = TypeVar("T")
Kind: TypeAlias = tuple[Callable[[str], Any], str]  # what makes a value of an option's text, and the metavar
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
PREFIX = "RXCOMPACT_"
WORKER = f"{PREFIX}WORKER"  # has the number of each of several processes
WINDOWS = ("timespan", "per_key", "gap", "leading")
ON = ("1", "true", "yes", "on")
SWITCH = {text: text in ON for text in (*ON, "0", "false", "no", "off")}
SIGNALLED = 128  # added to a signal's number it is the exit code of a command that a signal ended
_log = SimpleNamespace(format="text")  # of standard error
_part = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")


def duration(text: str) -> float:
    """Return a duration in seconds: ``10``, ``0.5``, ``500ms``, ``10s``, ``5m``, ``1h``, ``1h30m``, ``inf``."""
    parts = _part.findall(text)
    if parts and not _part.sub("", text).strip():
        return sum(float(number) * SECONDS[unit] for number, unit in parts)
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a duration: {text!r} (10, 0.5, 500ms, 10s, 5m, 1h)") from None


def timezone(name: str) -> tzinfo:
    """Return a time zone by its name or offset."""
    try:
        if name.startswith(("+", "-")):
            return datetime.strptime(name, "%z").tzinfo or UTC
        from zoneinfo import ZoneInfo  # noqa: PLC0415 - takes long to import, and few need one

        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise argparse.ArgumentTypeError(f"not a time zone: {name!r} (Europe/Vienna, +01:00)") from None


def address(option: str, text: str) -> tuple[str, int]:
    """Return a host, by default all addresses, and a port."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isdecimal() or int(port) >= 1 << 16 or (":" in host and not is_bracketed):
        raise ArgumentError(option, text, "HOST:PORT, :PORT or [IPV6]:PORT, with a port up to 65535")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - asked for


def read_token(option: str, path: str) -> str:
    """Return the token that a file has."""
    token = Path(path).read_text().strip()
    if not token:
        raise ArgumentError(option, path, "a file with a token")
    return token


KINDS: dict[str, Kind] = {
    "int": (int, "N"), "PerSecond": (float, "N"), "float": (duration, "T"), "Seconds": (duration, "T"),
}  # fmt: skip


def kind_of(call: Callable[..., Any], name: str) -> Kind:
    """Return the kind of option for a parameter of a call, by its annotation."""
    return KINDS.get(signature(call).parameters[name].annotation.partition(" | ")[0], (str, name.upper()))


def _help(call: Callable[..., Any], name: str) -> str:
    """Return what the docstring of a call has on a parameter."""
    found = re.search(rf"^ {{8}}{name}: (.*(?:\n {{12}}.*)*)", call.__doc__ or "", re.MULTILINE)
    text = " ".join(found[1].split()) if found else ""
    return (text[:1].lower() + text[1:]).replace("`", "").replace("%", "%%").rstrip(".")


def add_parameters(parser: Any, call: Callable[..., Any], names: Iterable[str]) -> None:
    """Add an option for each of these parameters of a call, required or with its default; help is the docstring."""
    for name in names:
        default = signature(call).parameters[name].default
        kind, metavar = kind_of(call, name)
        options: dict[str, Any] = {"type": kind, "metavar": metavar, "default": default, "help": _help(call, name)}
        if default is False:
            options = {"action": "store_true", "help": options["help"]}
        elif default is Parameter.empty:
            options |= {"default": None, "required": True}
        elif default is not None:
            options["help"] += " (%(default)s)"
        parser.add_argument(f"--{name.replace('_', '-')}", **options)


def given(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of some options by their names."""
    return {name: getattr(options, name) for name in names}


def add_event_arguments(parser: argparse.ArgumentParser, time: str, *, key_required: bool) -> None:
    """Add the options of all commands that compact events."""
    add = parser.add_argument
    keys = parser.add_mutually_exclusive_group(required=key_required)
    names: Any = {"action": "append", "default": [], "metavar": "FIELD[,FIELD...]"}
    key = "what makes events equal; a.b reaches into objects; may be repeated (default: all of the event)"
    keys.add_argument("--key", help=key, **names)
    keys.add_argument("--exclude", help="all but these", **names)
    add_parameters(parser, key_of, ["missing"])
    add("--items", metavar="FIELD", help="where the lists of events are: Records, streams[].values[]")
    add_parameters(parser, compact, WINDOWS)
    kept = parser.add_mutually_exclusive_group()
    keep = "the event to keep for a key (%(default)s)"
    kept.add_argument("--keep", choices=["first", "last"], default="first", help=keep)
    merges = f"merge these fields of a key's events: {', '.join(MERGES)}; may be repeated"
    kept.add_argument("--merge", metavar="FIELD=HOW[,FIELD=HOW...]", action="append", help=merges)
    add("--time", metavar="FIELD", help=time)
    add("--timezone", type=timezone, default=UTC, metavar="ZONE", help="of times without one: Europe/Vienna, =-05:00")
    add("--time-format", metavar="FORMAT", help="of times in an uncommon form, as strptime has it")
    add_log_arguments(parser)


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of all commands that run a pipeline: where dead letters go, and what is logged."""
    add = parser.add_argument
    letters = "write what was rejected, expired or failed there as JSON lines, which are read as input again"
    add("--dead-letters", metavar="FILE|URL", help=letters)
    levels = ["DEBUG", "INFO", "WARNING", "ERROR"]
    add("--log-level", choices=levels, default="INFO", help="of what is logged to standard error (%(default)s)")
    add("--log-format", choices=["text", "json"], default="text", help="of standard error (%(default)s)")


def windows(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `compact` that all commands have."""
    pairs = [pair.rpartition("=") for text in options.merge or () for pair in re.split(r"(?<!\\),", text)]
    keep = merge({name: how.strip() for name, _, how in pairs}) if pairs else options.keep
    return {"keep": keep, **given(options, WINDOWS)}


def mappers(options: argparse.Namespace) -> tuple[Mapper, Mapper | None]:
    """Return the mappers to keys and times that the options describe."""
    names, excluded = (parse_names(texts, "FIELD") for texts in (options.key, options.exclude))
    keys = key_of(names, exclude=excluded, missing=options.missing)
    if not options.time:
        return keys, None
    return keys, time_of(options.time, timezone=options.timezone, format=options.time_format)


def dead_letter_sink(place: str | None) -> Sink | None:
    """Return the sink of a URL, or of a file, which is created.

    Raises:
        OSError: when the file cannot be written.
    """
    if place is None:
        return None
    if "://" in place:
        from rxcompact.sinks.http import HttpSink  # noqa: PLC0415 - aiohttp takes long to import

        return HttpSink(place)
    with Path(place).open("ab"):
        return NdjsonSink(place)


def from_environment(
    parser: argparse.ArgumentParser, arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Return the arguments preceded by options of the environment: ``RXCOMPACT_MAX_AGE=60`` is ``--max-age=60``.

    An option on the command line replaces the variable, also that of an option that excludes it.
    """
    replaced = {argument.partition("=")[0] for argument in arguments}
    for group in parser._mutually_exclusive_groups:
        members = {name for action in group._group_actions for name in action.option_strings}
        replaced |= members if members & replaced else set()
    found: list[str] = []
    for name, action in parser._option_string_actions.items():
        variable = PREFIX + name.removeprefix("--").replace("-", "_").upper()
        value = environment.get(variable)
        if value is None or name in replaced | {"-h", "--help"}:
            continue
        if action.nargs != 0:
            found.append(f"{name}={value}")
        elif value and value.lower() not in SWITCH:
            parser.error(f"{variable} must be 1 or 0, got {value!r}")
        elif SWITCH.get(value.lower()):
            found.append(name)
    return [*found, *arguments]


def write_error(text: str) -> None:
    """Write to standard error, unless it is closed."""
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]  # None when the shell closed it
        with suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()


def configure_log(options: argparse.Namespace) -> None:
    """Have the log from a level on, and all that the command notes, go to standard error, as text or JSON lines."""
    _log.format = options.log_format

    def configure() -> None:
        from loguru import logger  # noqa: PLC0415 - takes long to import

        least = logger.level("DEBUG" if options.verbose else options.log_level).no
        logger.remove()
        logger.add(_write_record, format="{message}", filter=lambda record: record["level"].no >= least)

    if "loguru" in sys.modules:
        configure()
    else:
        log.before_first.append(configure)


def _write_record(message: Any) -> None:
    record, text = message.record, message.rstrip("\n")
    if _log.format == "text":
        text = f"{record['time']:YYYY-MM-DD HH:mm:ss} {record['level'].name}: {text}"
    _write_line(text, record["level"].name, record["time"], record["extra"])


def _write_line(text: str, level: str, at: datetime, extra: Mapping[str, Any]) -> None:
    if _log.format == "json":
        text = encoder.encode({"time": at, "level": level, "message": text, **extra}).decode()
    write_error(f"{text}\n")


def note(text: str, level: str = "INFO", **extra: Any) -> None:
    """Report something of the command itself, whatever the level of the log."""
    _write_line(text, level, datetime.now().astimezone(), extra)


def run_command(options: argparse.Namespace) -> int:
    """Run a command, in as many processes as it asks for; return its exit code."""
    try:
        several = getattr(options, "workers", 1) != 1 and WORKER not in os.environ
        code: int = _run_workers(options) if several else options.run(options)
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]  # None when the shell closed it
            sys.stdout.flush()
    except BrokenPipeError:  # its reader is gone, as of ``| head``
        with suppress(OSError, AttributeError):  # nowhere from now on, or the interpreter's last flush would fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # pyright: ignore[reportOptionalMemberAccess]
        return SIGNALLED + signal.SIGPIPE
    except KeyboardInterrupt:
        return SIGNALLED + signal.SIGINT
    except (argparse.ArgumentError, ArgumentError, OSError) as error:
        failed: argparse.ArgumentParser = options.command
        failed.error(str(error))
    return code


def _run_workers(options: argparse.Namespace) -> int:
    from rxcompact.commands import service  # noqa: PLC0415 - takes long to import

    configure_log(options)
    return asyncio.run(service.run_workers(count("--workers", options.workers)))


def worker() -> int:
    """Return the number of this process, from 0; 0 too where it is the only one."""
    return int(os.environ.get(WORKER, "0"))


def stop_signals() -> list[signal.Signals]:
    """Return the signals that end a command, less those that its parent had it ignore, as nohup does."""
    stops = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in stops if signal.getsignal(number) is not signal.SIG_IGN]


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine: on uvloop where it is installed (extra ``uvloop``), which is faster over HTTP."""
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415 - an extra

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.get_loop().set_exception_handler(_on_exception)
        return runner.run(main)


def _on_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody handled, but for a TLS handshake of uvloop on a connection that was reset: its caller fails."""
    if "the handler is closed" not in str(context.get("exception")):
        loop.default_exception_handler(context)
