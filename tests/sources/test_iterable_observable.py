"""IterableSource and ObservableSource under demand, take, disposal and threads that nothing puts in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from reactivex import operators as ops
from reactivex.disposable import Disposable
from reactivex.subject import Subject

from rxcompact.errors import LoopError
from rxcompact.signals import Account
from rxcompact.sources import python
from rxcompact.sources.python import IterableSource, ObservableSource


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Limited:
    """Room for so many, each taking it until it is let go."""

    refused = 0

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held: list[Any] = []
        self.taken: list[Any] = []
        self.chunks: list[int] = []
        self.waiters: list[asyncio.Future[None]] = []

    def capacity(self) -> int:
        return self.limit - len(self.held)

    def accepts(self, chunk: Any) -> bool:
        return len(chunk) <= self.capacity()

    async def wait(self) -> int:
        while not self.capacity():
            self.waiters.append(asyncio.get_running_loop().create_future())
            await self.waiters[-1]
        return self.capacity()

    def account(self) -> Account:
        return Account()

    def take(self, chunk: list[Any]) -> None:
        assert 0 < len(chunk) <= self.capacity()
        self.chunks.append(len(chunk))
        self.held += chunk
        self.taken += chunk

    def let_go(self, number: int) -> None:
        del self.held[:number]
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():  # cancelled, when who waited has gone
                waiter.set_result(None)


def noting(pulled: list[int], end: int | None = None) -> Iterator[int]:
    for number in count() if end is None else range(end):
        pulled.append(number)
        yield number


async def noting_async(pulled: list[int], end: int | None = None) -> AsyncIterator[int]:
    for number in noting(pulled, end):
        yield number


EITHER = pytest.mark.parametrize("events", [noting, noting_async])


# ── IterableSource ────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    limit=st.integers(1, 7),
    chunk_size=st.integers(1, 9),
    total=st.integers(0, 40),
    steps=st.lists(st.integers(1, 7), min_size=1),
    events=st.sampled_from([noting, noting_async]),
)
def test_never_more_is_pushed_than_there_is_room_for_and_nothing_is_lost(
    limit: int, chunk_size: int, total: int, steps: list[int], events: Callable[..., Any]
) -> None:
    async def run(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(python, "CHUNK", chunk_size)
        demand, pulled, ended = Limited(limit), list[int](), asyncio.Event()
        source = IterableSource(events(pulled, total))
        source.stream(demand).subscribe(demand.take, on_completed=ended.set)
        for turn in range(10 * total + 10):
            await turns(200)
            assert len(pulled) == len(demand.taken)  # what is pulled and not pushed would be lost on disposal
            if ended.is_set():
                break
            demand.let_go(steps[turn % len(steps)])
        assert ended.is_set()
        assert demand.taken == list(range(total))
        assert not demand.chunks or max(demand.chunks) <= chunk_size

    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(run(patch))


@EITHER
def test_without_room_nothing_is_pulled(events: Callable[..., Any]) -> None:
    async def run() -> None:
        demand, pulled = Limited(2), list[int]()
        demand.held += ["x", "y"]
        subscription = IterableSource(events(pulled)).stream(demand).subscribe(demand.take)
        await turns(30)
        assert pulled == []
        demand.let_go(1)
        await turns(30)
        assert pulled == demand.taken == [0]
        subscription.dispose()
        demand.let_go(2)
        await turns(30)
        assert pulled == demand.taken == [0]

    asyncio.run(run())


@EITHER
def test_a_take_of_some_stops_an_endless_iterable_in_a_loop(
    events: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python, "CHUNK", 3)

    async def run() -> None:
        pulled: list[int] = []
        source = IterableSource(events(pulled))
        stream = source.stream().pipe(ops.flat_map(rx.from_iterable), ops.take(5), ops.to_list())
        async with asyncio.timeout(60):
            assert await stream == [0, 1, 2, 3, 4]
        await turns(50)
        assert len(pulled) <= 6
        await source.aclose()
        await turns()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_an_iterator_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python, "CHUNK", 2)
    pulled: list[int] = []
    source = IterableSource(noting(pulled))
    for expected in ([[0, 1]], [[2, 3]]):
        assert source.stream().pipe(ops.take(1), ops.to_list()).run() == expected
    assert pulled == [0, 1, 2, 3]


def test_an_async_iterator_that_waits_for_room_goes_on_where_it_was_even_after_it_was_closed() -> None:
    async def run() -> None:
        demand, pulled = Limited(2), list[int]()
        source = IterableSource(noting_async(pulled))
        for expected in ([0, 1], [0, 1, 2, 3]):
            subscription = source.stream(demand).subscribe(demand.take)
            await turns(30)
            subscription.dispose()
            await source.aclose()
            assert demand.taken == pulled == expected
            demand.let_go(2)

    asyncio.run(run())


def test_an_error_between_two_subscriptions_goes_to_the_second() -> None:
    async def run() -> None:
        fails = asyncio.Event()

        async def events() -> AsyncIterator[int]:
            yield 1
            await fails.wait()
            raise ZeroDivisionError

        source, emitted = IterableSource(events()), list[Any]()
        subscription = source.stream().subscribe(emitted.append)
        await turns()
        subscription.dispose()
        fails.set()
        await turns()
        assert emitted == [[1]]
        source.stream().subscribe(emitted.append, emitted.append)
        await turns()
        assert isinstance(emitted[1], ZeroDivisionError)

    asyncio.run(run())


def test_what_cannot_be_iterated_is_an_error() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise ZeroDivisionError

    async def run() -> list[Any]:
        emitted: list[Any] = []
        IterableSource(Broken()).stream().subscribe(emitted.append, emitted.append)
        await turns()
        return emitted

    emitted: list[Any] = []
    IterableSource(Broken()).stream().subscribe(emitted.append, emitted.append)
    assert list(map(type, emitted)) == list(map(type, asyncio.run(run()))) == [ZeroDivisionError]


# ── ObservableSource ──────────────────────────────────────────────────────────────────────────────────────────────────


class Bench:
    """Notes chunks and ends, and asserts that nothing comes after an end or from another thread."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.events: list[Any] = []
        self.chunks = 0
        self.ends: list[Any] = []
        self.ended = asyncio.Event()

    def next(self, chunk: list[Any]) -> None:
        assert threading.get_ident() == self.thread
        assert chunk
        assert not self.ends
        self.chunks += 1
        self.events += chunk

    def end(self, error: Any = None) -> None:
        assert threading.get_ident() == self.thread
        self.ends.append(error)
        self.ended.set()

    def listen(self, events: rx.Observable[Any]) -> Any:
        return ObservableSource(events).stream().subscribe(self.next, self.end, self.end)


@pytest.mark.parametrize("locked", [True, False])
def test_four_threads_at_once_lose_nothing_and_the_error_comes_last(locked: bool) -> None:
    each, error = 10_000, ZeroDivisionError()

    async def run() -> Bench:
        bench = Bench()
        subject: Subject[Any] = Subject()
        direct: list[Any] = []

        def keep(observer: Any, _: Any = None) -> Any:
            direct.append(observer)
            return Disposable()

        bench.listen(subject if locked else rx.Observable(keep))
        target = subject if locked else direct[0]
        start = threading.Barrier(4)

        def push(thread: int) -> None:
            start.wait()
            for number in range(each):
                target.on_next((thread, number))

        threads = [threading.Thread(target=push, args=(thread,)) for thread in range(4)]

        def end() -> None:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            target.on_error(error)

        boss = threading.Thread(target=end)
        boss.start()
        async with asyncio.timeout(60):
            await bench.ended.wait()
        boss.join()
        await turns()
        return bench

    bench = asyncio.run(run())
    assert len(bench.events) == 4 * each
    for thread in range(4):
        assert [number for of, number in bench.events if of == thread] == list(range(each))
    assert bench.ends == [error]


def test_an_error_in_the_same_turn_comes_after_all_that_was_pushed() -> None:
    async def run() -> None:
        bench, events, error = Bench(), Subject[int](), ZeroDivisionError()
        bench.listen(events)
        for number in range(3):
            events.on_next(number)
        events.on_error(error)
        assert (bench.events, bench.ends) == ([], [])
        await turns()
        assert (bench.events, bench.ends, bench.chunks) == ([0, 1, 2], [error], 1)

    asyncio.run(run())


def test_what_is_pushed_while_a_chunk_is_handed_over_comes_with_the_next() -> None:
    async def run() -> None:
        events: Subject[int] = Subject()
        chunks: list[list[int]] = []

        def note(chunk: list[int]) -> None:
            chunks.append(chunk)
            if chunk[0] < 3:
                events.on_next(chunk[0] + 1)

        ObservableSource(events).stream().subscribe(note)
        events.on_next(0)
        await turns()
        assert chunks == [[0], [1], [2], [3]]

    asyncio.run(run())


def test_what_was_pushed_and_not_emitted_at_disposal_is_not_emitted() -> None:
    async def run() -> None:
        bench, events = Bench(), Subject[int]()
        subscription = bench.listen(events)
        events.on_next(1)
        subscription.dispose()
        await turns()
        assert (bench.events, bench.ends) == ([], [])
        assert not events.observers

    asyncio.run(run())


def test_two_subscriptions_do_not_share_what_waits() -> None:
    async def run() -> None:
        one, two, events = Bench(), Bench(), Subject[int]()
        one.listen(events)
        events.on_next(1)
        two.listen(events)
        events.on_next(2)
        events.on_completed()
        await turns()
        assert (one.events, two.events) == ([1, 2], [2])
        assert one.ends == two.ends == [None]

    asyncio.run(run())


def test_without_a_loop_the_observable_is_not_subscribed_to() -> None:
    subject: Subject[int] = Subject()
    with pytest.raises(LoopError):
        ObservableSource(subject).stream().subscribe(lambda _: None)
    assert not subject.observers
