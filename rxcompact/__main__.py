"""The command: ``rxcompact``, or ``python -m rxcompact``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from io import TextIOWrapper

from rxcompact import __version__
from rxcompact.commands.common import (
    SIGNALLED,
    configure_log,
    discard_stdout,
    from_environment,
    reserve_standard_descriptors,
)
from rxcompact.errors import ArgumentError

COMMANDS = {
    "compact": "compact JSON events from files or standard input",
    "serve": "run a service made of options: HTTP or a broker in, enrich, publish",
    "run": "run a Pipeline of your own as a service",
    "suggest": "which fields of a log make a good key",
    "demo": "show it at work on loopback",
}
SIGINT, SIGPIPE = 2, 13


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    reserve_standard_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # None when it is closed
            stream.reconfigure(errors="backslashreplace")  # where a terminal is not UTF-8
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="rxcompact", description="Each distinct event once per time bucket.")
    parser.add_argument("--version", action="version", version=f"rxcompact {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        raw = argparse.RawDescriptionHelpFormatter
        command = commands.add_parser(name, help=text, formatter_class=raw, allow_abbrev=False)
        if given[:1] == [name]:  # only its imports take time
            module = import_module(f"rxcompact.commands.{name}")
            command.description, command.epilog = module.DESCRIPTION, module.EPILOG
            module.add_arguments(command)
            command.set_defaults(command=command, run=module.run)
            given[1:] = from_environment(command, given[1:])
    options = parser.parse_args(given)
    if getattr(options, "workers", 1) == 1:
        return _exit_code(options)
    from rxcompact.commands.workers import Workers  # noqa: PLC0415 - takes 10 ms

    configure_log(options)
    return Workers(options.workers, partial(_exit_code, options)).run()


def _exit_code(options: argparse.Namespace) -> int:
    try:
        code: int = options.run(options)
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]  # None when the shell closed it
            sys.stdout.flush()
    except BrokenPipeError:  # its reader is gone, as of ``| head``
        discard_stdout()
        return SIGNALLED + SIGPIPE
    except KeyboardInterrupt:
        return SIGNALLED + SIGINT
    except (argparse.ArgumentError, ArgumentError, OSError) as error:
        failed: argparse.ArgumentParser = options.command
        failed.error(str(error))
    return code


if __name__ == "__main__":
    sys.exit(main())
