"""Calls that fail in part, in the middle, or by the caller's own doing: each event's end is its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import threading
import time
from email.utils import formatdate
from functools import partial
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
import reactivex as rx
import tenacity
from reactivex import operators as ops

from rxcompact import HttpEnricher, NdjsonSink
from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError, RateLimitedError, TransientError
from rxcompact.events import Bounds, Compacted, DeadLetter, Delivered, Window
from rxcompact.operators.verdict import is_transient, parse_retry_after
from rxcompact.testing import START, virtual_loop


def window(*keys: Any, born: float = START) -> Window:
    return Window(Bounds(START, START, "time"), len(keys), [Compacted(key, key, 1, born, born) for key in keys])


def http(status: int) -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(Mock(real_url="http://api"), (), status=status)


async def ends(of: dict[str, BaseException], **options: Any) -> tuple[dict[str, float], dict[str, tuple[float, str]]]:
    """Publish a batch whose events fail so at their first delivery; return when which were taken, or not and why."""
    loop, ended = virtual_loop(), asyncio.Event()
    delivered: dict[str, float] = {}
    dead: dict[str, tuple[float, str]] = {}
    tried = set[str]()

    def sink(batch: Any) -> dict[int, BaseException]:
        failed = {n: of[c.key] for n, c in enumerate(batch) if c.key in of and c.key not in tried}
        tried.update(c.key for c in batch)
        return failed

    def on_dead_letter(letter: DeadLetter) -> None:
        dead[letter.event.key] = (round(loop.time(), 1), letter.reason)

    def took(each: Delivered) -> None:
        delivered.update((c.key, round(loop.time(), 1)) for c in each.batch)

    rx.just(window(*"ab")).pipe(
        rxo.publish(sink, max_age=60, timespan=0, wait=tenacity.wait_fixed(2), dead_letters=on_dead_letter, **options)
    ).subscribe(took, on_completed=ended.set)
    await ended.wait()
    return delivered, dead


@pytest.mark.parametrize(
    ("of", "delivered", "dead"),
    [
        ({"a": http(404), "b": http(503)}, {"b": 2}, {"a": (0, "HTTP 404")}),
        ({"a": http(503), "b": http(404)}, {"a": 2}, {"b": (0, "HTTP 404")}),
        (
            {"a": RateLimitedError(retry_after=5), "b": RateLimitedError(retry_after=20)},
            {"a": 5, "b": 20},
            {},
        ),
        (
            {"a": RateLimitedError(retry_after=100), "b": TransientError()},
            {"b": 2},
            {"a": (60, "too old, rate limited")},
        ),
        ({"b": TransientError()}, {"a": 0, "b": 2}, {}),
    ],
)
async def test_what_becomes_of_one_event_of_a_batch_is_decided_by_its_own_error(
    of: dict[str, BaseException], delivered: dict[str, float], dead: dict[str, tuple[float, str]]
) -> None:
    assert await ends(of) == (delivered, dead)


async def test_a_batch_with_a_retry_after_date_stays_whole() -> None:
    batches: list[int] = []

    def sink(batch: Any) -> None:
        batches.append(len(batch))
        if len(batches) == 1:
            raise aiohttp.ClientResponseError(
                Mock(real_url="http://store"), (), status=503, headers={"Retry-After": formatdate(time.time() + 10)}
            )

    rx.just(window(*range(500))).pipe(rxo.publish(sink, max_age=60, timespan=0)).subscribe()
    await asyncio.sleep(30)
    assert batches == [500, 500]


async def test_a_batch_that_fails_in_several_ways_has_failed_once() -> None:
    attempts: list[int] = []
    waits: list[int] = []

    def wait(state: tenacity.RetryCallState) -> float:
        waits.append(state.attempt_number)
        return 1.0

    async def mapper(events: list[str]) -> list[Any]:
        attempts.append(len(events))
        return [error() for error, event in zip((OSError, TransientError, TimeoutError), events, strict=False)]

    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    rx.just(window(*"abc")).pipe(
        rxo.enrich(mapper, max_age=2.5, batch=3, wait=wait, dead_letters=lambda _: None)
    ).subscribe(on_completed=lambda: done.set_result(None))
    await done
    assert attempts[0] == 3
    assert waits[:6] == [1, 1, 1, 2, 2, 2]


async def test_nothing_is_called_for_events_of_a_stage_that_was_disposed_of() -> None:
    called: list[str] = []
    dead: list[tuple[str, str]] = []

    async def mapper(event: str) -> str:
        called.append(event)
        return event

    def on_dead_letter(letter: DeadLetter) -> None:
        dead.append((letter.event.key, letter.outcome))

    options: dict[str, Any] = {"max_age": 60, "dead_letters": on_dead_letter}
    rx.just(window(*"abc")).pipe(rxo.enrich(mapper, cache={"a": "A"}, **options), ops.take(1)).subscribe()
    await asyncio.sleep(1)
    assert (called, dead) == ([], [("b", "abandoned"), ("c", "abandoned")])


@pytest.mark.parametrize("operator", [rxo.enrich, partial(rxo.publish, timespan=0)])
def test_nothing_is_called_for_what_another_thread_pushed_before_a_stage_was_disposed_of(operator: Any) -> None:
    called: list[Any] = []
    dead: list[tuple[str, str]] = []

    def on_dead_letter(letter: DeadLetter) -> None:
        dead.append((letter.event.key, letter.outcome))

    async def main() -> None:
        subject: rx.Subject[Any] = rx.Subject()
        subscription = subject.pipe(operator(called.append, max_age=60, dead_letters=on_dead_letter)).subscribe()
        late = window("late", born=time.time())
        thread = threading.Thread(target=subject.on_next, args=(late,))
        thread.start()
        thread.join()
        subscription.dispose()
        while not dead:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert (called, dead) == ([], [("late", "abandoned")])


async def test_what_a_policy_raises_fails_the_event_at_once() -> None:
    loop = asyncio.get_running_loop()
    came: list[tuple[float, str]] = []

    def buggy(_: Any) -> bool:
        raise RuntimeError("a bug in the condition")

    rx.throw(OSError("gone")).pipe(rxo.retry_until_age(30, retry=buggy)).subscribe(
        on_error=lambda error: came.append((loop.time(), str(error)))
    )
    await asyncio.sleep(40)
    assert came == [(pytest.approx(0), "a bug in the condition")]


async def test_events_one_by_one_are_gathered_into_a_large_batch_without_copying_it_for_each() -> None:
    batches: list[int] = []
    subject: rx.Subject[Any] = rx.Subject()
    subject.pipe(rxo.publish(lambda batch: batches.append(len(batch)), max_age=60, count=100_000)).subscribe()
    for number in range(100_000):  # 40 GB of pointers, if they were
        subject.on_next(Compacted(number, None, 1, START, START))
    await asyncio.sleep(1)
    assert batches == [100_000]


@pytest.mark.parametrize("error", [aiohttp.InvalidURL("nowhere"), aiohttp.NonHttpUrlClientError("ftp://api")])
def test_a_url_that_is_none_is_one_at_the_next_attempt_neither(error: Exception) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize("url", ["http://cmdb{x}/hosts", "http://{x}.cmdb/hosts", "http://cmdb:{port}/", "http://a{x}"])
def test_no_event_chooses_who_is_asked(url: str) -> None:
    with pytest.raises(ArgumentError, match="behind the host"):
        HttpEnricher(url)


@pytest.mark.parametrize("url", ["http://cmdb/{x}", "http://cmdb?host={x}", "http://cmdb/hosts", "http://cmdb"])
def test_a_field_in_a_path_or_a_query_is_what_templates_are_for(url: str) -> None:
    HttpEnricher(url)


def test_a_date_without_a_zone_is_in_that_of_http() -> None:
    # 784111777 is of the RFC's own example
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_747) == 30
    assert parse_retry_after("Sun Nov  6 08:49:37 1994", 784_111_747) == 30


async def test_standard_output_that_takes_text_alone_gets_text() -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):  # as in a notebook
        assert await NdjsonSink().publish([Compacted("ä", {"id": 1}, 1, 0.0, 0.0)]) is None
    assert out.getvalue() == '{"key":"ä","count":1,"first_seen":0.0,"last_seen":0.0,"event":{"id":1}}\n'
    assert out is not sys.stdout
