"""Streams of events, and how their cost is measured: CPU seconds, in rounds that alternate between the systems."""

from __future__ import annotations

import gc
import itertools
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cache
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rxcompact.events import Compacted

WINDOW = 50_000
Event = dict[str, Any]
key_of = itemgetter("id")
Close = Callable[[Any], int]
"""What is made of a window's distinct events: `len` while the clock runs, `checksum` when it does not."""


@cache
def scratch() -> TemporaryDirectory[str]:
    """A directory that goes when the program ends."""
    return TemporaryDirectory(prefix="rxcompact-bench-")


@cache
def zipf(events: int, keys: int) -> list[Event]:
    """Events with keys as Zipf has them."""
    pick = random.Random(7)
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(keys)))
    found = pick.choices([f"key-{n}" for n in range(keys)], cum_weights=weights, k=events)
    return [{"id": key, "n": n} for n, key in enumerate(found)]


def uniform(events: int, keys: int) -> list[Event]:
    """Events whose keys occur equally often, so that all are held in the end."""
    names = [f"key-{n}" for n in range(keys)]
    found = list(itertools.islice(itertools.cycle(names), events))
    random.Random(7).shuffle(found)
    return [{"id": key, "n": n} for n, key in enumerate(found)]


def chunks_of(events: list[Event], size: int) -> list[list[Event]]:
    return [events[start : start + size] for start in range(0, len(events), size)]


def checksum(distinct: Collection[Any]) -> int:
    """Return which events were kept, and how often they were seen where that was counted."""
    total = 0
    for each in distinct:
        event = each.event if isinstance(each, Compacted) else each
        count = each.count if isinstance(each, Compacted) else None
        if isinstance(each, list):  # of a plain version that counts
            event, count = each[:2]
        total += (event["n"] + 1) * (count or 1)
    return total


def expected(events: Iterable[Event], window: int = WINDOW, *, counted: bool = False) -> int:
    """The checksum, worked out in the plainest way."""
    total, rest = 0, iter(events)
    while part := list(itertools.islice(rest, window)):
        first: dict[str, list[int]] = {}
        for event in part:
            first.setdefault(event["id"], [event["n"] + 1, 0])[1] += 1
        total += sum(n * (count if counted else 1) for n, count in first.values())
    return total


def expected_leading(events: Iterable[Event], window: int = WINDOW) -> int:
    """The checksum with a leading edge: a first event alone, and its second with the count of the repeats."""
    total, rest = 0, iter(events)
    while part := list(itertools.islice(rest, window)):
        seen: dict[str, list[int]] = {}
        for event in part:
            seen.setdefault(event["id"], []).append(event["n"] + 1)
        total += sum(found[0] + sum(found[1:2]) * (len(found) - 1) for found in seen.values())
    return total


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run cost, seconds."""

    cpu: float
    wall: float
    result: Any = None
    memory: float = 0.0
    """KiB at most, of a process of its own."""


def clocked(run: Callable[[], Any]) -> Spent:
    """Run with the collector as a fresh program has it: the stream that lies ready is no part of the work."""
    gc.collect()
    gc.freeze()
    try:
        cpu, wall = time.process_time(), time.perf_counter()
        result = run()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    finally:
        gc.unfreeze()
    # some are measured where they ran, in another process
    return result if isinstance(result, Spent) else Spent(cpu, wall, result)


@dataclass(frozen=True, slots=True)
class Case:
    """A system at work.

    ``run(close)`` returns what ``close`` made of all windows together; ``expected`` is what that must be for
    `checksum`. Without it, ``run`` checks its own result.
    """

    name: str
    run: Callable[[Close], Any]
    events: int
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """How much one system may cost, in terms of another; ``least`` where it is throughput that counts."""

    row: str
    ours: str
    reference: str | tuple[str, ...]
    limit: float
    least: bool = False
    of: str = "cpu"

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g} ×{'' if self.of == 'cpu' else ' ' + self.of}"

    def met(self, ratio: float) -> bool:
        return ratio >= self.limit if self.least else ratio <= self.limit


@dataclass(slots=True)
class Group:
    """Systems that do the same work, measured in turn."""

    name: str
    cases: list[Case]
    targets: list[Target] = field(default_factory=list)
    ideal: float = 0.0
    """Seconds that an event may take, for targets of "ideal wall" and "ideal cpu"."""
    notes: list[str] = field(default_factory=list)
    spent: dict[str, list[Spent]] = field(default_factory=dict)

    def measure(self, rounds: int) -> Group:
        """Check every system once, which also warms it up, then run them in turns.

        Raises:
            AssertionError: when one of them comes to another result.
        """
        for case in self.cases:
            if case.expected is not None:
                found = case.run(checksum)
                found = found.result if isinstance(found, Spent) else found
                if found != case.expected:
                    raise AssertionError(f"{self.name}: {case.name} came to {found}, not {case.expected}")
        self.spent = {case.name: [] for case in self.cases}
        for _ in range(rounds):
            for case in self.cases:
                self.spent[case.name].append(clocked(lambda: case.run(len)))
        return self

    def each(self, name: str, of: str = "cpu") -> list[float]:
        """Seconds an event of a system, by round."""
        events = next(case.events for case in self.cases if case.name == name)
        return [getattr(spent, of) / events for spent in self.spent[name]]

    def median(self, name: str, of: str = "cpu") -> float:
        return statistics.median(self.each(name, of))

    def ratio(self, target: Target) -> tuple[float, str]:
        """The median of the rounds' ratios, each of two neighbours in time; and what was compared with."""
        if target.of.startswith("ideal "):
            return self.median(target.ours, target.of.removeprefix("ideal ")) / self.ideal, f"{self.ideal * 1e6:.3g} µs"
        names = (target.reference,) if isinstance(target.reference, str) else target.reference
        best = min(names, key=lambda name: self.median(name, target.of))
        pairs = zip(self.each(target.ours, target.of), self.each(best, target.of), strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        return (1 / ratio if target.least else ratio), best


def machine() -> dict[str, str]:
    """Where it was measured."""
    model = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open() as info:
            model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), model)
    except OSError:
        pass
    return {
        "Python": platform.python_version(),
        "CPU": model,
        "cores": str(os.cpu_count()),
        "system": platform.system() + " " + platform.release(),
    }
