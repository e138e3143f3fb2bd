"""What rxcompact costs, beside the plain dict and its peers: ``python tests/benchmarks``.

Everyone does the same work and must come to the same checksum. Rounds alternate between the systems, so that the
machine's moods fall on all; CPU seconds, but for rows named wall. Writes a Markdown table; ratios are what to trust.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import calls
import command
import compaction
import lookups
import memory
import ndjson
import posts
import sizes
import stall
import times
from measuring import Group
from report import Finding, findings, markdown, plot, write_json

MIB = 1 << 20


class Lot:
    """All that can be measured, by name."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.groups: list[Group] = []
        self.found: list[Finding] = []
        self.curves: sizes.Curves | None = None
        events, keys, short = options.events, options.keys, options.short
        self.rows: dict[str, Callable[[], None]] = {
            "chunks": lambda: self.measure(compaction.chunked(events, keys)),
            "windows": lambda: self.measure(compaction.windows(events, keys)),
            "events": lambda: self.measure(compaction.single(events, keys)),
            "pipeline": lambda: self.measure(*(compaction.pipeline(events, most) for most in (1000, keys))),
            "ndjson": lambda: self.measure(ndjson.decoding(events)),
            "enrich": lambda: self.measure(calls.enrichment(4000 if short else 20_000, slow=not short)),
            "answers": lambda: self.measure(calls.answers(10_000 if short else 100_000)),
            "times": lambda: self.measure(*times.times(events)),
            "replay": lambda: self.measure(compaction.replaying(2 * events)),
            "lookups": lambda: self.measure(lookups.lookups(1000 if short else 5000)),
            "http": lambda: self.measure(*posts.intake(*((100, 2000) if short else (500, 10_000)))),
            "peers": lambda: self.measure(compaction.beside(events, keys)),
            "sizes": self.sizes,
            "memory": self.memory,
            "stall": self.stall,
            "command": lambda: self.measure(*command.commands(*((100_000, (1000,)) if short else (events,)))),
        }

    def run(self, names: list[str]) -> None:
        for name in names:
            began = time.monotonic()
            self.rows[name]()
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    def measure(self, *groups: Group) -> None:
        for group in groups:
            self.groups.append(group.measure(self.options.rounds))
            self.found += findings(group)

    def sizes(self) -> None:
        """Row 9, time."""
        short = self.options.short
        most = 400_000 if short else 10_000_000
        counts = [count for count in (100_000 * 2**step for step in range(7)) if count < most] + [most]
        curves = self.curves = sizes.curves(
            counts,
            [1000, 10_000, 100_000] if short else [1000, 3000, 10_000, 20_000, 40_000, 70_000, 139_000, 400_000],
            rounds=min(3, self.options.rounds),
            events=200_000 if short else 1_000_000,
        )
        for name in (sizes.COMPACT, sizes.SINGLE):
            ratio = curves.doubling(name)
            self.note("9", name, "half the events", f"{ratio:.2f} ×", "2 × ± 10 %", ratio, met=1.8 <= ratio <= 2.2)
        ratio = curves.relative_growth()
        self.note("9", f"{sizes.COMPACT}: growth with keys", "the plain dict's", f"{ratio:.2f} ×", "≤ 1.1 ×", ratio)

    def memory(self) -> None:
        """Row 9, memory."""
        few, many = (100_000, 400_000) if self.options.short else (100_000, 10_000_000)
        held = 100_000
        # counts above 256 are objects of their own: an int a key, however many events
        for name, flat, least in (("compact, first_seen", 1.1, 1.3), ("compact, count and times", 1.15, 1.3)):
            peaks = [memory.measured(name, events, 10_000) for events in (few, many)]
            ratio = peaks[1] / peaks[0]
            what = f"{peaks[1] / MIB:.1f} MiB for {many:,} events, {ratio:.2f} ×"
            self.note("9", f"{name}, 10,000 keys", f"{few:,} events", what, f"≤ {flat} ×", ratio)
            # a chunk at a time the plain dict is the least that can hold them
            mine, theirs = (memory.measured(each, 2 * held, held) for each in (name, "plain dict"))
            what = f"{mine // held} bytes a key, {mine / theirs:.2f} ×"
            self.note("9", f"{name}, {held:,} keys", "plain dict", what, f"≤ {least} ×", mine / theirs)
            buffer = memory.measured("RxPY buffer, a dict a buffer", few, 10_000)
            what = f"{peaks[0] / MIB:.1f} to {buffer / MIB:.1f} MiB for {few:,} events"
            self.note("9", f"{name}, 10,000 keys", "RxPY buffer", what, "≤ 1 ×", peaks[0] / buffer)

    def stall(self) -> None:
        for where in ("sink", "API"):
            seen = stall.stalled(where)
            what = f"{seen.most_held:,} held, at the old rate from {seen.back_after:.1f} s on, {seen.lost} lost"
            met = seen.waited and seen.most_held <= stall.ROOM and seen.back_after <= stall.TIMESPAN and not seen.lost
            target = f"≤ {stall.ROOM:,} held, back within {stall.TIMESPAN:.0f} s, none lost"
            ratio = seen.most_held / stall.ROOM
            self.note("stall", f"{where} stalled for 60 s", "max_in_flight", what, target, ratio, met=met)

    def note(
        self,
        row: str,
        ours: str,
        beside: str,
        measured: str,
        target: str,
        ratio: float,
        *,
        met: bool | None = None,
    ) -> None:
        if met is None:
            met = ratio <= float(target.removeprefix("≤ ").removesuffix(" ×"))
        self.found.append(Finding(row, ours, beside, measured, target, met, ratio))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/benchmarks", description=__doc__)
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="measure these alone (default: all)")
    parser.add_argument("--events", type=int, help="default: 1,000,000; 100,000 with --short")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, help="default: 5; 3 with --short")
    parser.add_argument("--short", action="store_true", help="less of everything: under a minute")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw cost against size, SVG or PNG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found for programs too")
    options = parser.parse_args()
    options.events = options.events or (100_000 if options.short else 1_000_000)
    options.rounds = options.rounds or (3 if options.short else 5)
    lot = Lot(options)
    names = options.rows or [name for name in lot.rows if not (options.short and name in ("sizes", "memory"))]
    if unknown := set(names) - set(lot.rows):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(lot.rows)}")
    if options.events % 50_000:
        parser.error("--events: whole windows of 50,000")
    if options.plot and "sizes" not in names:
        names.append("sizes")
    lot.run(names)
    asked = {name: getattr(options, name) for name in ("events", "keys", "rounds")}
    print(markdown(asked, lot.groups, lot.curves, sorted(lot.found, key=lambda found: found.row)))
    if options.plot and lot.curves:
        plot(options.plot, lot.curves)
    if options.json:
        write_json(options.json, lot.found, lot.groups)


if __name__ == "__main__":
    main()
