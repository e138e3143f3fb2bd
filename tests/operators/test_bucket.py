"""The bucket: what is kept of each key, evictions, and events that cannot be added."""

from __future__ import annotations

import time
from itertools import repeat
from typing import Any, cast

import pytest

from rxcompact.acks import Ack
from rxcompact.events import Bounds, Compacted
from rxcompact.operators import compact
from rxcompact.operators.bucket import FIELDS, Bucket, EventBucket, RowBucket
from rxcompact.operators.keyed import NO_ACKS, KeyedBucket

BOUNDS = Bounds(0.0, 10.0, "time")


class Rejections(list[tuple[Any, Exception]]):
    def __call__(self, event: Any, error: Exception) -> None:
        self.append((event, error))


def rows(**options: Any) -> tuple[RowBucket, Rejections]:
    rejected = Rejections()
    return RowBucket(rejected, **({"keep": "first", "fields": FIELDS} | options)), rejected


def evicted(bucket: Bucket, times: int) -> list[tuple[Any, ...]]:
    return [tuple(bucket.evict()[0]) for _ in range(times)]


def test_a_row_has_the_event_its_count_and_its_arrivals() -> None:
    bucket, _ = rows()
    bucket.add(["a", "b", "a"], ["a1", "b1", "a2"], 1.0)
    bucket.add(["b", "c"], ["b2", "c1"], 2.0)
    window = bucket.close(BOUNDS)
    assert [tuple(compacted) for compacted in window] == [
        ("a", "a1", 2, 1.0, 1.0),
        ("b", "b1", 2, 1.0, 2.0),
        ("c", "c1", 1, 2.0, 2.0),
    ]
    assert window.received == 5
    assert {compacted.window for compacted in window} == {BOUNDS}


@pytest.mark.parametrize(("keep", "expected"), [("first", ["a1", "b1"]), ("last", ["a2", "b1"])])
@pytest.mark.parametrize("fields", [FIELDS, ("first_seen",), ()])
def test_the_first_or_the_last_event_is_kept(keep: Any, expected: list[str], fields: Any) -> None:
    make = RowBucket if "count" in fields else EventBucket
    bucket = make(Rejections(), keep, fields)
    bucket.add(["a", "b", "a"], ["a1", "b1", "a2"], 1.0)
    assert [compacted.event for compacted in bucket] == expected


@pytest.mark.parametrize("fields", [("count",), ("last_seen",), ("count", "first_seen"), ("first_seen", "last_seen")])
def test_fields_that_were_not_asked_for_are_none(fields: Any) -> None:
    bucket, _ = rows(fields=fields)
    bucket.add(["a", "a"], ["a1", "a2"], 1.0)
    bucket.add(["b"], ["b1"], 3.0)
    kept = {"count": (2, 1), "first_seen": (1.0, 3.0), "last_seen": (1.0, 3.0)}
    for position, compacted in enumerate([*bucket.close(BOUNDS)]):
        for field in FIELDS:
            assert getattr(compacted, field) == (kept[field][position] if field in fields else None)
    assert evicted(bucket, 1)[0][2:] == tuple(kept[field][0] if field in fields else None for field in FIELDS)


def test_event_times_give_the_earliest_and_the_latest_in_any_order() -> None:
    bucket, _ = rows()
    bucket.add(["a", "b", "a", "a"], list("1234"), [5.0, 4.0, 3.0, 7.0])
    bucket.add(["a", "b"], list("56"), [6.0, 4.5])
    assert [tuple(compacted) for compacted in bucket] == [("a", "1", 4, 3.0, 7.0), ("b", "2", 2, 4.0, 4.5)]
    assert bucket.oldest() == 3.0
    assert evicted(bucket, 1) == [("a", "1", 4, 3.0, 7.0)]
    assert bucket.oldest() == 4.0


def test_an_accumulators_event_has_the_earliest_and_the_latest_time_too() -> None:
    bucket, _ = rows(keep=lambda kept, event: kept + event)
    bucket.add(["a", "a", "a"], [1, 2, 4], [5.0, 3.0, 9.0])
    (compacted,) = bucket.close(BOUNDS)
    assert compacted[:5] == ("a", 7, 3, 3.0, 9.0)


def test_the_last_event_received_is_kept_whatever_its_time() -> None:
    bucket, _ = rows(keep="last")
    bucket.add(["a", "a", "b"], ["a1", "a2", "b1"], [5.0, 3.0, 4.0])
    assert [tuple(compacted) for compacted in bucket] == [("a", "a2", 2, 3.0, 5.0), ("b", "b1", 1, 4.0, 4.0)]


def test_the_oldest_is_by_first_arrival_and_not_by_the_last() -> None:
    bucket, _ = rows()
    bucket.add(["a", "b"], ["a1", "b1"], 1.0)
    bucket.add(["a"], ["a2"], 2.0)
    assert bucket.oldest() == 1.0


@pytest.mark.parametrize("fields", [FIELDS, ("first_seen",)])
def test_times_and_counts_are_right_after_evictions(fields: Any) -> None:
    bucket = (RowBucket if "count" in fields else EventBucket)(Rejections(), "first", fields)
    for second, key in enumerate("abcab", 1):
        bucket.add([key], [key], float(second))
    assert [compacted[3] for compacted in map(tuple, bucket)] == [1.0, 2.0, 3.0]
    assert [tuple_[0::3] for tuple_ in evicted(bucket, 2)] == [("a", 1.0), ("b", 2.0)]
    assert bucket.oldest() == 3.0
    bucket.add(["a", "d"], ["a", "d"], 6.0)
    assert [(c.key, c.first_seen) for c in bucket] == [("c", 3.0), ("a", 6.0), ("d", 6.0)]
    assert [tuple_[0::3] for tuple_ in evicted(bucket, 3)] == [("c", 3.0), ("a", 6.0), ("d", 6.0)]
    assert (len(bucket), bucket.oldest()) == (0, None)
    with pytest.raises(KeyError):
        bucket.evict()


def test_what_is_evicted_is_not_received() -> None:
    bucket, _ = rows()
    bucket.add(["a", "b", "a"], ["a1", "b1", "a2"], 1.0)
    bucket.evict()
    assert bucket.close(BOUNDS).received == 1


@pytest.mark.bench
def test_evicting_the_oldest_is_linear_in_keys() -> None:
    def cost(keys: int) -> float:
        bucket, _ = rows()
        bucket.add(range(keys // 2), range(keys // 2), 1.0)
        start = time.process_time()
        for key in range(keys // 2, keys):
            bucket.evict()
            bucket.add((key,), (key,), 2.0)
        return time.process_time() - start

    cost(1000)
    # twenty times the keys; a scan for the oldest would cost up to four hundred times
    assert cost(200_000) < 50 * min(cost(10_000) for _ in range(3))


def test_an_accumulator_that_raises_rejects_that_event_and_is_the_cause() -> None:
    def add(acc: int, event: int) -> int:
        if event < 0:
            raise OSError("negative")
        return acc + event

    bucket, rejected = rows(keep=add)
    bucket.add(["a", "a", "a", "b"], [1, -1, 2, -5], 1.0)
    assert [tuple(c) for c in bucket] == [("a", 3, 2, 1.0, 1.0), ("b", -5, 1, 1.0, 1.0)]
    assert bucket.close(BOUNDS).received == 3
    [(event, error)] = rejected
    assert event == -1
    assert isinstance(error.__cause__, OSError)
    assert str(error) == "accumulator raised OSError: negative"


def test_acknowledgements_wait_for_the_keys_of_their_events() -> None:
    bucket, _ = rows()
    one, two = Ack(list, left=2), Ack(list, left=1)
    bucket.add("aba", "aba", 1.0)
    bucket.wait("aba", [one, two, one])
    assert bucket.close(BOUNDS).acks == {"a": [one, one], "b": [two]}


@pytest.mark.parametrize("make", [EventBucket, RowBucket])
@pytest.mark.parametrize(("keep", "held"), [("first", 3), ("last", 5)])
def test_the_bytes_of_its_events_are_counted(make: Any, keep: Any, held: int) -> None:
    bucket = make(Rejections(), keep, ["first_seen"])
    for keys, events in ((["a", "b"], [b"1", b"12"]), (["b"], [b"1234"])):
        bucket.add_sized(keys, events, 1.0, replacing=keep == "last")
    assert bucket.close(BOUNDS).size == held


def test_what_an_accumulator_made_counts_no_bytes_but_where_it_is_bytes() -> None:
    for accumulate, held in ((lambda kept, _: {"kept": kept}, 1), (lambda kept, event: kept + event, 4)):
        bucket, _ = rows(keep=accumulate)
        bucket.add_sized(["a", "a", "b"], [b"1", b"12", b"3"], 1.0, replacing=True)
        assert bucket.size == held


class Picky:
    """An accumulator that takes no first event."""

    def seed(self, event: Any) -> Any:
        raise ValueError(event)

    def __call__(self, kept: Any, event: Any) -> Any:
        raise AssertionError((kept, event))


def test_a_first_event_that_an_accumulator_does_not_take_opens_no_row() -> None:
    bucket, rejected = rows(keep=Picky())
    bucket.add(["a", "a"], ["a1", "a2"], 1.0)
    assert (len(bucket), [event for event, _ in rejected]) == (0, ["a1", "a2"])


def test_windows_per_key_keep_the_last_event_of_messages_too() -> None:
    rejected = Rejections()
    for acks in (False, True):
        bucket = KeyedBucket(cast(Any, compact(60, key_mapper=str)), rejected, "last", FIELDS)
        bucket.incoming = repeat((Ack(list),)) if acks else NO_ACKS
        bucket.add(["a", "a"], ["a1", "a2"], [5.0, 3.0])
        assert [compacted.event for compacted in bucket.close(BOUNDS)] == ["a2"]


def test_a_closed_bucket_is_read_when_an_item_is_asked_for() -> None:
    bucket, _ = rows()
    bucket.add(["a"], ["a1"], 1.0)
    window = bucket.close(BOUNDS)
    assert len(window) == 1
    assert window[0] is window[0]
    assert Compacted("a", "a1", 1, 1.0, 1.0) in window
    assert Compacted("a", "a1", 1, 1.0, 1.0) in bucket
    assert Compacted("b", "a1", 1, 1.0, 1.0) not in bucket
