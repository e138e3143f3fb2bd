"""The command: ``rxcompact``, or ``python -m rxcompact``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rxcompact.commands import compact, demo, serve
from rxcompact.commands.stdout import mute

SIGPIPE = 141
"""What a shell has as the exit code of one whose reader went away."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    parser = argparse.ArgumentParser(prog="rxcompact", description="Each distinct event once per time bucket.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (compact, serve, demo):
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads any more, as of ``| head``
        mute()
        return SIGPIPE
    return code


if __name__ == "__main__":
    sys.exit(main())
