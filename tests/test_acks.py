"""Acknowledgements wait for the events of their own windows."""

from __future__ import annotations

from rxcompact.acks import Ack, PendingAcks
from rxcompact.events import Bounds, Compacted, Window


def test_of_windows_of_one_instant_with_the_same_key_each_waits_for_its_own_event() -> None:
    settled: list[str] = []
    pending = PendingAcks()
    events = []
    for name in ("first", "second"):  # as windows cut by count may be: equal in everything
        ack = Ack(lambda name=name: settled.append(name))
        ack.retain()
        bounds = Bounds(10.0, 10.0, "count")
        window = pending.add(Window(bounds, 1, [Compacted("a", {}, 1, 10.0, 10.0, bounds)], acks=[(ack, ["a"])]))
        events.append(window[0])
    assert events[0] == events[1]
    pending.settle(events[1:])
    assert settled == ["second"]
    pending.settle([events[0].replace(event={"enriched": True})])
    assert settled == ["second", "first"]


def test_events_that_a_reducer_made_anew_are_of_their_window() -> None:
    settled: list[str] = []
    ack = Ack(lambda: settled.append("all"))
    ack.retain()
    pending = PendingAcks()
    window = pending.add(
        Window(Bounds(0.0, 1.0, "time"), 2, [Compacted("a", {}), Compacted("b", {})], acks=[(ack, "ab")])
    )
    pending.settle([window[1]])
    assert settled == []
    pending.settle([window[0]])
    assert settled == ["all"]


def test_a_window_of_which_no_event_is_left_holds_nothing() -> None:
    settled: list[str] = []
    ack = Ack(lambda: settled.append("all"))
    ack.retain()
    PendingAcks().add(Window(Bounds(0.0, 1.0, "time"), 1, [], acks=[(ack, "a")]))
    assert settled == ["all"]


def test_events_of_one_window_may_have_bounds_of_their_own() -> None:
    settled: list[str] = []
    acks = {name: Ack(lambda name=name: settled.append(name)) for name in "ab"}
    pending = PendingAcks()
    events = []
    for name, ack in acks.items():
        ack.retain()
        events.append(Compacted(name, {}, 1, 0.0, 0.0, Bounds(0.0, 1.0, "gap")))
    pending.add(Window(Bounds(0.0, 1.0, "gap"), 2, events, acks=[(ack, (name,)) for name, ack in acks.items()]))
    pending.settle(events[:1])
    assert settled == ["a"]
    pending.settle(events[1:])
    assert settled == ["a", "b"]
    assert not pending._windows  # pyright: ignore[reportPrivateUsage]
