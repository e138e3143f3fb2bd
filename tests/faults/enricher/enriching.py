"""A pipeline whose API is a scripted peer, and the outcome of its events."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from pipelines import simple_pipeline

from rxcompact import HttpEnricher, Orchestrator
from rxcompact.events import Compacted, DeadLetter
from rxcompact.signals import Account

ENRICHED = [{"id": 0, "enrichment": {}}]
"""One event with an empty object added."""


class Came(NamedTuple):
    """The outcome of a run."""

    out: list[Compacted]
    letters: list[DeadLetter]
    account: Account

    @property
    def events(self) -> list[Any]:
        return [compacted.event for compacted in self.out]

    @property
    def ends(self) -> list[tuple[str, str, str]]:
        return [(letter.outcome, letter.stage, letter.reason) for letter in self.letters]

    @property
    def error(self) -> BaseException | None:
        """The last error of the only dead letter."""
        [letter] = self.letters
        return letter.error.__cause__ if letter.outcome == "expired" and letter.error else letter.error


async def enriched(url: str, *, count: int = 1, http: dict[str, Any] | None = None, **options: Any) -> Came:
    """Enrich some events from an API; by default with a retry every 10 ms."""
    out: list[Compacted] = []
    letters: list[DeadLetter] = []
    settings: dict[str, Any] = {
        "source": [{"id": n} for n in range(count)], "key_mapper": "id", "timespan": 0.01, "batch_timespan": 0.01,
        "enricher": HttpEnricher(url + "/{id}", **(http or {})), "sink": out.extend,
        "max_age": 20, "wait": lambda _: 0.01,
    }  # fmt: skip
    orchestrator = Orchestrator(simple_pipeline(**(settings | options)))
    orchestrator.dead_letters.subscribe(letters.append)
    async with asyncio.timeout(60):
        await orchestrator.start()
        account = (await orchestrator.wait()).account
    assert account.in_flight == 0
    assert account.received == account.distinct == account.published + len(letters) == count
    return Came(out, letters, account)
