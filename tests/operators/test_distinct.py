"""distinct."""

from __future__ import annotations

from typing import Any

import pytest
import reactivex as rx
from hypothesis import given
from hypothesis import strategies as st
from reactivex import operators as ops
from reactivex.subject import Subject

from rxcompact import operators as rxo
from rxcompact.errors import KeyMapperError


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


@pytest.mark.parametrize(("item", "cause"), [({}, KeyError), ({"id": []}, TypeError)])
def test_distinct_ends_with_the_key_mappers_error(item: Any, cause: type[Exception]) -> None:
    errors: list[Exception] = []
    rx.of(item).pipe(rxo.distinct(lambda event: event["id"])).subscribe(on_error=errors.append)
    assert isinstance(errors[0], KeyMapperError)
    assert isinstance(errors[0].__cause__, cause)


def test_distinct_is_alone_in_each_subscription() -> None:
    twice = rx.of(1, 1, 2).pipe(rxo.distinct())
    assert [twice.pipe(ops.to_list()).run() for _ in range(2)] == [[1, 2], [1, 2]]
