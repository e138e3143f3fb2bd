"""The simulation, on streams small enough to reckon by hand; and its partitions against a real server's."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rxcompact.testing import START

from . import simulation as sim
from .outage import Outage, outage

# 32-bit FNV-1a, from the test vectors of Noll's reference code and of draft-eastlake-fnv
VECTORS = {
    "": 0x811C9DC5,
    "a": 0xE40C292C,
    "b": 0xE70C2DE5,
    "fo": 0x6222E842,
    "foo": 0xA9F37ED7,
    "foob": 0x3F5076EF,
    "fooba": 0x39AAA18A,
    "foobar": 0xBF9CF968,
}


@pytest.mark.parametrize("text", VECTORS)
def test_the_hash_is_fnv_1a(text: str) -> None:
    assert sim.fnv1a(text.encode()) == VECTORS[text]


# ── load ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_loads_of_a_few_shards() -> None:
    assert sim.load([1, 1, 4]) == (2.0, 4 / 6)
    assert sim.load([3, 0, 0, 0]) == (4.0, 1.0)


def test_a_shard_has_all_events_of_its_keys_in_order() -> None:
    events = [("a", 1.0), ("foobar", 2.0), ("a", 3.0)]
    shards = sim.by_shard(events, 1000)
    # 0xE40C292C is 3 826 002 220, 0xBF9CF968 is 3 214 735 720
    assert {place: shard for place, shard in enumerate(shards) if shard} == {
        220: [("a", 1.0), ("a", 3.0)],
        720: [("foobar", 2.0)],
    }


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    # n and n + 1 have no divisor in common: of n(n + 1) hashes in a row n keep their place, those below n
    [(1, 2, 1 / 2), (4, 5, 4 / 5), (16, 17, 16 / 17), (1000, 1001, 1000 / 1001), (4, 8, 1 / 2), (4, 4, 0)],
)
def test_of_n_partitions_one_more_moves_nearly_all_keys(before: int, after: int, moved: float) -> None:
    keys = [f"host{number}" for number in range(20_000)]
    found = sum(sim.partition(key, before) != sim.partition(key, after) for key in keys) / len(keys)
    assert found == pytest.approx(moved, abs=5 * (moved * (1 - moved) / len(keys)) ** 0.5)


def test_a_key_is_routed_once_for_each_batch() -> None:
    events = [(key, float(at)) for at, key in enumerate("aabacca")]
    assert [key for key, _ in sim.deduplicated(events, 3)] == ["a", "b", "a", "c", "a"]
    assert sim.deduplicated(events, 1) == events


def test_keys_are_as_zipf_has_them_at_an_even_pace() -> None:
    events = sim.stream(keys=3, zipf=1.0, events=11_000, seconds=110)
    counts = Counter(key for key, _ in events)
    for key, weight in ("host0", 6), ("host1", 3), ("host2", 2):  # 1 : 1/2 : 1/3
        assert counts[key] == pytest.approx(1000 * weight, abs=5 * 11_000**0.5 / 2)
    assert [at - START for _, at in events[::1000]] == pytest.approx([10.0 * n for n in range(11)])


# ── windows of workers that differ ────────────────────────────────────────────────────────────────────────────────────

SHARDS = [
    [("a", START + second) for second in range(35)],
    [(key, START + second) for second in range(35) for key in (("b", "x") if 10 <= second < 14 else ("b",))],
]
PLACES = [sim.Place(delay=0.5), sim.Place(started=4.0, delay=2.0, clock=3.0)]


async def test_windows_of_event_time_are_the_same_wherever_and_later_by_the_delay_alone() -> None:
    closed = await sim.windows(SHARDS, PLACES, timespan=10, lateness=2)
    edges = {(window.opened, window.closed) for _, window in closed}
    assert edges == {(START + 10 * n, START + 10 * n + 10) for n in range(4)}
    found = sim.skew(closed, 10)
    assert (found.edges, found.again) == (4, 0)
    assert found.spread == pytest.approx(1.5, abs=0.01)
    assert Counter(each.key for _, window in closed for each in window) == {"a": 4, "b": 4, "x": 1}


async def test_windows_of_processing_time_are_each_workers_own() -> None:
    closed = await sim.windows(SHARDS, PLACES, timespan=10, lateness=None)
    edges = {(window.opened - START, window.closed - START) for _, window in closed}
    mine, other = {(10 * n, 10 * n + 10) for n in range(4)}, {(10 * n + 7, 10 * n + 17) for n in range(4)}
    assert {(round(opened), round(to)) for opened, to in edges} == mine | other
    found = sim.skew(closed, 10)
    assert found.spread == pytest.approx(4.0, abs=0.01)
    # what is born at s comes at s + 1 and the delay. Until 10 s that is 8 at the one worker: "a" of 9 opens a second
    # window in the bucket from 0; until 14 s it is 10 at the other: "x" of 10 to 13 has two in the bucket from 10
    assert found.again == 2


# ── a worker dies ─────────────────────────────────────────────────────────────────────────────────────────────────────

EACH_TENTH = [(f"key{number}", START + number / 10) for number in range(1000)]
FAST = 10**6


async def killed(**options: Any) -> Outage:
    """Kill it at 50 s of 100, with 10 events a second that have a key each."""
    defaults = {"down": 50, "seconds": 30, "capacity": FAST, "ack_wait": 1, "timespan": 1, "lateness": 0, "max_age": 20}
    found = await outage(EACH_TENTH, **(defaults | options))
    assert {event for ends in found.ends.values() for event in ends} == set(EACH_TENTH)  # at least once
    return found


def numbers(found: Outage, end: str) -> list[int]:
    return sorted(int(key.removeprefix("key")) for key, _ in found.ends.get(end, ()))


async def test_a_worker_that_is_replaced_at_once_costs_nothing_but_work_done_twice() -> None:
    found = await killed(seconds=0, ack_wait=0)
    assert found.ends.keys() == {"published"}


async def test_what_is_too_old_when_the_next_worker_comes_expires_and_nothing_else() -> None:
    found = await killed()
    assert found.ends.keys() == {"published", "expired"}
    expired = numbers(found, "expired")
    # at 80 s what was born until 60 is 20 s old; what waited when the worker died had done so for two seconds or so:
    # in an open window, and in a batch
    assert 460 < expired[0] < 500
    assert expired[-1] in {599, 600}
    assert expired == list(range(expired[0], expired[-1] + 1))
    assert 300 + 500 - expired[0] <= found.backlog <= 301 + 500 - expired[0]


async def test_the_backlog_is_caught_up_with_by_what_capacity_there_is_to_spare() -> None:
    found = await killed(capacity=40, max_age=1000)
    assert found.ends.keys() == {"published"}
    assert found.caught_up == pytest.approx(found.backlog / (40 - 10), abs=0.2)


@pytest.mark.parametrize("lateness", [0, 5])
async def test_what_is_delivered_again_after_newer_events_is_late_whatever_the_lateness(lateness: float) -> None:
    found = await killed(seconds=2, ack_wait=10, lateness=lateness)
    assert found.ends.keys() == {"published", "rejected"}
    late = numbers(found, "rejected")
    # 10 s after the kill the watermark is at 60 s less the lateness; what waited was born in the last seconds before 50
    assert 480 - 10 * lateness - 20 < late[0] < 500 - 10 * lateness
    assert late[-1] in {499, 500}


@pytest.mark.parametrize("options", [{"ack_wait": 2}, {"ack_wait": 10, "lateness": None}])
async def test_nothing_is_late_that_comes_before_newer_events_or_by_processing_time(options: Any) -> None:
    found = await killed(seconds=2, **options)
    assert found.ends.keys() == {"published"}


def test_the_program_shows_three_tables() -> None:
    program = str(Path(sim.__file__))
    sizes = ["--workers", "10", "--keys", "500", "--events", "20000", "--zipf", "1.2"]
    done = subprocess.run([sys.executable, program, *sizes], capture_output=True, text=True, timeout=30, check=True)
    tables = [table.splitlines() for table in done.stdout.split("\n\n")]
    assert [table[0].split()[0] for table in tables] == ["routed", "windows", "partition"]
    assert tables[0][1].split()[:4] == ["batches", "of", "1", "20,000"]
    assert [len(table) - 1 for table in tables] == [4, 2, 8]
