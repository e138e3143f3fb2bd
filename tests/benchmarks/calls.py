"""Row 6: enrichment, so many calls of 5 ms, 100 at a time; and answers that need no call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import copy_context
from functools import cache, partial
from heapq import heapify, heappop, heappush
from importlib.util import find_spec
from operator import itemgetter
from typing import Any

import reactivex as rx
from measuring import Case, Close, Group, Target
from msgspec.structs import replace
from reactivex import operators as ops
from reactivex.scheduler.eventloop import AsyncIOScheduler
from tenacity import wait_random

from rxcompact import operators as rxo
from rxcompact.errors import TransientError
from rxcompact.events import Bounds, Compacted, Window

TOOK = 0.005
AT_ONCE = 100
Lookup = Callable[[int], Awaitable[int]]


async def lookup(n: int) -> int:
    await asyncio.sleep(TOOK)
    return n + 1


def flaky() -> Lookup:
    """Fails the first time, one in a hundred."""
    failed: set[int] = set()

    async def look(n: int) -> int:
        await asyncio.sleep(TOOK)
        if n % 100 == 50 and n not in failed:
            failed.add(n)
            raise TransientError("try again")
        return n + 1

    return look


class Beside:
    """An enricher of which another service failed: there is a circuit breaker then."""

    failed = False

    def target(self, n: int) -> str:
        return "this" if n else "another"

    async def enrich(self, n: int) -> int:
        await asyncio.sleep(TOOK)
        if n == 0 and not self.failed:
            self.failed = True
            raise TransientError("try again")
        return n + 1


async def workers(calls: int, look: Lookup, done: Callable[[int], object]) -> None:
    """A hand-written pool: long-lived workers that share an iterator."""
    waiting = iter(range(calls))

    async def work() -> None:
        for n in waiting:
            done(await look(n))

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


async def workers_in_time(calls: int, look: Lookup, done: Callable[[int], object]) -> None:
    """The same, with the limit on the time of a call that ours has too."""

    async def limited(n: int) -> int:
        async with asyncio.timeout(10.0):
            return await look(n)

    await workers(calls, limited, done)


async def tasks(window: Window, look: Lookup, done: Callable[[Compacted], object]) -> None:
    """The least that keeps what `enrich` promises of a call that succeeds.

    A task in a context of its own, which no other call's cancellation or variables reach; the earliest deadline first;
    a limit on its time, no later than the deadline, by the event's birth; an end for each, whatever the call raises.
    """
    loop, context, left = asyncio.get_running_loop(), copy_context(), len(window)
    ended = loop.create_future()
    age = 600.0 + loop.time() - time.time()
    waiting = [(each.first_seen + age, n, each) for n, each in enumerate(window)]
    heapify(waiting)

    async def call(deadline: float, _: int, compacted: Compacted) -> None:
        nonlocal left
        try:
            async with asyncio.timeout_at(min(deadline, loop.time() + 10.0)):
                result = await look(compacted.event)
        except BaseException as error:  # of whatever kind: this event alone has failed
            ended.set_exception(error)
        else:
            done(compacted.replace(event=result))
        finally:
            left -= 1
            start()

    def start() -> None:
        if waiting:
            loop.create_task(call(*heappop(waiting)), context=context.copy())
        elif not left:
            ended.set_result(None)

    for _ in range(AT_ONCE):
        start()
    await ended


async def with_promises(calls: int, look: Lookup, done: Callable[[int], object]) -> None:
    await tasks(window_of(range(calls)), look, lambda compacted: done(compacted.event))


def joined(look: Lookup) -> Callable[[rx.Observable[Window]], rx.Observable[Compacted]]:
    """The least that keeps what `enrich` promises of a call that several events wait for.

    They wait by deadline, each compared with the one that is asked for, and leave in the order in which they came.
    """

    def subscribe(source: rx.Observable[Window], observer: Any, scheduler: Any = None) -> Any:
        loop = asyncio.get_running_loop()
        age = 600.0 + loop.time() - time.time()
        under_way: dict[Any, list[tuple[float, int, Compacted]]] = {}
        tasks: set[asyncio.Task[None]] = set()
        number, is_over = 0, False

        async def call(key: Any) -> None:
            result = await look(under_way[key][0][2].event)
            for _, _, each in sorted(under_way.pop(key), key=itemgetter(1)):
                observer.on_next(replace(each, event=result))
            if is_over and not under_way:
                observer.on_completed()

        def take(window: Window) -> None:
            nonlocal number
            now = loop.time()
            for compacted in window:
                deadline = compacted.first_seen + age
                number += 1
                others = under_way.setdefault(compacted.key, [])
                if deadline <= now or (others and others[0][2].event != compacted.event):
                    observer.on_error(AssertionError("all are equal, and young"))
                heappush(others, (deadline, number, compacted))
                if len(others) == 1:
                    tasks.add(task := loop.create_task(call(compacted.key)))
                    task.add_done_callback(tasks.discard)

        def end() -> None:
            nonlocal is_over
            is_over = True

        return source.subscribe(take, observer.on_error, end, scheduler=scheduler)

    return lambda source: rx.Observable(partial(subscribe, source))


async def gathered(calls: int, look: Lookup, done: Callable[[int], object]) -> None:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> None:
        async with limit:
            done(await look(n))

    await asyncio.gather(*map(one, range(calls)))


def window_of(events: Sequence[Any]) -> Window:
    """A window of these, each its own key, born now."""
    now = time.time()
    items = tuple(Compacted(n, event, 1, now, now) for n, event in enumerate(events))
    return Window(Bounds(now, now, "time"), len(events), items)


async def enriched(calls: int, look: Lookup, done: Callable[[int], object], **options: Any) -> None:
    await completed(
        rx.just(window_of(range(calls))).pipe(rxo.enrich(look, max_age=600.0, max_concurrent=AT_ONCE, **options)),
        lambda compacted: done(compacted.event),
    )


# the default waits are of up to a second, which is as long as all the calls take
again_soon = partial(enriched, wait=wait_random(0, 2 * TOOK))

# its second attempt is when most are done
beside = partial(enriched, wait=0.5)


async def rxpy_merge(calls: int, look: Lookup, done: Callable[[int], object]) -> None:
    def one(n: int) -> Any:
        return rx.defer(lambda _: rx.from_future(asyncio.ensure_future(look(n))))

    await completed(rx.from_iterable(range(calls)).pipe(ops.map(one), ops.merge(max_concurrent=AT_ONCE)), done)


async def streamable(calls: int, look: Lookup, done: Callable[[int], object]) -> None:
    from streamable import stream

    async for found in stream(range(calls)).map(look, concurrency=AT_ONCE, as_completed=True):
        done(found)


async def aiostream(calls: int, look: Lookup, done: Callable[[int], object]) -> None:
    from aiostream import pipe, stream

    async with (stream.range(calls) | pipe.map(look, ordered=False, task_limit=AT_ONCE)).stream() as streamer:
        async for found in streamer:
            done(found)


async def completed(observable: rx.Observable[Any], done: Callable[[Any], object]) -> None:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    observable.subscribe(
        done,
        ended.set_exception,
        lambda: ended.set_result(None),
        scheduler=AsyncIOScheduler(asyncio.get_running_loop()),
    )
    await ended


def run(
    close: Close,
    how: Callable[..., Awaitable[None]],
    calls: int,
    look: Callable[[], Lookup] = lambda: lookup,
    total: int | None = None,
) -> int:
    results: list[int] = []

    async def main() -> None:
        await how(calls, look(), results.append)

    asyncio.run(main())
    if sum(results) != (total or calls * (calls + 1) // 2):
        raise AssertionError(f"{how}: {len(results)} results, wrong ones")
    return len(results)


def enrichment(calls: int, *, slow: bool) -> Group:
    """Row 6; ``slow`` has the peers too."""
    ours, some, pool = "enrich, retry armed", "enrich, 1 % of first attempts fail, waits to 10 ms", "workers by hand"
    in_time = "workers by hand, asyncio.timeout"
    least = "tasks by hand, with the promises"
    breaker, rate = "enrich, another service failed of late", "enrich, rate=1e6"
    cases = [
        Case(pool, partial(run, how=workers, calls=calls), calls),
        Case(in_time, partial(run, how=workers_in_time, calls=calls), calls),
        Case(least, partial(run, how=with_promises, calls=calls), calls),
        Case(ours, partial(run, how=enriched, calls=calls), calls),
        Case(some, partial(run, how=again_soon, calls=calls, look=flaky), calls),
        Case(
            "enrich, 1 % of first attempts fail, default waits",
            partial(run, how=enriched, calls=calls, look=flaky),
            calls,
        ),
        Case(breaker, partial(run, how=beside, calls=calls, look=Beside), calls),
        Case(rate, partial(run, how=partial(enriched, rate=1e6), calls=calls), calls),
        Case("enrich, no time limit", partial(run, how=partial(enriched, timeout=None), calls=calls), calls),
    ]
    if slow:
        others: Iterable[tuple[str, str, Any, int]] = (
            ("asyncio", "asyncio semaphore and gather", gathered, 1),
            ("streamable", "streamable map", streamable, 2),
            ("reactivex", "RxPY merge(max_concurrent)", rxpy_merge, 10),
            ("aiostream", "aiostream map", aiostream, 20),
        )
        for module, name, how, part in others:
            if find_spec(module) is not None:
                cases.append(Case(name, partial(run, how=how, calls=calls // part), calls // part))
    targets = [
        Target("6", ours, in_time, 1.5),
        Target("6", ours, least, 1.15),
        Target("6", ours, ours, 1.4, of="ideal wall"),
        Target("6", some, ours, 1.15),
        Target("6", some, ours, 1.15, of="wall"),
        Target("6", breaker, ours, 1.15),
        Target("6", rate, ours, 1.1),
    ]
    # seconds a call, if 100 were always under way
    return Group("enrich, calls of 5 ms", cases, targets, ideal=TOOK / AT_ONCE)


def answers(events: int) -> Group:
    """Row 6: an answer of the cache, and one of a call under way for the same key."""

    async def unexpected(_: int) -> int:
        raise AssertionError("it is in the cache")

    @cache
    def windows(keys: int) -> list[Window]:
        now = time.time()
        return [
            Window(Bounds(now, now, "time"), keys, tuple(Compacted(key, 0, 1, now, now) for key in range(keys)))
            for _ in range(events // keys)
        ]

    async def shared(_: int, __: Lookup, done: Callable[[int], object], operator: Any, keys: int) -> None:
        stream = rx.from_iterable(windows(keys))
        await completed(stream.pipe(operator(lookup)), lambda compacted: done(compacted.event))

    cached = partial(enriched, cache={n: n + 1 for n in range(events)})
    of_cache, least = "answers of the cache", "by hand, with the promises"
    cases = [Case(of_cache, partial(run, how=cached, calls=events, look=lambda: unexpected), events)]
    targets = [Target("6", of_cache, of_cache, 1.0, of="ideal cpu")]
    for keys, size in ((100, "windows of 100"), (1, "an event a window")):
        windows(keys)  # which lie ready
        name, by_hand = f"answers of calls under way, {size}", f"answers of calls {least}, {size}"
        for each, operator in ((name, partial(rxo.enrich, max_age=600.0)), (by_hand, joined)):
            how = partial(shared, operator=operator, keys=keys)
            cases.append(Case(each, partial(run, how=how, calls=events, total=events), events))
        targets += [Target("6", name, name, 1.0, of="ideal cpu"), Target("6", name, by_hand, 1.15)]
    return Group("answers without a call", cases, targets, ideal=3e-6)
