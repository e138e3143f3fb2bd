"""What a pipeline is made of."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import reactivex as rx
from orchestrators import ManualSource, events, orchestrated
from pipelines import simple_pipeline
from reactivex import operators as ops

from rxcompact import Account, Bounds, Compacted, Orchestrator, Pipeline, Window
from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError

BOUNDS = Bounds(0.0, 1.0, "time")


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


async def test_the_windows_of_other_operators_are_accounted_for_as_those_of_compact() -> None:
    def windows(chunks: rx.Observable[list[Any]]) -> rx.Observable[Window]:
        return chunks.pipe(ops.map(lambda chunk: Window(BOUNDS, len(chunk), distinct(chunk))))

    def distinct(chunk: list[Any]) -> tuple[Compacted, ...]:
        counts = Counter(event["id"] for event in chunk)
        return tuple(Compacted(key, {"id": key}, count) for key, count in counts.items())

    source = ManualSource()
    publish = rxo.publish(lambda _: None, timespan=0)
    orchestrator = Orchestrator(Pipeline(source, windows, publish, max_age=60, max_in_flight=3))
    await orchestrator.start()
    accepted = [source.demand.accepts(events(*keys)) for keys in ("abc", "aaaa")]
    assert accepted == [True, False]  # nothing is known of its keys
    source.push(events("a", "b", "a"))
    await asyncio.sleep(1)
    expected = Account(received=3, duplicates=1, distinct=2, published=2)
    assert orchestrator.account == expected
    await orchestrator.stop()
    assert orchestrator.account == expected


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
