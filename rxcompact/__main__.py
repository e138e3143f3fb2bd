"""The command: ``rxcompact``, or ``python -m rxcompact``."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from rxcompact import __version__

COMMON = "rxcompact.commands.common"  # imported when it is known that a command runs: it takes long
COMMANDS = {
    "compact": "compact JSON events from files or standard input",
    "serve": "run a service made of options: HTTP or a broker in, enrich, publish",
    "run": "run a Pipeline of your own as a service",
    "suggest": "which fields of a log make a good key",
    "demo": "show it at work on loopback",
}


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
        if given[:1] == [name]:  # imports take most of the time
            gc.disable()
            module = import_module(f"rxcompact.commands.{name}")
            gc.freeze()  # what was imported stays: no collection looks at it
            gc.enable()
            command.description, command.epilog = module.DESCRIPTION, module.EPILOG
            module.add_arguments(command)
            command.set_defaults(command=command, run=module.run)
            given[1:] = import_module(COMMON).from_environment(command, given[1:])
    options = parser.parse_args(given)
    code: int = import_module(COMMON).run_command(options)
    return code


def reserve_standard_descriptors() -> None:
    """Open what the shell closed, so that no file or socket gets the number of a standard stream."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free


if __name__ == "__main__":
    sys.exit(main())
