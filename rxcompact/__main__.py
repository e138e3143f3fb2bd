"""The command: ``rxcompact``, or ``python -m rxcompact``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rxcompact.commands import compact, demo, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    parser = argparse.ArgumentParser(prog="rxcompact", description="Each distinct event once per time bucket.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (compact, serve, demo):
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    sys.exit(main())
