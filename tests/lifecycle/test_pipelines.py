"""What a pipeline is made of."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import reactivex as rx
from orchestrators import events, orchestrated
from pipelines import simple_pipeline

from rxcompact.errors import ArgumentError


async def test_iterables_generators_observables_functions_and_observers_are_sources_and_sinks() -> None:
    async def generator() -> AsyncIterator[Any]:
        for event in events("a", "b"):
            yield event

    seen: list[Any] = []
    subject: rx.Subject[Any] = rx.Subject()
    subject.subscribe(lambda compacted: seen.append(compacted.key))

    async def coroutine(batch: Any) -> None:
        seen.extend(c.key for c in batch)

    sources = (events("a", "b"), iter(events("a", "b")), generator(), rx.from_iterable(events("a", "b")))
    for source, sink in itertools.product(
        sources[:1], (subject, coroutine, lambda batch: seen.extend(c.key for c in batch))
    ):
        seen.clear()
        orchestrator, _ = orchestrated(source, sink)
        await orchestrator.start()
        await orchestrator.wait()
        assert seen == ["a", "b"]
    for source in sources[1:]:
        orchestrator, out = orchestrated(source)
        await orchestrator.start()
        await orchestrator.wait()
        assert [c.key for c in out] == ["a", "b"]


BEST: dict[str, Any] = {
    "source": [], "sink": print, "key_mapper": "id", "timespan": 10, "max_age": 60, "enricher": dict,
}  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("sink", None),
        ("sink", "http://store"),
        ("enricher", 5),
        ("overflow", "bogus"),
        ("timespan", -1),
        ("count", 0),
        ("lateness", 5),
        ("keep", "lst"),
        ("max_concurrent", 0),
        ("timeout", -1),
        ("batch_count", 0),
        ("batch_timespan", -2),
    ],
)
def test_an_option_out_of_range_is_an_argument_error(argument: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match="must be") as raised:
        simple_pipeline(**BEST | {argument: value})
    assert repr(value) in str(raised.value) or argument == "lateness"
