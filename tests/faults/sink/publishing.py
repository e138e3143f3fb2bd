"""A pipeline whose store is a scripted peer, and the outcome of its events."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipelines import simple_pipeline

from rxcompact import HttpSink, Orchestrator
from rxcompact.events import DeadLetter
from rxcompact.signals import Account

_key = re.compile(rb"(?i)idempotency-key: (\w+)")


class Came(NamedTuple):
    """The outcome of a run."""

    letters: list[DeadLetter]
    account: Account

    @property
    def ends(self) -> dict[Any, tuple[str, str]]:
        """The outcomes and reasons of the dead letters, by key."""
        return {letter.event.key: (letter.outcome, letter.reason) for letter in self.letters}

    @property
    def causes(self) -> set[str]:
        """The names of the last errors of the events that expired."""
        return {type(letter.error.__cause__).__name__ for letter in self.letters if letter.error is not None}


def keys_in(request: bytes) -> list[Any]:
    """The keys of the events in a post."""
    return [json.loads(line)["key"] for line in request.partition(b"\r\n\r\n")[2].splitlines()]


def idempotency_key(request: bytes) -> bytes:
    found = _key.search(request)
    assert found is not None
    return found[1]


async def published(
    url: str,
    *,
    count: int = 3,
    http: dict[str, Any] | None = None,
    observers: Sequence[Any] = (),
    **options: Any,
) -> Came:
    """Publish some events to a store in one batch; by default with a retry every 10 ms."""
    letters: list[DeadLetter] = []
    settings: dict[str, Any] = {
        "source": [{"id": n} for n in range(count)], "key_mapper": "id", "timespan": 0.01, "batch_timespan": 0.01,
        "sink": HttpSink(url + "/", **(http or {})), "max_age": 20, "wait": lambda _: 0.01,
    }  # fmt: skip
    orchestrator = Orchestrator(simple_pipeline(**(settings | options)), report=False)
    orchestrator.dead_letters.subscribe(letters.append)
    for observer in observers:
        orchestrator.attach(observer)
    async with asyncio.timeout(60):
        await orchestrator.start()
        account = (await orchestrator.wait()).account
    assert account.in_flight == 0
    assert account.received == account.distinct == account.published + len(letters) == count
    return Came(letters, account)
