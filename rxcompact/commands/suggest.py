"""rxcompact suggest: which fields of a log make a good key."""

from __future__ import annotations

import argparse
from typing import Any

from reactivex import operators as ops

from rxcompact.commands import common
from rxcompact.sources.ndjson import NdjsonSource
from rxcompact.suggest import SAMPLE, suggest

DESCRIPTION = """\
Look at a sample of events, and print which fields make a good key: what each removes, what it mixes up, for example.
"""
EPILOG = """\
examples:
  rxcompact suggest dns.ndjson.gz
  head -20000 events.ndjson | rxcompact suggest -

exit code:
  0  success
  1  no field makes a key
  2  wrong usage, or a file that cannot be read
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("path", nargs="?", default="-", metavar="FILE", help="JSON in any shape; - is standard input (default)")
    add("--sample", type=int, default=SAMPLE, metavar="N", help="events that are looked at (default %(default)s)")
    add("--max-mixed", type=float, default=0.15, metavar="SHARE", help="of events mixed up (default %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    events: list[Any] = []
    chunks = NdjsonSource(options.path).stream().pipe(ops.do_action(events.extend))
    chunks.pipe(ops.take_while(lambda _: len(events) < options.sample), ops.default_if_empty()).run()
    found = suggest(events, max_mixed=options.max_mixed, sample=options.sample)
    print(found)
    if not found.candidates:
        common.note("no field makes a key")
        return 1
    print(f"\nrxcompact compact {options.path} --key {','.join(found.candidates[0].fields)} --timespan 10s")
    return 0
