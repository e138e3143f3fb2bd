"""Workers on Kafka are killed with SIGKILL: nothing is lost, and again comes what the last commit does not have.

``RXCOMPACT_KILLS`` and ``RXCOMPACT_EVENTS`` make it longer, ``RXCOMPACT_SEED`` kills at other moments.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("aiokafka")

from .kafka_support import KafkaRig
from .support import PATIENCE, until
from .test_kills import EVENTS, KILLS, lived

WORKER = Path(__file__).with_name("stuck_worker.py")
LIFE = (2.0, 6.0)
"""Seconds between two kills; in some a worker does not even join the group."""
NUMBERS, STUCK = range(4_000), {3, 1_000, 1_001, 3_210}


@pytest.mark.timeout(120 + 10 * KILLS)
async def test_workers_that_are_killed_at_random_moments_lose_nothing(tansu: KafkaRig, tmp_path: Path) -> None:
    result = await lived(tansu, tmp_path, victim="worker", kills=KILLS, life=LIFE, late=2.0)
    print(
        f"{KILLS} kills, {EVENTS} events: {len(result.out)} rows out, {len(result.pending)} events behind a commit, "
        f"{len(result.twice)} of them published again, {len(result.dead_numbers)} dead letters"
    )


@asynccontextmanager
async def working(rig: KafkaRig, out: Path, stuck: set[int]) -> AsyncIterator[None]:
    """Run a worker; kill it."""
    out.touch()
    worker = await asyncio.create_subprocess_exec(sys.executable, WORKER, rig.url, out, *map(str, stuck))
    try:
        yield
    finally:
        worker.kill()
        await worker.wait()


def published(out: Path) -> list[int]:
    return [int(line) for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize("all_else_is_committed", [True, False])
async def test_stuck_events_and_what_was_not_committed_come_again_after_a_kill_and_nothing_else(
    all_else_is_committed: bool, kafka_mock: KafkaRig, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    await kafka_mock.send_numbered({number: b'{"n": %d}' % number for number in NUMBERS})
    async with working(kafka_mock, first, STUCK), asyncio.timeout(PATIENCE):
        await until(lambda: len(published(first)) > len(NUMBERS) / 2)
        while all_else_is_committed and await kafka_mock.delivered_numbers() != STUCK:
            await asyncio.sleep(0.1)
    left = await kafka_mock.delivered_numbers()
    assert left >= STUCK | ({*NUMBERS} - {*published(first)})
    async with working(kafka_mock, second, set()):
        await kafka_mock.settles()
    assert sorted(published(second)) == sorted(left)
    again = {*published(first)} & {*published(second)}
    print(f"{len(published(first))} published before the kill, {len(again)} of them again after it")
