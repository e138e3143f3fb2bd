"""Acknowledgements wait for the events of their own windows."""

from __future__ import annotations

from rxcompact.acks import Ack, Chunk, PendingAcks, release, retain
from rxcompact.events import Bounds, Compacted, Window


def test_of_windows_of_one_instant_with_the_same_key_each_waits_for_its_own_event() -> None:
    settled: list[str] = []
    pending = PendingAcks()
    events = []
    for name in ("first", "second"):  # as windows cut by count may be: equal in everything
        ack = Ack(settled.extend, name, left=1)
        bounds = Bounds(10.0, 10.0, "count")
        window = pending.add(Window(bounds, 1, [Compacted("a", {}, 1, 10.0, 10.0, bounds)], acks={"a": [ack]}))
        events.append(window[0])
    assert events[0] == events[1]
    pending.settle(events[1:])
    assert settled == ["second"]
    pending.settle([events[0].replace(event={"enriched": True})])
    assert settled == ["second", "first"]


def test_events_that_a_reducer_made_anew_are_of_their_window() -> None:
    settled: list[str] = []
    ack = Ack(settled.extend, "all", left=2)
    pending = PendingAcks()
    window = pending.add(
        Window(Bounds(0.0, 1.0, "time"), 2, [Compacted("a", {}), Compacted("b", {})], acks={key: [ack] for key in "ab"})
    )
    pending.settle([window[1]])
    assert settled == []
    pending.settle([window[0]])
    assert settled == ["all"]


def test_a_window_of_which_no_event_is_left_holds_nothing() -> None:
    settled: list[str] = []
    ack = Ack(settled.extend, "all", left=1)
    PendingAcks().add(Window(Bounds(0.0, 1.0, "time"), 1, [], acks={"a": [ack]}))
    assert settled == ["all"]


def test_events_of_one_window_may_have_bounds_of_their_own() -> None:
    settled: list[str] = []
    acks = {name: [Ack(settled.extend, name, left=1)] for name in "ab"}
    pending = PendingAcks()
    events = []
    for name in acks:
        events.append(Compacted(name, {}, 1, 0.0, 0.0, Bounds(0.0, 1.0, "gap")))
    pending.add(Window(Bounds(0.0, 1.0, "gap"), 2, events, acks=acks))
    pending.settle(events[:1])
    assert settled == ["a"]
    pending.settle(events[1:])
    assert settled == ["a", "b"]
    assert not pending._windows  # pyright: ignore[reportPrivateUsage]


def test_a_message_is_settled_when_all_that_waits_for_it_is_and_together_with_others() -> None:
    settled: list[list[str]] = []
    one, two, three = (Ack(settled.append, name, left=left) for name, left in (("one", 2), ("two", 1), ("three", 1)))
    retain([three])
    release([one, two, three])
    assert settled == [["two"]]
    release([three, one])
    assert sorted(settled[1]) == ["one", "three"]
    assert len(settled) == 2


def test_a_message_without_events_is_settled_when_it_was_pushed() -> None:
    settled: list[str] = []
    chunk = Chunk([], Ack(settled.extend, "empty"))
    release(chunk.acks)
    assert settled == ["empty"]


def test_an_event_has_the_origin_of_its_message() -> None:
    one, two = object(), object()
    chunk = Chunk([one, two], acks=[Ack(list, 1, left=1), Ack(list, 2, left=1)], origin=str)
    assert [chunk.origin_of(each) for each in (one, two, object())] == ["1", "2", None]
