"""Rows L6 to L28 and W1 to W11 of the field, of enrich and publish: what callers' functions do, and what must come."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
import sqlite3
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
import reactivex as rx
import tenacity
from loguru import logger
from reactivex.subject import Subject

from rxcompact import Orchestrator, Pipeline
from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError, PermanentError, RateLimitedError, TransientError
from rxcompact.events import Batch, Bounds, Compacted, DeadLetter, Window
from rxcompact.operators.verdict import is_about_events, retry_after, verdict
from rxcompact.testing import START, run


class Custom(BaseException):
    pass


def window(*events: Any) -> Window:
    """A window of events, each its own key, born at the start."""
    items = [Compacted(n, event, 1, START, START) for n, event in enumerate(events)]
    return Window(Bounds(START, START, "time"), len(items), items)


class Came:
    """What a stage emitted and dead-lettered, and when."""

    def __init__(self) -> None:
        self.at = asyncio.get_running_loop().time
        self.out: list[tuple[float, Any]] = []
        self.letters: list[DeadLetter] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def of(self, operator: Any, source: Any, *options: Any, **more: Any) -> Came:
        observable = source if isinstance(source, rx.Observable) else rx.just(source)
        settings: dict[str, Any] = {"max_age": 60, "dead_letters": self.letters.append} | more
        observable.pipe(operator(*options, **settings)).subscribe(
            lambda item: self.out.append((self.at(), item)), on_completed=lambda: self.ended.set_result(None)
        )
        await self.ended
        return self

    @property
    def keys(self) -> list[Any]:
        """Keys that were enriched, or published."""
        return [c.key for _, item in self.out for c in (item.batch if hasattr(item, "batch") else [item])]

    @property
    def dead(self) -> dict[Any, tuple[str, str]]:
        return {letter.event.key: (letter.outcome, letter.reason) for letter in self.letters}


# ── L6: a BaseException has an outcome; those that end a program end the run ──────────────────────────────────────────

FAULTS: dict[str, tuple[Callable[[], BaseException], tuple[str, str]]] = {
    "pytest.fail": (lambda: pytest.fail.Exception("no"), ("failed", "Failed")),
    "custom": (lambda: Custom("no"), ("failed", "Custom")),
    "GeneratorExit": (GeneratorExit, ("failed", "GeneratorExit")),
    "group": (lambda: BaseExceptionGroup("two", [Custom("a"), Custom("b")]), ("failed", "Custom")),
    "cancelled": (asyncio.CancelledError, ("expired", "too old, CancelledError")),
}


@pytest.mark.parametrize("where", ["enrich", "publish"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_l6_a_base_exception_is_the_outcome_of_its_event_alone(where: str, fault: str) -> None:
    error, outcome = FAULTS[fault]

    def faulty(given: Any) -> Any:
        if given in (1, "bad") or (isinstance(given, Batch) and any(c.event == "bad" for c in given)):
            raise error()
        return given if where == "enrich" else None

    calls = (rxo.enrich(faulty), rxo.publish(lambda _: None)) if where == "enrich" else (rxo.publish(faulty, count=1),)
    pipeline = Pipeline([{"id": n} for n in range(3)], rxo.compact(1, key_mapper="id"),
                        rxo.enrich(lambda event: "bad" if event["id"] == 1 else event["id"] * 10),
                        *calls, max_age=60, max_in_flight=3)  # fmt: skip
    orchestrator = Orchestrator(pipeline)
    letters: list[DeadLetter] = []
    orchestrator.dead_letters.subscribe(letters.append)
    async with orchestrator:
        report = await orchestrator.wait()
    assert [(letter.event.key, letter.outcome, letter.reason) for letter in letters] == [(1, *outcome)]
    assert (report.account.published, report.account.in_flight) == (2, 0)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["enrich", "merge", "publish", "wait", "before_sleep"])
def test_l6_what_ends_a_program_ends_the_run_at_once(error: type[BaseException], where: str) -> None:
    letters: list[DeadLetter] = []
    times: list[float] = []

    def ends(*_: Any) -> Any:
        raise error

    async def fails(_: Any) -> Any:
        raise TransientError("down")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        operator: Any = {
            "enrich": lambda **o: rxo.enrich(ends, **o),
            "merge": lambda **o: rxo.enrich(lambda event: event, merge=ends, **o),
            "publish": lambda **o: rxo.publish(ends, **o),
            "wait": lambda **o: rxo.enrich(fails, wait=ends, **o),
            "before_sleep": lambda **o: rxo.enrich(fails, before_sleep=ends, **o),
        }[where]
        rx.just(window("a")).pipe(operator(max_age=60, dead_letters=letters.append)).subscribe()
        try:
            await asyncio.sleep(100)
        finally:
            times.append(loop.time())

    with pytest.raises(error):
        run(main)
    assert times == [0]
    assert len(letters) == 1


# ── L7: what a task group leaves behind concerns no other attempt ─────────────────────────────────────────────────────


async def fails_soon() -> None:
    raise OSError("a child failed")


async def group_of_children(_: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fails_soon())
        group.create_task(asyncio.sleep(50))


async def caught(event: Any) -> None:
    try:
        await group_of_children(event)
    except* OSError:
        pass
    await asyncio.sleep(1000)  # cut short by the timeout, in the same call


async def nested(event: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(group_of_children(event))


async def cancels_itself(_: Any) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def limited(event: Any) -> None:
    async with asyncio.timeout(0.5):
        await asyncio.sleep(1000)


@pytest.mark.parametrize("first", [group_of_children, caught, nested, cancels_itself, limited])
@pytest.mark.parametrize("where", ["enrich", "publish"])
async def test_l7_a_later_attempt_that_is_cut_short_is_retried(first: Callable[[Any], Any], where: str) -> None:
    attempts: list[float] = []
    loop = asyncio.get_running_loop()

    async def call(given: Any) -> Any:
        attempts.append(loop.time())
        if len(attempts) == 1:
            await first(given)
        if len(attempts) == 2:
            await asyncio.sleep(1000)
        return given if where == "enrich" else None

    operator: Any = rxo.enrich if where == "enrich" else rxo.publish
    came = await Came().of(operator, window("a"), call, timeout=4, wait=2)
    assert (came.keys, came.dead) == ([0], {})
    assert len(attempts) == 3
    assert attempts[2] - attempts[1] == pytest.approx(6)  # the limit, and the wait


# ── L8: events that hold errors are freed ─────────────────────────────────────────────────────────────────────────────


class Event(dict[str, Any]):
    pass


def in_the_event(event: Event) -> Any:
    try:
        raise OSError("down")
    except OSError as error:
        event["last_error"] = error
        raise


def in_a_chain(event: Event) -> Any:
    try:
        in_the_event(event)
    except OSError as error:
        event["errors"] = [error]
        raise TransientError("again") from error


def in_a_group(event: Event) -> Any:
    try:
        in_the_event(event)
    except OSError as error:
        group = ExceptionGroup("all", [error, ValueError()])
        event["group"] = group
        raise group from error


def permanent(event: Event) -> Any:
    try:
        raise PermanentError("no")
    except PermanentError as error:
        event["error"] = error
        raise


async def asynchronous(event: Event) -> Any:
    await asyncio.sleep(0)
    return in_the_event(event)


@pytest.mark.parametrize("operator", [rxo.enrich, rxo.publish])
async def test_an_error_that_is_raised_again_and_again_has_one_note(operator: Any) -> None:
    calls: list[Any] = []

    def call(_: Any) -> Any:
        calls.append(1)
        raise error

    error = TransientError("down")
    await Came().of(operator, window("a"), call, max_age=5, wait=0.5)
    assert len(calls) > 5
    assert error.__notes__ == [f"raised in call, {__file__}:{call.__code__.co_firstlineno + 2}"]


@pytest.mark.parametrize("call", [in_the_event, in_a_chain, in_a_group, permanent, asynchronous])
@pytest.mark.parametrize("where", ["enrich", "batch", "publish"])
async def test_l8_an_event_that_holds_an_error_is_freed(call: Callable[[Any], Any], where: str) -> None:
    references: list[weakref.ref[Event]] = []
    source: Subject[Any] = Subject()
    ended = asyncio.Event()

    async def of_many(events: list[Event]) -> Any:
        for event in events:
            result = call(event)
            if asyncio.iscoroutine(result):
                await result

    async def of_batch(batch: Batch) -> Any:
        await of_many([c.event for c in batch])

    operator: Any = {
        "enrich": lambda **o: rxo.enrich(call, **o),
        "batch": lambda **o: rxo.enrich(of_many, batch=10, **o),
        "publish": lambda **o: rxo.publish(of_batch, count=10, **o),
    }[where]
    source.pipe(operator(max_age=3, wait=1, dead_letters=lambda _: None)).subscribe(on_completed=ended.set)
    for n in range(100):
        event = Event(n=n)
        references.append(weakref.ref(event))
        source.on_next(window(event))
    del event
    source.on_completed()
    await ended.wait()
    await asyncio.sleep(100)  # timers that were cancelled
    gc.collect()
    assert sum(reference() is not None for reference in references) == 0


# ── L12: what is a wait, a condition, a callback ──────────────────────────────────────────────────────────────────────


async def five(_: Any) -> int:
    return 5


@pytest.mark.parametrize(
    "wait",
    [5, 5.0, timedelta(seconds=5), tenacity.wait_fixed(5), lambda _: 5, five, lambda _: timedelta(seconds=5)],
    ids=["int", "float", "timedelta", "tenacity", "function", "coroutine function", "gives a timedelta"],
)
async def test_l12_a_wait_in_any_form_is_the_wait_taken(wait: Any) -> None:
    calls: list[float] = []

    def call(event: Any) -> Any:
        calls.append(asyncio.get_running_loop().time())
        if len(calls) < 4:
            raise TransientError
        return event

    await Came().of(rxo.enrich, window("a"), call, wait=wait)
    assert calls == [0, 5, 10, 15]


@pytest.mark.parametrize("wait", [float("nan"), -1, float("-inf"), "soon", None, True])
async def test_l12_a_wait_that_is_none_is_refused_or_fails_its_event(wait: Any) -> None:
    with pytest.raises(ArgumentError, match="wait"):
        rxo.enrich(lambda event: event, wait=wait)

    def down(_: Any) -> Any:
        raise TransientError("down")

    loop = asyncio.get_running_loop()
    came = await Came().of(rxo.enrich, window("a"), down, wait=lambda _: wait)
    assert (loop.time(), came.dead) == (0, {0: ("failed", "error")})
    assert isinstance(came.letters[0].error, ArgumentError)
    assert isinstance(came.letters[0].error.__cause__, TransientError)


@pytest.mark.parametrize(
    ("retry", "tries"),
    [(OSError, 3), ((OSError, KeyError), 3), ((), 1), (KeyError, 1), (tenacity.retry_if_exception_type(OSError), 3)],
)
async def test_l12_exceptions_are_a_condition(retry: Any, tries: int) -> None:
    calls: list[Any] = []

    def call(event: Any) -> Any:
        calls.append(event)
        if len(calls) < 3:
            raise OSError("down")
        return event

    await Came().of(rxo.enrich, window("a"), call, retry=retry, wait=1)
    assert len(calls) == tries


@pytest.mark.parametrize(
    "options",
    [
        {"wait": tenacity.wait_fixed},
        {"retry": tenacity.retry_if_exception_type},
        {"retry": "OSError"},
        {"retry": (OSError, "KeyError")},
        {"before_sleep": 5},
    ],
)
def test_l12_what_is_no_policy_is_refused_at_construction(options: Any) -> None:
    for operator in (rxo.enrich, rxo.publish):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            operator(print, **options)
    with pytest.raises(ArgumentError, match=next(iter(options))):
        rxo.retry_until_age(30, **options)


async def test_l12_async_callbacks_are_awaited() -> None:
    seen: list[tuple[str, int]] = []

    async def retry(state: tenacity.RetryCallState) -> bool:
        await asyncio.sleep(0.5)
        seen.append(("retry", state.attempt_number))
        return state.attempt_number < 3

    async def before_sleep(state: tenacity.RetryCallState) -> None:
        await asyncio.sleep(0.25)
        seen.append(("before_sleep", state.attempt_number))

    def down(_: Any) -> Any:
        raise OSError("down")

    loop = asyncio.get_running_loop()
    came = await Came().of(rxo.enrich, window("a"), down, retry=retry, before_sleep=before_sleep, wait=1)
    assert seen == [("retry", 1), ("before_sleep", 1), ("retry", 2), ("before_sleep", 2), ("retry", 3)]
    assert (came.dead, loop.time()) == ({0: ("failed", "OSError")}, pytest.approx(2 * 1.75 + 0.5))


async def test_l12_a_callback_that_hangs_leaves_its_event_to_expire() -> None:
    async def hangs(_: Any) -> None:
        await asyncio.sleep(1e6)

    def down(event: Any) -> Any:
        if event == "a":
            raise OSError("down")
        return event

    came = await Came().of(rxo.enrich, window("a", "b"), down, before_sleep=hangs, max_concurrent=1)
    assert (came.dead, came.keys) == ({0: ("expired", "too old, OSError")}, [1])


# ── L13: context variables ────────────────────────────────────────────────────────────────────────────────────────────

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")


@pytest.mark.parametrize("where", ["enrich", "async", "publish", "batch", "retried"])
async def test_l13_each_call_runs_in_a_copy_of_the_stages_context(where: str) -> None:
    seen: list[str] = []

    async def call(given: Any) -> Any:
        seen.append(tenant.get())
        tenant.set("set by a call")
        if where == "retried" and len(seen) % 2:
            raise TransientError
        return given if where != "publish" else None

    tenant.set("stage")
    source: Subject[Any] = Subject()
    options: dict[str, Any] = {"max_age": 60, "wait": 1}
    operator: Any = {
        "publish": lambda: rxo.publish(call, count=1, **options),
        "batch": lambda: rxo.enrich(call, batch=2, **options),
    }.get(where, lambda: rxo.enrich(call if where != "enrich" else lambda event: call(event), **options))()
    source.pipe(operator).subscribe()
    for n in range(5):

        def push(n: int = n) -> None:
            tenant.set(f"request {n}")
            source.on_next(window(n))

        contextvars.copy_context().run(push)
        await asyncio.sleep(3)
    assert seen == ["stage"] * (10 if where == "retried" else 5)
    assert tenant.get() == "stage"


# ── L15: what a sink or an enricher returns ───────────────────────────────────────────────────────────────────────────


async def yields(_: Any) -> AsyncIterator[Any]:
    yield None


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: False,
        lambda _: OSError("no"),
        yields,
        lambda _: [None],
        lambda _: {7: OSError()},
        lambda _: "ok",
        lambda _: [False, None, {"id": 3}],
        lambda _: {0: ValueError("x"), 1: "refused"},
    ],
    ids=["False", "an exception", "async generator", "too short", "beyond", "text", "False for one", "text for one"],
)
async def test_l15_what_is_no_answer_of_a_sink_fails_the_batch(answer: Any) -> None:
    came = await Came().of(rxo.publish, window(*"abc"), answer)
    assert (came.keys, came.dead) == ([], dict.fromkeys(range(3), ("failed", "answer")))
    assert all(isinstance(letter.error, TypeError) for letter in came.letters)


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        ([None, PermanentError("no"), None], {1: "permanent"}),
        ((PermanentError("no"), None, True), {0: "permanent"}),
        ([PermanentError("no"), None, {"id": 3}], {0: "permanent"}),
        ({1: None, 2: PermanentError("no")}, {2: "permanent"}),
        ({0: ValueError("x"), 1: PermanentError("refused")}, {0: "ValueError", 1: "permanent"}),
    ],
)
async def test_l15_exceptions_in_place_count(answer: Any, failed: dict[int, str]) -> None:
    came = await Came().of(rxo.publish, window(*"abc"), lambda _: answer)
    assert came.keys == [n for n in range(3) if n not in failed]
    assert came.dead == {n: ("failed", reason) for n, reason in failed.items()}


@pytest.mark.parametrize(
    "answer",
    [lambda events: events[1:], lambda events: [*events, 1], lambda _: None, lambda _: "abc", lambda _: iter("abc")],
    ids=["one less", "one more", "None", "text", "iterator"],
)
async def test_l15_an_enricher_of_batches_that_returns_no_list_of_that_length_fails_them(answer: Any) -> None:
    came = await Came().of(rxo.enrich, window(*"abc"), answer, batch=3)
    assert (came.keys, came.dead) == ([], dict.fromkeys(range(3), ("failed", "answer")))


# ── L17: errors of any client ─────────────────────────────────────────────────────────────────────────────────────────


class Answer:
    def __init__(self, status_code: int, **headers: str) -> None:
        self.status_code, self.headers = status_code, {name.replace("_", "-"): text for name, text in headers.items()}


class ClientError(Exception):
    """As those of httpx and requests, whose answer is an attribute."""

    def __init__(self, status_code: int, **headers: str) -> None:
        self.response = Answer(status_code, **headers)


@pytest.mark.parametrize(
    ("error", "meaning", "wait"),
    [
        (ClientError(404), "permanent", None),
        (ClientError(503, Retry_After="7"), "transient", 7),
        (ClientError(429, Retry_After="20"), "rate limited", 20),
        (ClientError(401), "denied", None),
        (ExceptionGroup("all", [ClientError(404), ValueError()]), "permanent", None),
        (ExceptionGroup("one", [ClientError(404), OSError()]), "transient", None),
        (
            ExceptionGroup("2", [ClientError(429, Retry_After="3"), RateLimitedError(retry_after=9)]),
            "rate limited",
            9,
        ),
        (BaseExceptionGroup("in", [ExceptionGroup("group", [ClientError(503)])]), "transient", None),
    ],
)
def test_l17_an_error_is_classed_by_what_it_carries(error: BaseException, meaning: str, wait: float | None) -> None:
    assert (verdict(error), retry_after(error)) == (meaning, wait)


# ── W8, W9: databases, queues and resolvers ───────────────────────────────────────────────────────────────────────────


def made(kind: str, base: type[Exception] = Exception, *args: Any, **attributes: Any) -> Exception:
    """Return an exception of a class with this name, as a library that is not installed here raises it."""
    error = type(kind, (base,), {})(*args)
    vars(error).update(attributes)
    return error


def boto(code: str, status: int) -> Exception:
    response = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return made("ClientError", response=response)


def sqlite_error(*statements: str) -> Exception:
    with closing(sqlite3.connect(":memory:")) as base:
        base.execute("create table t (id integer primary key, n text not null) strict")
        with pytest.raises(sqlite3.Error) as raised:
            for statement in statements:
                base.execute(statement)
    return raised.value


INTERFACE: Any = type("InterfaceError", (Exception,), {})
CASES = {
    "bad value": (made("DataError", sqlstate="22003"), "permanent", True),
    "asyncpg's own": (made("DataError", INTERFACE), "permanent", True),
    "null": (made("NotNullViolation", sqlstate="23502"), "permanent", True),
    "psycopg2": (made("UniqueViolation", pgcode="23505"), "permanent", True),
    "SQLAlchemy": (made("DBAPIError", orig=made("x", pgcode="22P02")), "permanent", True),
    "no table": (made("UndefinedTable", sqlstate="42P01"), "permanent", True),
    "may not": (made("InsufficientPrivilege", sqlstate="42501"), "denied", False),
    "password": (made("InvalidPassword", sqlstate="28P01"), "denied", False),
    "deadlock": (made("DeadlockDetected", sqlstate="40P01"), "transient", True),
    "MySQL": (made("IntegrityError", Exception, 1062, "Duplicate entry"), "permanent", True),
    "MySQL gone": (made("OperationalError", Exception, 2006, "gone away"), "transient", False),
    "SQLite null": (sqlite_error("insert into t values (1, null)"), "permanent", True),
    "SQLite type": (sqlite_error("insert into t values ('x', 'y')"), "permanent", True),
    "SQLite twice": (sqlite_error("insert into t values (1, 'a')", "insert into t values (1, 'b')"), "permanent", True),
    "SQLite no table": (sqlite_error("insert into u values (1)"), "permanent", True),
    "throttled": (boto("ThrottlingException", 400), "rate limited", False),
    "slow down": (boto("SlowDown", 503), "rate limited", False),
    "no queue": (boto("AWS.SimpleQueueService.NonExistentQueue", 400), "permanent", True),
    "no such key": (boto("NoSuchKey", 404), "permanent", False),
    "token": (boto("ExpiredToken", 400), "denied", False),
    "access": (boto("AccessDenied", 403), "denied", False),
    "internal": (boto("InternalError", 500), "transient", True),
    "unavailable": (boto("ServiceUnavailable", 503), "transient", False),
    "parameters": (made("ParamValidationError"), "permanent", True),
    "no credentials": (made("NoCredentialsError"), "denied", True),
    "endpoint": (made("EndpointConnectionError"), "transient", False),
    "no such host": (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "permanent", False),
    "resolver down": (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "transient", False),
    "reverse": (socket.herror(1, "Unknown host"), "permanent", False),
    "dnspython": (made("NXDOMAIN"), "permanent", True),
    "aiodns": (made("DNSError", Exception, 4, "Domain name not found"), "permanent", True),
    "aiodns down": (made("DNSError", Exception, 11, "Could not contact DNS servers"), "transient", True),
}


@pytest.mark.parametrize("case", CASES)
def test_w9_databases_and_queues_are_classed_by_what_their_errors_carry(case: str) -> None:
    error, meaning, about_events = CASES[case]
    assert (verdict(error), is_about_events(error)) == (meaning, about_events)


@pytest.mark.parametrize("case", ["reverse", "dnspython", "aiodns"])
@pytest.mark.parametrize("merge", [None, lambda event, answer: answer["no"]])
async def test_w9_nothing_found_is_an_answer(case: str, merge: Any) -> None:
    calls: list[str] = []

    async def resolve(event: str) -> str:
        calls.append(event)
        raise CASES[case][0]

    cache: dict[Any, Any] = {}
    came = await Came().of(rxo.enrich, window(*"abc"), resolve, merge=merge, cache=cache)
    assert ([c.event for _, c in came.out], came.letters, cache) == ([*"abc"], [], {})
    assert calls == [*"abc"]


@pytest.mark.parametrize("case", ["no such host", "null", "no queue"])
async def test_w9_what_cannot_be_mended_fails_at_once_and_names_itself(case: str) -> None:
    calls: list[str] = []

    async def resolve(event: str) -> str:
        calls.append(event)
        raise CASES[case][0]

    came = await Came().of(rxo.enrich, window("a"), resolve)
    assert (calls, [letter.outcome for letter in came.letters]) == (["a"], ["failed"])
    assert came.letters[0].error is CASES[case][0]


# ── L22: a function that blocks ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("where", ["enrich", "publish", "many", "slow but short", "to_thread"])
async def test_l22_a_function_that_holds_up_the_loop_is_logged_once_a_minute(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("rxcompact.operators.operator.monotonic", lambda: clock[0])

    def blocks(given: Any) -> Any:
        clock[0] += 0.9 if where == "slow but short" else 1.5
        return given if operator is rxo.enrich else None

    async def elsewhere(given: Any) -> Any:
        await asyncio.sleep(1.5)
        return given

    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="WARNING")
    operator: Any = rxo.publish if where == "publish" else rxo.enrich
    try:
        options: dict[str, Any] = {"count": 1} if where == "publish" else {}
        await Came().of(operator, window(*range(5)), elsewhere if where == "to_thread" else blocks, **options)
    finally:
        logger.remove(sink)
    name = "test_l22_a_function_that_holds_up_the_loop_is_logged_once_a_minute.<locals>.blocks"
    line = f"{name} held up the event loop for 1.5 s: call it by asyncio.to_thread"
    assert lines == ([] if where in ("slow but short", "to_thread") else [line])


# ── L28: single flight ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("down", [0, 3, 7, 12, 20])
async def test_l28_one_answer_a_key_is_one_call(down: float) -> None:
    calls: Counter[Any] = Counter()
    loop = asyncio.get_running_loop()

    async def lookup(event: Any) -> str:
        calls[event["id"]] += 1
        await asyncio.sleep(2)
        if loop.time() < down:
            raise TransientError
        return "team"

    source: Subject[Any] = Subject()
    out: list[Any] = []
    compact = rxo.compact(60, key_mapper=lambda event: event["id"], count=3)
    enrich = rxo.enrich(lookup, max_age=30, merge=lambda event, team: event | {"team": team}, wait=4)
    source.pipe(compact, enrich).subscribe(out.append)
    for n in range(30):
        source.on_next({"id": n % 3, "n": n})
        await asyncio.sleep(1e-7)  # deadlines that differ by less than a timer can
    await asyncio.sleep(40)
    assert sorted(c.event["n"] for c in out) == list(range(30))
    attempts = 1 + sum(2 + 6 * n < down for n in range(10))
    assert calls == dict.fromkeys(range(3), attempts)


async def test_l28_each_event_expires_at_its_own_deadline_and_the_younger_goes_on() -> None:
    calls: list[float] = []
    loop: Any = asyncio.get_running_loop()

    async def lookup(event: Any) -> str:
        calls.append(loop.time())
        await asyncio.sleep(35)
        return "team"

    births = {"a": -20.0, "older": -30.0, "younger": 0.0}  # the second joins the call for the first
    source: Subject[Any] = Subject()
    letters: list[tuple[float, Any, str]] = []
    out: list[Any] = []
    enrich = rxo.enrich(
        lookup, max_age=50, timeout=None, merge=lambda event, team: (event, team),
        dead_letters=lambda letter: letters.append((loop.time(), letter.event.event, letter.reason)),
    )  # fmt: skip
    source.pipe(enrich).subscribe(out.append)
    for name, born in births.items():
        source.on_next(Compacted("key", name, 1, START + born, START + born))
    await asyncio.sleep(100)
    assert letters == [(pytest.approx(20), "older", "too old"), (pytest.approx(30), "a", "too old, TimeoutError")]
    assert [c.event for c in out] == [("younger", "team")]
    assert calls == [0]


# ── W1: a batch that fails as a whole ─────────────────────────────────────────────────────────────────────────────────


class Refused(Exception):
    status = 400


class Table:
    """A store that writes rows one by one, and answers 400 at a bad one: those before it are written."""

    def __init__(self, *bad: int, error: Callable[[], Exception] = Refused) -> None:
        self.bad, self.error = bad, error
        self.rows: list[int] = []
        self.keys: list[str] = []
        self.writes: dict[str, list[int]] = {}

    def __call__(self, batch: Batch) -> None:
        self.keys.append(batch.idempotency_key)
        written = self.writes.setdefault(batch.idempotency_key, [])
        for compacted in batch:
            if compacted.event in self.bad:
                raise self.error()
            self.rows.append(compacted.event)
            written.append(compacted.event)


@pytest.mark.parametrize("bad", [(0,), (7,), (3, 4), (0, 1, 2, 3), ()])
@pytest.mark.parametrize("error", [Refused, KeyError, lambda: ValueError("invalid row")])
async def test_w1_the_good_events_of_a_batch_are_stored_and_the_bad_ones_fail(bad: Any, error: Any) -> None:
    table = Table(*bad, error=error)
    came = await Came().of(rxo.publish, window(*range(8)), table, count=8)
    assert sorted(came.keys) == [n for n in range(8) if n not in bad]
    assert {letter.event.key: letter.outcome for letter in came.letters} == dict.fromkeys(bad, "failed")
    assert set(table.rows) == set(range(8)) - set(bad)


async def test_w1_a_part_of_a_batch_has_an_idempotency_key_of_its_own() -> None:
    table = Table(6)
    await Came().of(rxo.publish, window(*range(8)), table, count=8)
    # what was written before the store raised is written again, with another key: the manual has what to do
    assert Counter(table.rows) == {0: 2, 1: 2, 2: 2, 3: 2, 4: 3, 5: 3, 7: 1}
    assert len(set(table.keys)) == len(table.keys) == 7
    # a store that names the rows that it did not write is given none twice
    exact: list[int] = []

    def names(batch: Batch) -> dict[int, Exception]:
        exact.extend(c.event for c in batch if c.event != 6)
        return {n: Refused() for n, c in enumerate(batch) if c.event == 6}

    came = await Came().of(rxo.publish, window(*range(8)), names, count=8)
    assert (exact, came.dead) == ([0, 1, 2, 3, 4, 5, 7], {6: ("failed", "HTTP 400")})


@pytest.mark.parametrize(
    "error", [ConnectionError, TimeoutError, lambda: TransientError("down"), asyncio.CancelledError, OSError]
)
async def test_w1_what_is_no_events_fault_halves_nothing(error: Any) -> None:
    sizes: list[int] = []

    def down(batch: Batch) -> None:
        sizes.append(len(batch))
        if len(sizes) < 3:
            raise error()

    came = await Came().of(rxo.publish, window(*range(8)), down, count=8, wait=1)
    assert (sizes, came.keys) == ([8, 8, 8], list(range(8)))


# ── W11: batches of enrichment in a pipeline ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (7, [7]), (50, [7])])
async def test_w11_a_list_of_answers_for_a_list_of_ids(batch: int, sizes: list[int]) -> None:
    asked: list[int] = []
    out: list[Any] = []

    async def lookup(events: list[Any]) -> list[Any]:
        asked.append(len(events))
        return [PermanentError("no such id") if event["id"] == 5 else ["owner", event["id"]] for event in events]

    enrich = rxo.enrich(lookup, batch=batch, merge=lambda event, answer: event | {"owner": answer})
    pipeline = Pipeline(
        [{"id": n} for n in range(7)], rxo.compact(1, key_mapper="id"), enrich, rxo.publish(out.extend), max_age=60
    )
    async with Orchestrator(pipeline) as orchestrator:
        account = (await orchestrator.wait()).account
    assert sorted(c.event["id"] for c in out) == [0, 1, 2, 3, 4, 6]
    assert all(c.event["owner"] == ["owner", c.key] for c in out)
    assert (asked, account.published, account.failed) == (sizes, 6, 1)
