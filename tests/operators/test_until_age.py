"""retry_until_age: one observable, or a coroutine function's calls, until too old. Promises 7 and 8."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
import reactivex as rx
import reactivex.operators
import tenacity
from aiohttp.http_exceptions import BadStatusLine
from hypothesis import given
from hypothesis import strategies as st
from reactivex.scheduler import VirtualTimeScheduler

from rxcompact import operators as rxo
from rxcompact.errors import ExpiredError, PermanentError, RateLimitedError, TransientError
from rxcompact.operators.verdict import is_transient, parse_retry_after
from rxcompact.testing import START, run


class Failing:
    """Fails, then gives 42; remembers when it was called."""

    def __init__(self, now: Callable[[], float], *errors: Exception) -> None:
        self.now = now
        self.errors = list(errors)
        self.at: list[float] = []

    def __call__(self) -> int:
        self.at.append(self.now())
        if self.errors:
            raise self.errors.pop(0)
        return 42


def as_observable(failing: Failing, scheduler: VirtualTimeScheduler, **options: Any) -> list[Any]:
    ends: list[Any] = []
    rx.defer(lambda _: rx.just(failing())).pipe(rxo.retry_until_age(scheduler=scheduler, **options)).subscribe(
        ends.append, ends.append
    )
    scheduler.advance_to(1e6)
    return ends


def test_an_observable_is_tried_again_with_tenacitys_waits() -> None:
    scheduler = VirtualTimeScheduler(0.0)
    failing = Failing(lambda: scheduler.now.timestamp(), TransientError(), OSError(), TimeoutError())
    assert as_observable(failing, scheduler, max_age=60, wait=tenacity.wait_incrementing(1, 1)) == [42]
    assert failing.at == [0, 1, 3, 6]


def test_a_call_is_tried_again_with_tenacitys_waits() -> None:
    async def main() -> list[float]:
        failing = Failing(asyncio.get_running_loop().time, TransientError(), OSError(), TimeoutError())

        @rxo.retry_until_age(60, wait=tenacity.wait_fixed(2) + tenacity.wait_fixed(1))
        async def call() -> int:
            return failing()

        assert await call() == 42
        return failing.at

    assert run(main) == [0, 3, 6, 9]


def test_the_first_attempt_makes_nothing_of_tenacitys() -> None:
    async def main() -> None:
        async def call() -> int:
            return 1

        wait = Mock()
        assert await rxo.retry_until_age(60, wait=wait)(call)() == 1
        wait.assert_not_called()

    run(main)


@pytest.mark.parametrize("error", [PermanentError("no"), ValueError("bug"), KeyError("bug")])
def test_what_retrying_cannot_mend_is_passed_on_at_once(error: Exception) -> None:
    scheduler = VirtualTimeScheduler(0.0)
    failing = Failing(lambda: scheduler.now.timestamp(), error)
    assert as_observable(failing, scheduler, max_age=60) == [error]
    assert len(failing.at) == 1


def test_tenacitys_condition_and_callback_are_taken() -> None:
    scheduler = VirtualTimeScheduler(0.0)
    seen: list[tuple[int, float]] = []
    failing = Failing(lambda: scheduler.now.timestamp(), ValueError(), ValueError(), KeyError("end"))
    ends = as_observable(
        failing,
        scheduler,
        max_age=60,
        wait=tenacity.wait_fixed(1),
        retry=tenacity.retry_if_exception_type(ValueError),
        before_sleep=lambda state: seen.append((state.attempt_number, state.next_action.sleep)),
    )
    assert isinstance(ends[0], KeyError)
    assert seen == [(1, 1), (2, 1)]


def test_age_counts_from_birth_and_expiry_comes_at_the_deadline() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        last = TransientError("down")

        @rxo.retry_until_age(60, born=lambda event: event["ts"])
        async def call(event: dict[str, float]) -> None:
            raise last

        with pytest.raises(ExpiredError) as caught:
            await call({"ts": START - 20})
        assert loop.time() == pytest.approx(40)
        assert caught.value.__cause__ is last
        assert caught.value.age == pytest.approx(60)

        with pytest.raises(ExpiredError, match="0 attempts"):
            await call({"ts": START - 60})

    run(main)


def test_an_attempt_under_way_at_the_deadline_is_cancelled() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        cancelled: list[float] = []

        @rxo.retry_until_age(10)
        async def call() -> None:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancelled.append(loop.time())
                raise

        with pytest.raises(ExpiredError):
            await call()
        assert cancelled == [10]

    run(main)
    scheduler = VirtualTimeScheduler(0.0)
    disposed: list[float] = []
    never = rx.never().pipe(rx.operators.finally_action(lambda: disposed.append(scheduler.now.timestamp())))
    ends: list[Any] = []
    never.pipe(rxo.retry_until_age(10, scheduler=scheduler)).subscribe(on_error=ends.append)
    scheduler.advance_to(100)
    assert disposed == [10]
    assert isinstance(ends[0], ExpiredError)


@given(st.lists(st.floats(0, 1e4), max_size=30), st.floats(0.1, 100), st.floats(0, 120))
def test_no_attempt_starts_past_the_deadline_whatever_the_waits(waits: list[float], max_age: float, age: float) -> None:
    scheduler = VirtualTimeScheduler(1000.0)
    given_waits = iter(waits)
    failing = Failing(lambda: scheduler.now.timestamp(), *[TransientError()] * 10_000)
    ends: list[tuple[float, Any]] = []
    rx.defer(lambda _: rx.just(failing())).pipe(
        rxo.retry_until_age(max_age, born=1000.0 - age, wait=lambda _: next(given_waits, 1e9), scheduler=scheduler)
    ).subscribe(on_error=lambda error: ends.append((scheduler.now.timestamp(), error)))
    scheduler.advance_to(5000.0)
    deadline = 1000.0 - age + max_age
    assert all(at < deadline + 1e-5 for at in failing.at)
    ((at, error),) = ends
    assert isinstance(error, ExpiredError)
    assert at == pytest.approx(max(deadline, 1000.0), abs=1e-5)


def test_one_last_attempt_is_made_in_the_last_tenth_of_the_age() -> None:
    scheduler = VirtualTimeScheduler(0.0)
    calls: list[float] = []

    def call(_: Any) -> Any:
        calls.append(scheduler.now.timestamp())
        return rx.just(1) if calls[-1] >= 54 else rx.throw(TransientError())

    ends: list[Any] = []
    rx.defer(call).pipe(rxo.retry_until_age(60, wait=tenacity.wait_fixed(45), scheduler=scheduler)).subscribe(
        ends.append, ends.append
    )
    scheduler.advance_to(100)
    assert ends == [1]
    assert calls[:2] == [0, 45]
    assert len(calls) == 3
    assert 54 <= calls[2] <= 60


def test_a_rate_limit_is_waited_for_and_counts_as_no_failure() -> None:
    async def main() -> list[float]:
        failing = Failing(
            asyncio.get_running_loop().time,
            TransientError(),
            RateLimitedError(retry_after=20),
            RateLimitedError(),
            TransientError(),
        )

        @rxo.retry_until_age(600, wait=tenacity.wait_incrementing(1, 1))
        async def call() -> int:
            return failing()

        await call()
        return failing.at

    assert run(main) == [0, 1, 21, 23, 25]


def test_a_rate_limit_beyond_the_age_expires_it_at_its_deadline_without_another_call() -> None:
    async def main() -> int:
        failing = Failing(asyncio.get_running_loop().time, RateLimitedError(retry_after=100))

        @rxo.retry_until_age(60)
        async def call() -> int:
            return failing()

        with pytest.raises(ExpiredError):
            await call()
        assert asyncio.get_running_loop().time() == pytest.approx(60)
        return len(failing.at)

    assert run(main) == 1


def response_error(status: int, **options: Any) -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(Mock(), (), status=status, **options)


@pytest.mark.parametrize("status", [401, 403, 408, 410, 425, 429, 500, 502, 503, 504, 600])
def test_statuses_that_are_retried(status: int) -> None:
    assert is_transient(response_error(status))


@pytest.mark.parametrize("status", [301, 400, 404, 409, 413, 422])
def test_statuses_that_are_not(status: int) -> None:
    assert not is_transient(response_error(status))


def test_a_garbled_answer_is_a_transport_fault_though_aiohttp_calls_it_400() -> None:
    error = response_error(400)
    error.__cause__ = BadStatusLine("garbage")
    assert is_transient(error)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120), ("0", 0), ("Thu, 01 Jan 1970 00:01:00 GMT", 30), ("Thu, 01 Jan 1970 00:00:10 GMT", 0)],
)
def test_retry_after_in_seconds_or_as_a_date(value: str, seconds: float) -> None:
    assert parse_retry_after(value, 30.0) == seconds


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1e3", "١٢x", "Thu, 99 Foo 2037"])
def test_garbage_in_retry_after_is_ignored(value: str | None) -> None:
    assert parse_retry_after(value, 30.0) is None
