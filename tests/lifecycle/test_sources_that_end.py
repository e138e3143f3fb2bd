"""Sources that fail and cannot begin anew; pipelines and orchestrators that are put together wrongly."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import reactivex as rx
import reactivex.operators

from rxcompact import DeadLetter, Orchestrator, Pipeline, PushSource
from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError, InUseError, LoopError, TransientError
from rxcompact.signals import SourceFailed


def ignore(_: Any) -> None:
    pass


def described(source: Any, sink: Any, *, timespan: float = 1.0, max_age: float = 60.0, **options: Any) -> Pipeline:
    compact = rxo.compact(timespan, key_mapper="id")
    return Pipeline(source, compact, rxo.publish(sink, timespan=0), max_age=max_age, **options)


def three_then_error() -> Iterator[dict[str, int]]:
    yield from ({"id": number} for number in range(3))
    raise OSError("disk gone")


async def three_then_error_async() -> AsyncIterator[dict[str, int]]:
    for number in range(3):
        yield {"id": number}
    raise OSError("disk gone")


@pytest.mark.parametrize("make", [three_then_error, three_then_error_async])
async def test_l5_a_generator_that_raises_fails_the_run_and_loses_nothing_it_gave(make: Any) -> None:
    out: list[Any] = []
    orchestrator = Orchestrator(described(make(), out.extend))
    failures: list[SourceFailed] = []
    orchestrator.signals.subscribe(lambda each: failures.append(each) if isinstance(each, SourceFailed) else None)
    await orchestrator.start()
    with pytest.raises(OSError, match="disk gone"):
        await orchestrator.wait()
    assert orchestrator.state == "failed"
    assert sorted(compacted.key for compacted in out) == [0, 1, 2]
    assert [(failure.failures, failure.wait) for failure in failures] == [(1, None)]


@pytest.mark.parametrize("function", [three_then_error, three_then_error_async])
async def test_l5_a_generator_function_is_called_again_and_given_up_after_max_failures(function: Any) -> None:
    out: list[Any] = []
    orchestrator = Orchestrator(described(function, out.extend), max_failures=3)
    await orchestrator.start()
    with pytest.raises(OSError, match="disk gone"):
        await orchestrator.wait()
    assert orchestrator.account.received == 9  # three calls
    assert orchestrator.account.published == len(out)


async def test_failures_are_forgotten_once_the_source_was_healthy() -> None:
    calls = 0

    async def flaky() -> AsyncIterator[Any]:
        nonlocal calls
        calls += 1
        yield {"id": calls}
        await asyncio.sleep(100)  # longer than a minute
        if calls < 6:
            raise OSError

    orchestrator = Orchestrator(described(flaky, ignore), max_failures=2)
    await orchestrator.start()
    assert (await orchestrator.wait()).account.received == 6


async def test_a_function_that_gives_no_iterable_fails_with_its_type() -> None:
    orchestrator = Orchestrator(described(lambda: 5, ignore), max_failures=1)
    await orchestrator.start()
    with pytest.raises(TypeError, match="gave int, not an iterable"):
        await orchestrator.wait()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("events.ndjson", "NdjsonSource"),
        (b"{}", "NdjsonSource"),
        (5, "iterable"),
        (None, "iterable"),
        (asyncio.sleep, "iterable"),
    ],
)
def test_l23_what_is_no_source_is_refused_with_the_way_out(source: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        described(source, ignore)


def test_l23_an_orchestrator_of_something_else_is_refused() -> None:
    with pytest.raises(ArgumentError, match="pipeline must be a Pipeline"):
        Orchestrator([1])  # type: ignore[arg-type]


async def test_l10_a_second_orchestrator_on_a_source_that_runs_is_refused() -> None:
    pipeline = described(rx.Subject(), ignore)
    first, second = Orchestrator(pipeline), Orchestrator(pipeline)
    async with first:
        with pytest.raises(InUseError, match="another orchestrator runs its source"):
            await second.start()
    async with second:
        assert second.state == "running"


async def test_l10_two_pipelines_on_one_subject_are_independent() -> None:
    subject: rx.Subject[Any] = rx.Subject()
    outs: list[list[Any]] = [[], []]
    first, second = (Orchestrator(described(subject, out.extend)) for out in outs)
    async with first:
        async with second:
            subject.on_next({"id": 1})
        subject.on_next({"id": 2})
    assert [[compacted.key for compacted in out] for out in outs] == [[1, 2], [1]]


@pytest.mark.parametrize("call", ["start", "restart"])
@pytest.mark.parametrize("state", ["running", "draining", "stopped", "failed", "deleted"])
async def test_l10_a_source_may_be_run_by_another_once_the_first_has_ended(state: str, call: str) -> None:
    pipeline = described(PushSource(), lambda _: asyncio.sleep(5), overflow="error", max_in_flight=1)
    first: Any = Orchestrator(pipeline)
    second = Orchestrator(pipeline)
    if state == "deleted":
        del first
        first = Orchestrator(described([], ignore))
    await first.start()
    if state != "deleted":
        first._run.push([{"id": 1}])
    if state == "failed":
        first._run.push([{"id": 2}])
        await asyncio.sleep(30)
        assert first.state == "failed"
    stopping = asyncio.ensure_future(first.stop() if state != "running" else asyncio.sleep(0))
    await asyncio.sleep(60 if state == "stopped" else 0)
    if state in ("running", "draining"):
        with pytest.raises(InUseError, match="another orchestrator runs its source"):
            await getattr(second, call)()
    else:
        await getattr(second, call)()
        assert second.state == "running"
    await asyncio.gather(stopping, first.stop(), second.stop())


@pytest.mark.parametrize("value", [1e3, float("nan"), True, "3", 0, None])
def test_l11_a_count_that_is_none_is_refused_at_construction(value: Any) -> None:
    with pytest.raises(ArgumentError, match="max_in_flight must be a whole number, at least 1"):
        described([], ignore, max_in_flight=value)
    with pytest.raises(ArgumentError, match="max_concurrent"):
        rxo.enrich(dict, max_concurrent=value)


@pytest.mark.parametrize("value", [float("nan"), True, "3", -1, 0, None])
def test_l11_a_duration_that_is_none_is_refused_at_construction(value: Any) -> None:
    with pytest.raises(ArgumentError, match="timespan must be a duration"):
        rxo.compact(value, key_mapper="id")


def test_l21_windows_longer_than_events_may_live_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"max_age must be above the timespan of compact, 2 s, got 1\.0"):
        described([], ignore, timespan=2, max_age=1)


def test_operators_that_make_no_pipeline_are_refused() -> None:
    compact, publish = rxo.compact(1, key_mapper="id"), rxo.publish(ignore)
    for operators, words in (
        ((), "compact first"),
        ((publish,), "compact first"),
        ((compact,), "publish last"),
        ((compact, rxo.enrich(dict)), "publish last"),
        ((compact, rx.operators.filter(bool), publish), "filter in the source"),
    ):
        with pytest.raises(ArgumentError, match=words):
            Pipeline([], *operators, max_age=60)
    with pytest.raises(ArgumentError, match="dead_letters of publish must be absent"):
        Pipeline([], compact, rxo.publish(ignore, dead_letters=print), max_age=60)


async def test_several_enrichers_in_a_row_have_names_and_accounts_of_their_own() -> None:
    def second(event: Any) -> Any:
        raise KeyError("no such field")

    letters: list[DeadLetter] = []
    pipeline = Pipeline(
        [{"id": 1}],
        rxo.compact(1, key_mapper="id"),
        rxo.enrich(dict),
        rxo.enrich(second),
        rxo.publish(ignore),
        max_age=60,
    )
    async with Orchestrator(pipeline) as orchestrator:
        orchestrator.dead_letters.subscribe(letters.append)
        await orchestrator.wait()
    assert list(orchestrator.stages) == ["source", "compact", "enrich", "enrich-2", "publish"]
    assert [(letter.stage, letter.reason) for letter in letters] == [("enrich-2", "KeyError")]
    assert orchestrator.stages["enrich-2"].dead_letters == 1


async def test_l24_a_push_source_answers_whether_events_were_taken() -> None:
    source, out = PushSource(), []
    assert not source.push([{"id": 0}]), "it does not run yet"
    orchestrator = Orchestrator(described(source, out.extend, max_in_flight=2, timespan=10, max_age=100))
    async with orchestrator:
        assert source.push([{"id": 1}, {"id": 2}, {"id": 1}])
        assert not source.push([{"id": 3}]), "two are held"
        assert source.push([{"id": 2}]), "a duplicate of a held key needs no capacity"
        await asyncio.sleep(20)
        assert source.push([{"id": 3}])
    assert not source.push([{"id": 4}]), "it has stopped"
    assert sorted((each.key, each.count) for each in out) == [(1, 2), (2, 2), (3, 1)]


@pytest.mark.parametrize(
    ("pushed", "taken", "received"),
    [([], True, 0), (({"id": n} for n in range(2)), True, 2), ([{"id": n} for n in range(3)], False, 0),
     ([{"id": 1}] * 5, True, 5), ([{"other": 1}, {"id": 1}], True, 2)],
    ids=["nothing", "a generator", "too many keys", "duplicates", "one without a key"],
)  # fmt: skip
async def test_l24_a_push_is_taken_whole_or_not_at_all(pushed: Any, taken: bool, received: int) -> None:
    source = PushSource()
    async with Orchestrator(described(source, ignore, max_in_flight=2, timespan=10, max_age=100)) as orchestrator:
        assert source.push(pushed) is taken
        assert orchestrator.account.received == received
        await orchestrator.restart()
        assert source.push([{"id": 1}])


def test_l24_a_push_from_another_thread_is_an_error() -> None:
    async def main() -> None:
        source = PushSource()
        async with Orchestrator(described(source, ignore)):
            with pytest.raises(LoopError, match="call_soon_threadsafe"):
                await asyncio.to_thread(source.push, [{"id": 1}])

    asyncio.run(main())


CLOSED = ["running", "draining", "draining, and a start waits", "waited for", "with signal handlers"]


def in_a_closed_loop(how: str) -> tuple[Orchestrator, rx.Subject[Any]]:
    subject: rx.Subject[Any] = rx.Subject()
    orchestrator = Orchestrator(described(subject, lambda _: None, timespan=50))

    async def main() -> None:
        await orchestrator.start()
        subject.on_next({"id": 0})
        if how.startswith("draining"):
            calls.append(asyncio.ensure_future(orchestrator.stop(50)))
            await asyncio.sleep(0)
        if "start" in how:
            calls.append(asyncio.ensure_future(orchestrator.start()))
        if how == "waited for":
            calls.append(asyncio.ensure_future(orchestrator.wait()))
        if how == "with signal handlers":
            orchestrator.stop_on(signal.SIGUSR1)
        await asyncio.sleep(0)

    calls: list[asyncio.Future[Any]] = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(main())
    for call in calls:
        call.cancel()
    loop.close()
    return orchestrator, subject


@pytest.mark.filterwarnings("ignore:coroutine", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("then", ["start", "restart", "stop", "wait"])
@pytest.mark.parametrize("how", CLOSED)
def test_l19_an_orchestrator_whose_loop_was_closed_works_in_another(how: str, then: str) -> None:
    before = signal.getsignal(signal.SIGUSR1)

    async def main(orchestrator: Orchestrator, subject: rx.Subject[Any]) -> str:
        report = await asyncio.wait_for(getattr(orchestrator, then)(), 10)
        assert report is None or (report.account.in_flight, report.in_time) == (1, False)
        await orchestrator.start()
        subject.on_next({"id": 1})
        assert (await orchestrator.stop()).account.published == 1
        return orchestrator.state

    assert asyncio.run(main(*in_a_closed_loop(how))) == "stopped"
    assert signal.getsignal(signal.SIGUSR1) is before
    gc.collect()  # what the closed loop left


async def test_l19_calls_from_another_loop_while_it_runs_are_errors() -> None:
    orchestrator = Orchestrator(described(rx.Subject(), lambda _: None))

    def elsewhere(call: str) -> None:
        with pytest.raises(LoopError, match="it runs on another loop"):
            asyncio.run(getattr(orchestrator, call)())

    async with orchestrator:
        for call in ("start", "stop", "restart", "wait"):
            await asyncio.to_thread(elsewhere, call)
        assert orchestrator.state == "running"


BEFORE: list[Any] = [signal.SIG_DFL, signal.SIG_IGN, lambda *_: None]


@pytest.mark.parametrize("first", [0, 1], ids=["first in, first out", "first in, last out"])
@pytest.mark.parametrize("before", BEFORE, ids=["default", "ignored", "a function"])
def test_l20_the_last_handler_to_go_puts_back_what_was_there(before: Any, first: int) -> None:
    async def main() -> None:
        both = [Orchestrator(described(rx.Subject(), ignore)) for _ in range(2)]
        for orchestrator in both:
            orchestrator.stop_on(signal.SIGUSR1)
            orchestrator.stop_on(signal.SIGUSR1, signal.SIGUSR2)  # instead
            await orchestrator.start()
        await both[first].stop()
        assert signal.getsignal(signal.SIGUSR1) is not before
        signal.raise_signal(signal.SIGUSR1)
        await both[1 - first].wait()

    previous = signal.signal(signal.SIGUSR1, before)
    try:
        asyncio.run(main())
        assert signal.getsignal(signal.SIGUSR1) is before
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_l20_a_handler_of_the_loop_is_there_again_after() -> None:
    async def main() -> None:
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, came.set)
        orchestrator = Orchestrator(described(rx.Subject(), ignore))
        orchestrator.stop_on(signal.SIGUSR1)
        await orchestrator.start()
        signal.raise_signal(signal.SIGUSR1)
        await orchestrator.wait()
        came.clear()
        signal.raise_signal(signal.SIGUSR1)
        await asyncio.wait_for(came.wait(), 10)
        assert loop.remove_signal_handler(signal.SIGUSR1)

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [0, 0.3, 1, 2.5, 9])
async def test_l20_async_with_in_a_timeout_takes_no_longer_than_both(seconds: float) -> None:
    async def swallows(_: Any) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    loop, released = asyncio.get_running_loop(), asyncio.Event()
    began = loop.time()
    orchestrator = Orchestrator(described(rx.of({"id": 1}), swallows, max_age=1e5), deadline=seconds)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2), orchestrator:
            await asyncio.sleep(100)
    assert loop.time() - began <= 2 + seconds + 1e-6
    assert orchestrator.account.abandoned == 1
    released.set()
    await asyncio.sleep(1)


def test_l20_the_handlers_that_were_there_are_put_back() -> None:
    calls: list[str] = []

    def before(*_: Any) -> None:
        calls.append("before")

    previous = signal.signal(signal.SIGUSR1, before)
    try:

        async def main() -> None:
            orchestrator = Orchestrator(described(rx.Subject(), ignore))
            orchestrator.stop_on(signal.SIGUSR1)
            await orchestrator.start()
            signal.raise_signal(signal.SIGUSR1)
            await orchestrator.wait()

        asyncio.run(main())
        assert signal.getsignal(signal.SIGUSR1) is before
        assert calls == []
    finally:
        signal.signal(signal.SIGUSR1, previous)


async def test_l20_the_drain_of_a_with_block_has_the_orchestrators_deadline() -> None:
    async def never(_: Any) -> None:
        await asyncio.sleep(1e6)

    loop = asyncio.get_running_loop()
    async with Orchestrator(described(rx.of({"id": 1}, {"id": 2}), never, max_age=1e5), deadline=2) as orchestrator:
        await asyncio.sleep(5)
        began = loop.time()
    assert loop.time() - began <= 2
    assert orchestrator.account.abandoned == 2


async def test_dead_letters_are_data_with_their_chain_of_errors() -> None:
    async def enrich(event: Any) -> Any:
        try:
            raise ConnectionError("refused")
        except ConnectionError as cause:
            raise TransientError("cmdb is away") from cause

    letters: list[DeadLetter] = []
    pipeline = Pipeline(
        [{"id": "a"}, {"id": "a"}], rxo.compact(1, key_mapper="id"), rxo.enrich(enrich), rxo.publish(ignore), max_age=5
    )
    async with Orchestrator(pipeline) as orchestrator:
        orchestrator.dead_letters.subscribe(letters.append)
        await orchestrator.wait()
    found = letters[0].to_json()
    assert (found["dead_letter"], found["stage"], found["key"], found["count"]) == ("expired", "enrich", "a", 2)
    assert found["event"] == {"id": "a"}
    assert found["errors"][1:] == ["TransientError: cmdb is away", "ConnectionError: refused"]
