"""IterableSource: chunks, waiting, errors."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from reactivex import operators as ops

from rxcompact.errors import LoopError
from rxcompact.sources import python
from rxcompact.sources.python import IterableSource

ChunksOf = Callable[[int], None]


@pytest.fixture
def chunks_of(monkeypatch: pytest.MonkeyPatch) -> ChunksOf:
    """Returns what has so many events pulled at once."""
    return partial(monkeypatch.setattr, python, "CHUNK")


def test_chunks_outside_a_loop(chunks_of: ChunksOf) -> None:
    chunks_of(2)
    assert IterableSource(range(5)).stream().pipe(ops.to_list()).run() == [[0, 1], [2, 3], [4]]
    assert IterableSource([]).stream().pipe(ops.to_list()).run() == []


def test_each_subscription_iterates_anew() -> None:
    source = IterableSource([1, 2])
    for _ in range(2):
        assert source.stream().pipe(ops.to_list()).run() == [[1, 2]]


async def gathered(source: IterableSource) -> list[list[Any]]:
    found: list[list[Any]] = await source.stream().pipe(ops.to_list())
    return found


def test_chunks_in_a_loop_that_goes_on_between_them(chunks_of: ChunksOf) -> None:
    chunks_of(10)

    async def run() -> None:
        task = asyncio.ensure_future(gathered(IterableSource(range(1000))))
        turns = 0
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        assert [event for chunk in task.result() for event in chunk] == list(range(1000))
        assert turns >= 100

    asyncio.run(run())


async def test_what_is_left_is_closed_with_the_subscription_and_not_when_it_is_collected() -> None:
    async def endless() -> AsyncIterator[int]:
        while True:
            await asyncio.sleep(1)
            yield 1

    class NoCapacity:
        def capacity(self) -> int:
            return 1

        async def wait(self) -> int:
            if asyncio.get_running_loop().time() > 0.5:
                await asyncio.sleep(1000)
            return 1

    collected: list[Any] = []
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(hooks.firstiter, collected.append)
    source = IterableSource(endless())
    subscription = source.stream(NoCapacity()).subscribe()
    await asyncio.sleep(5.5)
    subscription.dispose()
    await source.aclose()
    await asyncio.sleep(0)
    gc.collect()
    sys.set_asyncgen_hooks(*hooks)
    assert collected == []


def test_an_endless_iterable_is_pulled_no_further_than_wanted(chunks_of: ChunksOf) -> None:
    chunks_of(3)
    pulled: list[int] = []

    def endless() -> Iterator[int]:
        for number in range(10**9):
            pulled.append(number)
            yield number

    assert IterableSource(endless()).stream().pipe(ops.take(2), ops.to_list()).run() == [
        [0, 1, 2],
        [3, 4, 5],
    ]
    assert len(pulled) == 6


def test_what_an_async_iterable_gives_is_passed_on_as_it_comes() -> None:
    async def run() -> None:
        given: asyncio.Queue[int] = asyncio.Queue()

        async def events() -> AsyncIterator[int]:
            while (event := await given.get()) >= 0:
                yield event

        chunks: list[list[int]] = []
        ended = asyncio.Event()
        IterableSource(events()).stream().subscribe(chunks.append, on_completed=ended.set)
        for number in range(3):
            given.put_nowait(number)
            for _ in range(10):
                await asyncio.sleep(0)
            assert chunks[-1] == [number]  # without waiting for the next
        given.put_nowait(-1)
        async with asyncio.timeout(60):
            await ended.wait()
        assert chunks == [[0], [1], [2]]

    asyncio.run(run())


def test_an_async_iterable_needs_a_loop() -> None:
    async def events() -> AsyncIterator[int]:
        yield 1

    errors: list[Exception] = []
    IterableSource(events()).stream().subscribe(lambda _: None, errors.append)
    assert isinstance(errors[0], LoopError)
    assert "loop" in str(errors[0])


@pytest.mark.parametrize("in_loop", [False, True])
def test_an_error_comes_after_what_came_before(in_loop: bool, chunks_of: ChunksOf) -> None:
    chunks_of(1)

    def events() -> Iterator[int]:
        yield from (1, 2)
        raise ZeroDivisionError

    emitted: list[object] = []

    async def run() -> None:
        ended = asyncio.Event()

        def fail(error: Exception) -> None:
            emitted.append(error)
            ended.set()

        IterableSource(events()).stream().subscribe(emitted.extend, fail)
        await ended.wait()

    if in_loop:
        asyncio.run(run())
    else:
        IterableSource(events()).stream().subscribe(emitted.extend, emitted.append)
    assert emitted[:2] == [1, 2]
    assert isinstance(emitted[2], ZeroDivisionError)
    assert len(emitted) == 3


def test_after_disposal_an_async_iterable_goes_on_with_the_next_subscription_until_closed() -> None:
    async def run() -> None:
        given: asyncio.Queue[int] = asyncio.Queue()
        closed: list[bool] = []

        async def events() -> AsyncIterator[int]:
            try:
                while True:
                    yield await given.get()
            finally:
                closed.append(True)

        async def turns() -> None:
            for _ in range(10):
                await asyncio.sleep(0)

        source = IterableSource(events())
        first: list[list[int]] = []
        second: list[list[int]] = []
        subscription = source.stream().subscribe(first.append)
        given.put_nowait(1)
        await turns()
        subscription.dispose()
        given.put_nowait(2)
        await turns()
        assert not closed
        subscription = source.stream().subscribe(second.append)
        await turns()
        given.put_nowait(3)
        await turns()
        assert (first, second) == ([[1]], [[2], [3]])
        subscription.dispose()
        await source.aclose()
        await turns()
        assert closed == [True]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
