"""How many calls of ours an event passes, from a Subject through enrich to a function sink."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import reactivex as rx

import rxcompact
from rxcompact import Orchestrator, Pipeline
from rxcompact import operators as rxo

PACKAGE = str(Path(rxcompact.__file__).parent)
EVENTS = 1000


async def lookup(event: Any) -> Any:
    return event


@pytest.mark.parametrize(("together", "most"), [(1, 75), (10, 45)])
async def test_an_event_passes_few_calls(together: int, most: float) -> None:
    calls: Counter[str] = Counter()

    def count(frame: Any, what: str, _: Any) -> None:
        code = frame.f_code
        if what == "call" and code.co_filename.startswith(PACKAGE):
            calls[f"{code.co_filename[len(PACKAGE) + 1 :]} {code.co_qualname}"] += 1

    source: rx.Subject[Any] = rx.Subject()
    published: list[Any] = []
    compact = rxo.compact(3600, key_mapper="id", count=500)
    pipeline = Pipeline(source, compact, rxo.enrich(lookup), rxo.publish(published.extend), max_age=7200)
    async with Orchestrator(pipeline):
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            for n in range(EVENTS):
                source.on_next({"id": n})
                if n % together == together - 1:
                    await asyncio.sleep(0)  # the loop's next turn
            await asyncio.sleep(2)
        finally:
            sys.setprofile(before)
    assert len(published) == EVENTS
    # less what virtual time itself does
    mine = {name: number for name, number in calls.items() if not name.startswith("testing/")}
    listed = "\n".join(f"{number / EVENTS:6.2f} {name}" for name, number in Counter(mine).most_common())
    assert sum(mine.values()) / EVENTS <= most, listed
