"""distinct and distinct_within."""

from __future__ import annotations

from typing import Any

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from reactivex import operators as ops
from reactivex.scheduler import VirtualTimeScheduler
from reactivex.subject import Subject

from rxcompact import operators as rxo
from rxcompact.errors import ArgumentError, KeyMapperError


@given(st.lists(st.integers(0, 9)))
def test_distinct_is_rxpys_own(items: list[int]) -> None:
    ours: list[int] = []
    theirs: list[int] = []
    rx.from_iterable(items).pipe(rxo.distinct(lambda n: n % 5)).subscribe(ours.append)
    rx.from_iterable(items).pipe(ops.distinct(lambda n: n % 5)).subscribe(theirs.append)
    assert ours == theirs


def test_distinct_forgets_on_a_flush_and_takes_a_fields_name() -> None:
    source: Subject[dict[str, str]] = Subject()
    flushes: Subject[None] = Subject()
    seen: list[str] = []
    source.pipe(rxo.distinct("id", flushes)).subscribe(lambda event: seen.append(event["id"]))
    for key in "aba":
        source.on_next({"id": key})
    flushes.on_next(None)
    source.on_next({"id": "a"})
    assert seen == ["a", "b", "a"]


@pytest.mark.parametrize(("item", "cause"), [({}, KeyError), ({"id": []}, None)])
def test_distinct_ends_with_the_key_mappers_error(item: Any, cause: type[Exception] | None) -> None:
    errors: list[Exception] = []
    rx.of(item).pipe(rxo.distinct(lambda event: event["id"])).subscribe(on_error=errors.append)
    assert isinstance(errors[0], KeyMapperError if cause else TypeError)
    assert isinstance(errors[0].__cause__, cause or type(None))


def test_distinct_is_alone_in_each_subscription() -> None:
    twice = rx.of(1, 1, 2).pipe(rxo.distinct())
    assert [twice.pipe(ops.to_list()).run() for _ in range(2)] == [[1, 2], [1, 2]]


def within(duration: float, max_keys: int, stream: list[tuple[float, str]]) -> list[tuple[float, str, int]]:
    scheduler = VirtualTimeScheduler(0.0)
    source: Subject[str] = Subject()
    released: list[tuple[float, str, int]] = []
    source.pipe(rxo.distinct_within(duration, key_mapper=str, max_keys=max_keys)).subscribe(
        lambda r: released.append((scheduler.now.timestamp(), *r)), scheduler=scheduler
    )
    for instant, item in stream:
        scheduler.advance_to(instant)
        source.on_next(item)
    return released


def test_a_repeat_after_the_duration_is_released_with_the_number_held_back() -> None:
    assert within(10, 100, [(float(t), "a") for t in range(25)]) == [(0, "a", 0), (10, "a", 9), (20, "a", 9)]


def test_beyond_max_keys_the_oldest_release_is_forgotten() -> None:
    stream = [(0.0, "a"), (1.0, "b"), (2.0, "c"), (3.0, "b"), (4.0, "a")]
    assert within(10, 2, stream) == [(0, "a", 0), (1, "b", 0), (2, "c", 0), (4, "a", 0)]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc")), max_size=60), st.integers(1, 8))
def test_releases_of_a_key_are_apart_and_every_item_is_released_or_counted(
    steps: list[tuple[int, str]], duration: int
) -> None:
    instant, stream = 0.0, []
    for step, key in steps:
        instant += step
        stream.append((instant, key))
    for key in "abc":
        mine = [(at, suppressed) for at, item, suppressed in within(duration, 3, stream) if item == key]
        assert all(later[0] - earlier[0] >= duration for earlier, later in zip(mine, mine[1:], strict=False))
        received = sum(item == key for _, item in stream)
        counted = len(mine) + sum(suppressed for _, suppressed in mine)
        trailing = (
            sum(item == key and at < mine[-1][0] + duration for at, item in stream if at >= mine[-1][0]) if mine else 0
        )
        assert counted + max(0, trailing - 1) == received


@pytest.mark.parametrize("options", [{"duration": 0, "max_keys": 1}, {"duration": 1, "max_keys": 0}])
def test_arguments_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        rxo.distinct_within(**options, key_mapper=str)
