"""A run to record, whose every number is known beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import tenacity
from pipelines import simple_pipeline

from rxcompact import Orchestrator
from rxcompact.errors import PermanentError, TransientError
from rxcompact.observers import Recorder, Recording
from rxcompact.testing import START, run

# seconds after the start, and keys; windows are of five seconds
ARRIVALS: Sequence[tuple[float, Any]] = (
    (0.0, "db"), (1.0, "web"), (2.0, "db"), (3.0, "db"),
    (6.0, "web"), (7.0, "bad"), (8.0, "web"),
    (11.0, "mail"),
)  # fmt: skip


def recorded(arrivals: Sequence[tuple[float, Any]] = ARRIVALS, *, limit: int = 10_000, **options: Any) -> Recording:
    """Return the recording of a pipeline in virtual time. Its API fails once for each "web", and always for "bad"."""
    asked: set[str] = set()

    async def source() -> AsyncIterator[Any]:
        for at, key in arrivals:
            loop: Any = asyncio.get_running_loop()
            await asyncio.sleep(START + at - loop.wall())
            yield {"id": key}

    async def lookup(event: Any) -> Any:
        if event["id"] == "bad":
            raise PermanentError
        if event["id"] == "web" and "web" not in asked:
            asked.add("web")
            raise TransientError
        return event

    async def main() -> Recording:
        settings = {"enricher": lookup, "timespan": 5, "max_age": 60, "batch_timespan": 0} | options
        pipeline = simple_pipeline(
            source=source(), key_mapper="id", sink=lambda _: None, wait=tenacity.wait_fixed(2), **settings
        )
        recorder = Recorder(limit=limit)
        orchestrator = Orchestrator(pipeline)
        orchestrator.attach(recorder)
        async with orchestrator:
            await orchestrator.wait()
        return recorder.recording

    return run(main)


@pytest.fixture
def record() -> Callable[..., Recording]:
    return recorded


@pytest.fixture(scope="session")
def many() -> Recording:
    """A hundred thousand events of a thousand keys in a hundred seconds, of which it keeps but some."""
    arrivals = [(n / 1000, n * 7919 % 1000) for n in range(100_000)]
    return recorded(arrivals, limit=1000)
