"""What a source, an observer or a wait of the caller's may raise; no source dies unnoticed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import reactivex as rx
from orchestrators import events, orchestrated
from pipelines import simple_pipeline
from reactivex.disposable import Disposable

from rxcompact import Ack, Chunk, Orchestrator, Pipeline, key_of
from rxcompact import operators as rxo
from rxcompact.signals import ObserverFailed, SourceFailed


class OddError(BaseException):
    """No Exception."""


ODD = [
    OddError("odd"),
    BaseExceptionGroup("odd", [OddError()]),
    GeneratorExit(),
    asyncio.CancelledError(),
    OSError("odd"),
]
odd = pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        raise error

    return function


class Source:
    """Emits an event with each subscription, and may fail in any of its methods."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self.methods = methods
        self.subscriptions = 0

    def stream(self, _: Any) -> Any:
        self.subscriptions += 1
        self.methods.get("stream", bool)()
        return rx.Observable(self.subscribe)

    def subscribe(self, observer: Any, _: Any = None) -> Any:
        observer.on_next([{"id": self.subscriptions}])
        self.methods.get("subscribe", bool)()
        if "on_error" in self.methods:
            observer.on_error(self.methods["on_error"]())
        return Disposable(self.methods.get("dispose", bool))

    async def aclose(self) -> None:
        self.methods.get("aclose", bool)()


@odd
@pytest.mark.parametrize("method", ["stream", "subscribe", "on_error", "generator", "async generator", "function"])
async def test_b1_whatever_ends_a_source_is_a_failure_of_the_source(method: str, error: BaseException) -> None:
    if method == "async generator" and isinstance(error, GeneratorExit):
        pytest.skip("asyncio itself takes that for a generator that is closed")

    def generator() -> Iterator[Any]:
        yield {"id": 1}
        raise error

    async def async_generator() -> AsyncIterator[Any]:
        yield {"id": 1}
        raise error

    made = {"generator": generator, "async generator": async_generator, "function": raising(error)}
    given = (lambda: error) if method == "on_error" else raising(error)
    source = made.get(method) or Source(**{method: given})
    out: list[Any] = []
    orchestrator = Orchestrator(
        simple_pipeline(source=source, key_mapper="id", timespan=10, sink=out.extend, max_age=60),
        max_failures=3,
    )
    failures: list[int] = []
    orchestrator.attach(lambda signal: failures.append(signal.failures) if isinstance(signal, SourceFailed) else None)
    await orchestrator.start()
    with pytest.raises(Exception, match="odd|the source raised"):
        await asyncio.wait_for(orchestrator.wait(), 60)
    assert failures == [1, 2, 3]
    assert orchestrator.state == "failed"
    assert sum(compacted.count for compacted in out) == orchestrator.account.received
    assert orchestrator.account.received == (0 if method in ("stream", "function") else 3)


async def test_b1_a_source_whose_task_is_cancelled_from_outside_has_failed() -> None:
    async def waiting() -> AsyncIterator[Any]:
        yield {"id": 1}
        await asyncio.sleep(20)
        yield {"id": 2}

    orchestrator, out = orchestrated(waiting)
    failures: list[Any] = []
    orchestrator.attach(lambda signal: failures.append(signal.error) if isinstance(signal, SourceFailed) else None)
    await orchestrator.start()
    await asyncio.sleep(1)
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "rxcompact source")
    task.cancel()
    await orchestrator.wait()
    assert [str(error) for error in failures] == ["the source raised CancelledError()"]
    # what the first generator was about to give is not lost, then the function is called again
    assert [compacted.key for compacted in out] == [1, 2, 1, 2]


@odd
async def test_a_source_that_fails_to_end_delays_nothing(error: BaseException) -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    orchestrator, out = orchestrated(Source(dispose=raising(error), aclose=raising(error)))
    await orchestrator.start()
    report = await orchestrator.stop(5)
    assert (report.account.published, report.in_time, len(out)) == (1, True, 1)
    closing = [] if isinstance(error, asyncio.CancelledError) else ["closing failed"]
    assert reported == [*closing, "unsubscribing from the source failed"]


@odd
async def test_an_origin_that_raises_is_none(error: BaseException) -> None:
    settled: list[str] = []
    chunk = Chunk([{}, {"id": 1}], Ack(settled.extend, "message"), origin=raising(error))
    source = rx.Subject[Any]()

    class Durable:
        def stream(self, _: Any) -> Any:
            return source

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    orchestrator, out = orchestrated(Durable(), key_mapper=key_of("id", missing="reject"))
    letters: list[Any] = []
    orchestrator.dead_letters.subscribe(letters.append)
    async with orchestrator:
        source.on_next(chunk)
        source.on_next(events(2))
    assert [(letter.outcome, letter.origin) for letter in letters] == [("rejected", None)]
    assert sorted(compacted.key for compacted in out) == [1, 2]
    assert settled == ["message"]


@odd
@pytest.mark.parametrize("observable", ["signals", "windows", "batches", "outcomes", "dead_letters", "states"])
async def test_an_observer_that_raises_anything_is_reported_and_detached(observable: str, error: BaseException) -> None:
    source = rx.Subject[Any]()
    orchestrator, out = orchestrated(source, key_mapper=key_of("id", missing="reject"), timespan=1)
    failed: list[ObserverFailed] = []
    orchestrator.attach(lambda signal: failed.append(signal) if isinstance(signal, ObserverFailed) else None)
    calls: list[Any] = []

    def observer(item: Any) -> None:
        calls.append(item)
        raise error

    getattr(orchestrator, observable).subscribe(observer)
    async with orchestrator:
        for key in range(5):
            for event in ({"id": key}, {}):
                source.on_next(event)
            await asyncio.sleep(3)
        await orchestrator.restart()
    assert (len(out), orchestrator.account.published, orchestrator.account.rejected) == (5, 5, 5)
    assert [(each.failures, each.detached) for each in failed] == [(1, False), (2, False), (3, True)]
    assert {each.error for each in failed} == {error}
    assert len(calls) == 3


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
def test_what_ends_the_program_is_not_kept_from_it(error: BaseException) -> None:
    async def main() -> None:
        source = rx.Subject[Any]()
        orchestrator, _ = orchestrated(source, timespan=0.01)
        orchestrator.windows.subscribe(raising(error))
        async with orchestrator:
            source.on_next({"id": 1})
            await asyncio.sleep(60)

    with pytest.raises(type(error)):
        asyncio.run(main())


async def test_what_was_rejected_holds_no_chunk() -> None:
    class Event(dict[str, Any]):
        __slots__ = ("__weakref__",)

    def key(event: Any) -> Any:
        return 1 / event["id"]

    source = rx.Subject[Any]()

    class Pushed:
        def stream(self, _: Any) -> Any:
            return source

    letters: list[Any] = []
    orchestrator, out = orchestrated(Pushed(), key_mapper=key)
    async with orchestrator:
        orchestrator.dead_letters.subscribe(letters.append)
        chunk = [Event(id=number % 10) for number in range(100)]
        references = [weakref.ref(event) for event in chunk]
        source.on_next(chunk)
        del chunk
    assert (len(letters), orchestrator.account.rejected) == (10, 10)
    gc.collect()
    # the letters' own, and what was published
    assert len([reference for reference in references if reference() is not None]) == 10 + len(out) == 19


class SpeechlessError(BaseException):
    """Has no message."""

    def __str__(self) -> str:
        raise ValueError("no message")

    __repr__ = __str__


class FrozenError(Exception):
    """Takes no attributes, and so no notes."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class UnequalError(Exception):
    """Cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("not comparable")

    __hash__ = None  # type: ignore[assignment]


ODDER = [GeneratorExit, SpeechlessError, FrozenError, UnequalError, lambda: ExceptionGroup("odd", [FrozenError()])]


@pytest.mark.parametrize("where", ["key", "hash", "accumulator", "enrich", "merge", "wait", "retry", "sink"])
@pytest.mark.parametrize("make", ODDER, ids=["exit", "speechless", "frozen", "unequal", "group"])
async def test_l6_an_error_whose_own_methods_raise_is_an_outcome_like_any_other(
    make: Callable[[], BaseException], where: str
) -> None:
    def odd(*_: Any) -> Any:
        raise make()

    class Key:
        __hash__ = odd

    async def enricher(event: Any) -> Any:
        if where in ("wait", "retry"):
            raise OSError("odd")
        return odd() if where == "enrich" else event

    mapper = {"key": odd, "hash": lambda _: Key(), "accumulator": lambda _: 1}.get(where, lambda event: event["id"])
    operators = (
        rxo.compact(1, key_mapper=mapper, keep=odd),
        rxo.enrich(enricher, **{where: odd} if where in ("merge", "wait", "retry") else {}),
        rxo.publish(odd if where == "sink" else lambda _: None),
    )
    orchestrator = Orchestrator(Pipeline(lambda: events(1, 2), *operators, max_age=20))
    letters: list[Any] = []
    orchestrator.dead_letters.subscribe(letters.append)
    await orchestrator.start()
    account = (await asyncio.wait_for(orchestrator.wait(), 100)).account
    lost = 1 if where == "accumulator" else 2
    assert (account.received, account.in_flight, len(letters)) == (2, 0, lost)
    assert account.published == 2 - lost
    assert all(letter.to_json()["errors"] and letter._repr_html_() for letter in letters)
    await orchestrator.stop()


@pytest.mark.parametrize("answer", [[None, ValueError], {1: ValueError}], ids=["list", "mapping"])
async def test_l15_a_class_of_exceptions_in_an_answer_is_no_success(answer: Any) -> None:
    operators = rxo.compact(1, key_mapper="id"), rxo.publish(lambda _: answer)
    orchestrator = Orchestrator(Pipeline(lambda: events(1, 2), *operators, max_age=20))
    await orchestrator.start()
    account = (await orchestrator.wait()).account
    assert (account.published, account.failed) == (0, 2)
    await orchestrator.stop()
