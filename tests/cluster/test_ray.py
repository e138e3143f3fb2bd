"""Shards on Ray: a key on one shard, actors and nodes that are killed, what is not acknowledged is sent again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("ray") is None and "CI" not in os.environ:
    pytest.skip("needs the extra ray", allow_module_level=True)

pytestmark = pytest.mark.timeout(800)

KEYS, LIMIT = 500, 400


def run(scenario: str, path: Path) -> dict[str, Any]:
    program = str(Path(__file__).with_name("on_ray.py"))
    done = subprocess.run(
        [sys.executable, program, scenario, str(path)], capture_output=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return json.loads(Path(f"{path}.json").read_text())


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run("shards", tmp_path_factory.mktemp("ray") / "store")


def published(found: dict[str, Any]) -> list[Any]:
    return [json.loads(line) for line in Path(found["file"]).read_text().splitlines()]


def balances(account: dict[str, int]) -> bool:
    ended = sum(account[end] for end in ("published", "expired", "failed", "dropped", "abandoned"))
    return (
        account["received"] == account["duplicates"] + account["distinct"] + account["rejected"]
        and account["distinct"] == ended + account["in_flight"]
    )


def test_each_key_is_on_one_shard_and_every_event_is_counted_once(shards: dict[str, Any]) -> None:
    found = shards["whole"]
    counts: Counter[int] = Counter()
    places: defaultdict[int, set[int]] = defaultdict(set)
    for key, count, place in published(found):
        counts[key] += count
        places[key].add(place)
    assert counts == dict.fromkeys(range(KEYS), 20_000 // KEYS)
    assert all(len(found) == 1 for found in places.values())
    assert len(set.union(*places.values())) == 2
    assert balances(found["account"])
    assert (found["account"]["received"], found["account"]["rejected"], found["acknowledged"]) == (20_001, 1, 20_001)
    assert {"WindowClosed", "BatchPublished", "DeadLettered"} <= set(found["signals"])


def test_an_actor_that_is_killed_in_mid_window_goes_on_and_loses_nothing(shards: dict[str, Any]) -> None:
    found = shards["killed"]
    counts: Counter[int] = Counter()
    for key, count, _ in published(found):
        counts[key] += count
    assert set(counts) == set(range(KEYS))
    assert all(count >= 21_000 // KEYS for count in counts.values())  # at least once
    assert found["acknowledged"] == 21_000
    assert balances(found["account"])
    assert found["account"]["in_flight"] == 0


def test_what_is_unacknowledged_is_bounded_and_a_drain_returns_by_its_deadline(shards: dict[str, Any]) -> None:
    found = shards["stuck"]
    assert found["waits"]
    assert found["received"] == 50
    assert published(found) == []
    assert found["drained"]["abandoned"] == found["drained"]["distinct"] > 0
    assert found["acknowledged"] == 0
    assert found["took"] < 2 + 10


def test_a_node_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    found = run("nodes", tmp_path / "store")
    counts: Counter[int] = Counter()
    for key, count, _ in published(found):
        counts[key] += count
    assert set(counts) == set(range(KEYS))
    assert all(count >= 11_000 // KEYS for count in counts.values())
    assert found["acknowledged"] == 11_000
    assert balances(found["account"])
