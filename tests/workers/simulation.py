"""Workers of a partitioned stream whose keys are as Zipf has them, in virtual time; every worker runs the operators.

python tests/workers/simulation.py --workers 1000 --keys 100000 --zipf 1.1 --events 1000000
"""

import argparse
import asyncio
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate, groupby, product
from typing import Any, NamedTuple

from reactivex.subject import Subject

from rxcompact import operators as rxo
from rxcompact.clock import LoopScheduler, WallClock
from rxcompact.events import Window
from rxcompact.testing import START, run, virtual_loop

if __package__:
    from .outage import KEY, TIME, Event, outage
else:  # as a program
    from outage import KEY, TIME, Event, outage


def fnv1a(data: bytes) -> int:
    found = 0x811C9DC5
    for byte in data:
        found = (found ^ byte) * 0x01000193 & 0xFFFFFFFF
    return found


def partition(key: str, shards: int) -> int:
    """Return where NATS's `{{partition(shards,1)}}` puts a subject's token."""
    return fnv1a(key.encode()) % shards


def stream(*, keys: int, zipf: float, events: int, seconds: float) -> list[Event]:
    """Return events at an even pace."""
    weights = list(accumulate(rank**-zipf for rank in range(1, keys + 1)))
    ranks = random.Random(0).choices(range(keys), cum_weights=weights, k=events)
    return [(f"host{rank}", START + number * seconds / events) for number, rank in enumerate(ranks)]


def by_shard(events: Iterable[Event], shards: int) -> list[list[Event]]:
    places: dict[str, int] = {}
    found: list[list[Event]] = [[] for _ in range(shards)]
    for event in events:
        key = event[0]
        found[places[key] if key in places else places.setdefault(key, partition(key, shards))].append(event)
    return found


def load(counts: Collection[int]) -> tuple[float, float]:
    """Return the hottest shard's load over the mean, and its share of everything."""
    return max(counts) * len(counts) / sum(counts), max(counts) / sum(counts)


def deduplicated(events: Sequence[Event], size: int) -> list[Event]:
    """Return what is left to route when of each batch of so many a key is routed once."""
    return [left for start in range(0, len(events), size) for left in dict(events[start : start + size]).items()]


class Place(NamedTuple):
    """Of a worker, in seconds: when it started, how late events come to it, how wrong its clock is."""

    started: float = 0.0
    delay: float = 0.0
    clock: float = 0.0


class Skewed(LoopScheduler):
    def __init__(self, offset: float) -> None:
        super().__init__(asyncio.get_running_loop())
        right = self.wall
        self.wall = WallClock(lambda: right() + offset, self.loop.time)


async def windows(
    shards: Sequence[Sequence[Event]], places: Sequence[Place], *, timespan: float, lateness: float | None
) -> list[tuple[float, Window]]:
    """Have every worker compact its shard; return the windows, each with when it came out."""
    loop, closed = virtual_loop(), list[tuple[float, Window]]()

    async def work(events: Sequence[Event], place: Place) -> None:
        await asyncio.sleep(place.started)
        source: Subject[Any] = Subject()
        compact = rxo.compact(timespan, key_mapper=KEY, time_mapper=TIME, lateness=lateness, chunked=True)
        source.pipe(compact).subscribe(lambda it: closed.append((loop.wall(), it)), scheduler=Skewed(place.clock))
        for second, chunk in groupby(events, lambda event: event[1] // 1 + 1):
            await asyncio.sleep(max(0.0, second + place.delay - loop.wall()))
            source.on_next(list(chunk))
        await asyncio.sleep(2 * timespan + (lateness or 0))  # the last is closed by the clock, as all are
        source.on_completed()

    await asyncio.gather(*map(work, shards, places))
    return closed


class Skew(NamedTuple):
    edges: int  # different pairs of opened and closed
    spread: float  # seconds between the first and the last worker's window of one time bucket, at most
    again: int  # rows whose key the same time bucket had already


def skew(closed: Iterable[tuple[float, Window]], timespan: float) -> Skew:
    instants, seen, edges = dict[float, list[float]](), Counter[Any](), set[tuple[float, float]]()
    for at, window in closed:
        edges.add((window.opened, window.closed))
        instants.setdefault(window.opened // timespan, []).append(at)
        seen.update((each.key, (each.first_seen or 0) // timespan) for each in window)
    return Skew(len(edges), max(max(ats) - min(ats) for ats in instants.values()), seen.total() - len(seen))


def main(**it: Any) -> None:
    events = stream(keys=it["keys"], zipf=it["zipf"], events=it["events"], seconds=it["seconds"])
    shards = by_shard(events, it["workers"])
    print("routed                 events  hottest/mean  its share  events a shard has of a batch")
    for size in (1, 1_000, 10_000, 100_000):
        left = deduplicated(events, size) if size > 1 else events
        hottest, share = load([*map(len, by_shard(left, it["workers"]))])
        each = len(left) / -(-len(events) // size) / it["workers"]
        print(f"batches of {size:7,} {len(left):10,} {hottest:13.1f} {share:10.2%} {each:30.3f}")

    chance = random.Random(0)
    places = [Place(chance.uniform(0, it["timespan"]), chance.uniform(0, 2), chance.gauss(0, 0.5)) for _ in shards]
    print("\nwindows                rows  edges  spread s  rows again in a time bucket  hottest/mean in rows")
    for name, lateness in (("processing time", None), ("event time", it["lateness"])):
        closed = run(windows(shards, places, timespan=it["timespan"], lateness=lateness))
        rows = Counter(partition(each.key, it["workers"]) for _, window in closed for each in window)
        edges, spread, again = skew(closed, it["timespan"])
        print(f"{name:15} {rows.total():11,} {edges:6,} {spread:9.1f} {again:28,} {load(rows.values())[0]:21.1f}")

    shards.sort(key=len)
    options = {name: it[name] for name in ("down", "capacity", "timespan", "max_age")}
    print("\npartition  down s  ack_wait s  lateness s  backlog  caught up s    rows  again  expired  late  late alone")
    for place, (down, ack_wait, lateness) in product((len(shards) // 2, -1), OUTAGES):
        found = run(outage(shards[place], seconds=down, ack_wait=ack_wait, lateness=lateness, **options))
        published, expired, late = (found.ends.get(end, Counter()) for end in ("published", "expired", "rejected"))
        ids = Counter((key, born // it["timespan"]) for key, born in published.elements())
        alone = {(key, born // it["timespan"]) for key, born in late} - ids.keys()
        print(f"{'median' if place > 0 else 'hottest':9} {down:7} {ack_wait:11} {lateness!s:>11}", end="")
        print(f" {found.backlog:8,} {found.caught_up:12.1f} {ids.total():7,} {ids.total() - len(ids):6,}", end="")
        print(f" {expired.total():8,} {late.total():5,} {len(alone):11,}")


OUTAGES = (60, 30, 5), (5, 30, 5), (5, 4, 5), (5, 30, None)
DEFAULTS = {"workers": 1000, "keys": 100_000, "zipf": 1.1, "events": 1_000_000, "seconds": 120}
DEFAULTS |= {"timespan": 10.0, "lateness": 5.0, "max_age": 45.0, "down": 30.0, "capacity": 5000}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name}".replace("_", "-"), type=type(default), default=default, help=f"{default}")
    main(**vars(parser.parse_args()))
