"""merge: fields of a key's events, merged."""

from __future__ import annotations

import json
from functools import reduce
from typing import Any, NamedTuple

import pytest
import reactivex as rx
from reactivex.scheduler import VirtualTimeScheduler

from rxcompact import merge
from rxcompact import operators as rxo
from rxcompact.errors import AccumulatorError, ArgumentError
from rxcompact.events import DeadLetter

EVENTS: list[dict[str, Any]] = [
    {"id": "a", "bytes": 5, "host": "x", "level": 2, "at": "10:02", "message": "one", "user": None},
    {"id": "a", "bytes": 7, "host": "y", "level": 9, "at": "10:01", "message": "two", "user": "ann"},
    {"id": "a", "host": "x", "level": None, "at": "10:03", "message": None, "user": "bob"},
]
KINDS = {"bytes": "sum", "host": "distinct", "level": "max", "at": "min", "message": "last", "user": "first"}
MERGED = {"id": "a", "bytes": 12, "host": ["x", "y"], "level": 9, "at": "10:01", "message": "two", "user": "ann"}


class Row(NamedTuple):
    id: str
    bytes: int
    host: str


def compacted(events: list[Any], keep: Any) -> tuple[list[Any], list[DeadLetter]]:
    """Return what is kept of each key, and the dead letters."""
    kept: list[Any] = []
    letters: list[DeadLetter] = []
    chunks: rx.Subject[Any] = rx.Subject()
    operator = rxo.compact(10, key_mapper="id", keep=keep, chunked=True, dead_letters=letters.append)
    chunks.pipe(operator).subscribe(
        lambda window: kept.extend(each.event for each in window), scheduler=VirtualTimeScheduler(0.0)
    )
    chunks.on_next(events)
    chunks.on_completed()
    return kept, letters


def test_each_field_is_merged_in_its_way_and_what_is_missing_changes_nothing() -> None:
    assert reduce(merge(KINDS), EVENTS) == MERGED
    assert compacted(EVENTS, merge(**KINDS)) == ([MERGED], [])


def test_lines_of_json_are_merged_as_their_objects_are() -> None:
    assert compacted([json.dumps(event).encode() for event in EVENTS], merge(KINDS)) == ([MERGED], [])


def test_objects_become_dicts() -> None:
    kept, _ = compacted([Row("a", 1, "x"), Row("a", 2, "y")], merge(bytes="sum"))
    assert kept == [{"id": "a", "bytes": 3, "host": "x"}]


def test_a_key_that_comes_once_has_the_form_of_the_others() -> None:
    kept, _ = compacted(
        [{"id": "a", "host": "x"}, {"id": "b", "host": ["x", "y", "x"]}, {"id": "c"}], merge(host="distinct")
    )
    assert kept == [{"id": "a", "host": ["x"]}, {"id": "b", "host": ["x", "y"]}, {"id": "c"}]


def test_the_events_themselves_do_not_change() -> None:
    first: dict[str, Any] = {"id": "a", "labels": {"n": 1, "app": "x"}}
    kept, _ = compacted([first, {"id": "a", "labels": {"n": 2}}], merge({"labels.n": "sum"}))
    assert kept == [{"id": "a", "labels": {"n": 3, "app": "x"}}]
    assert first == {"id": "a", "labels": {"n": 1, "app": "x"}}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"a.b": 1}, {"a": {"b": 2}}, {"a.b": 3}),
        ({"a": {"b.c": 1}}, {"a.b.c": 2}, {"a": {"b.c": 3}}),
    ],
)
def test_a_name_means_what_it_means_everywhere(first: Any, second: Any, expected: Any) -> None:
    name = "a.b.c" if "a.b.c" in second else "a.b"
    assert merge({name: "sum"})(first, second) == expected


def test_distinct_values_are_those_of_json_and_at_most_100() -> None:
    events = [{"id": 1, "v": value} for value in (1, True, 1.0, "1", 1, [True, {"x": 1}], {"x": 1})]
    kept, _ = compacted(events, merge(v="distinct"))
    assert [json.dumps(value) for value in kept[0]["v"]] == ["1", "true", "1.0", '"1"', '{"x": 1}']
    kept, _ = compacted([{"id": 1, "v": n} for n in range(1000)], merge(v="distinct"))
    assert kept[0]["v"] == [*range(100)]


@pytest.mark.parametrize("wrong", ["5", True, [1]])
def test_a_value_that_cannot_be_merged_rejects_its_event_alone(wrong: Any) -> None:
    events = [{"id": "a", "n": value, "m": 1} for value in (wrong, 1, wrong, 2)]
    kept, letters = compacted(events, merge(m="sum", n="sum"))
    assert kept == [{"id": "a", "n": 3, "m": 2}]
    assert [(letter.outcome, letter.reason, letter.event) for letter in letters] == [
        ("rejected", "accumulator", events[0]),
        ("rejected", "accumulator", events[2]),
    ]
    assert all(isinstance(letter.error, AccumulatorError) for letter in letters)


@pytest.mark.parametrize("fields", [{"a": "avg"}, {"a[].b": "sum"}, {"a[0]": "sum"}, {"": "sum"}])
def test_what_can_never_be_merged_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ArgumentError):
        merge(fields)
