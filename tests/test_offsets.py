"""The commits of a partition: the first offset that is held, and which are settled behind it."""

from __future__ import annotations

import random
import zlib
from base64 import b85encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxcompact.brokers.offsets import Offsets, PartitionedMessages

LIMIT = 4096


def took(*offsets: int, committed: int = 0) -> Offsets:
    """Return a partition of which these came, up to the last of them."""
    found = Offsets(1, committed)
    assert took_of(found, *offsets) == list(offsets)
    return found


def took_of(found: Offsets, *offsets: int, until: int | None = None) -> list[int]:
    """Return which of these are new; what is fetched next stands behind the last."""
    return list(found.take(offsets, until or offsets[-1] + 1))


def settle(offsets: Offsets, *settled: int) -> None:
    for offset in settled:
        offsets.settle([offset])


def after(offsets: Offsets, *settled: int) -> tuple[int, str]:
    settle(offsets, *settled)
    return offsets.to_commit(LIMIT)


def test_the_first_offset_that_is_held_is_committed_with_the_runs_behind_it() -> None:
    assert after(took(*range(10))) == (0, "")
    assert after(took(*range(10)), 0, 1) == (2, "")
    assert after(took(*range(10)), *range(10)) == (10, "")
    assert after(took(*range(10)), 0, 3, 4, 9) == (1, "rxcompact 2 2 4 1")
    assert after(took(*range(10)), 5) == (0, "rxcompact 5 1")


def test_offsets_of_no_message_hold_nothing_back() -> None:
    offsets = Offsets(1, 0)
    assert took_of(offsets, 0, 5, 6, 20, until=23) == [0, 5, 6, 20]  # a transaction ends at 22
    assert after(offsets, 0) == (5, "")
    assert after(offsets, 6) == (5, "rxcompact 1 14")
    assert offsets.skip(30) == 7
    assert after(offsets, 20) == (5, "rxcompact 1 24")
    assert after(offsets, 5) == (30, "")


def test_messages_are_settled_together_with_the_gaps_between_them() -> None:
    offsets = took(3, 4, 7, 20, 21)
    assert after(offsets) == (3, "")
    offsets.settle([4, 7, 20])
    assert offsets.to_commit(LIMIT) == (3, "rxcompact 1 17")
    offsets.settle([3])
    assert offsets.to_commit(LIMIT) == (21, "")


@pytest.mark.parametrize("metadata", ["", "of another program", "rxcompact", "rxcompact x", "rxcompact 1 -2", "1 2"])
def test_metadata_of_others_is_ignored(metadata: str) -> None:
    offsets = Offsets(1, 7, metadata)
    assert (offsets.position, after(offsets)) == (7, (7, ""))


def test_of_what_the_next_worker_fetches_it_takes_what_was_held() -> None:
    offsets = Offsets(1, 3, "rxcompact 1 13 2 21 1 9")
    assert offsets.position == 3
    assert offsets.take(range(3, 60), 60) == [3, 17, 18, 40, *range(50, 60)]
    assert after(offsets, 17, 40) == (3, "rxcompact 1 14 1 31")


def test_what_is_held_and_was_removed_from_the_topic_is_counted_as_lost() -> None:
    offsets = Offsets(1, 3, "rxcompact 1 13 2 21")
    assert offsets.skip(18) == 2  # 3 and 17
    assert after(offsets) == (18, "rxcompact 1 21")
    assert offsets.skip(50) == 1 + 10
    assert after(offsets) == (50, "")


def test_metadata_that_is_long_is_packed_and_cut_to_its_limit_and_no_more_is_fetched_before() -> None:
    offsets = took(*range(1000))
    settle(offsets, *range(1, 59, 2))
    assert offsets.to_commit(256) == (0, "rxcompact" + " 1 1" * 29)
    chosen = random.Random(7)
    for settled in (100, 900):
        settle(offsets, *(offset for offset in range(61, 61 + settled) if chosen.random() < 0.5))
        first, metadata = offsets.to_commit(256)
        assert metadata.startswith("rxcompact:")
        assert offsets.full == (settled == 900)
        assert len(metadata) <= 256
        next_worker = Offsets(1, first, metadata)
        new = next_worker.take(range(1000), 1000)
        assert set(new) >= set(offsets._held)
        assert (len(new) == len(offsets)) == (settled == 100)


@pytest.mark.parametrize("end", ["", "x", "\ud800", "c-" * 50, b85encode(zlib.compress(b"0" * 10**8)).decode()])
def test_packed_metadata_that_is_damaged_is_ignored(end: str) -> None:
    offsets = Offsets(1, 7, "rxcompact:" + end)
    assert (offsets.position, after(offsets)) == (7, (7, ""))


# ── a partition that goes away and comes back ─────────────────────────────────────────────────────────────────────────


def test_what_this_process_holds_or_settled_is_not_taken_again() -> None:
    offsets = took(*range(10))
    after(offsets, 0, 4)
    assert offsets.resume(Offsets(1, 0)) is offsets  # nothing of it was committed
    assert offsets.position == 10
    assert took_of(offsets, *range(10, 15)) == [*range(10, 15)]
    assert after(offsets, 1, 2, 3, 11) == (5, "rxcompact 6 1")


def test_what_another_worker_settled_meanwhile_is_held_no_longer() -> None:
    offsets = took(*range(10))
    offsets.resume(Offsets(1, 2, "rxcompact 1 3 2 4"))  # it settled all but 2, 6 and 7, up to 12
    assert after(offsets) == (2, "rxcompact 1 3 2 4")
    assert took_of(offsets, 12, 13) == [12, 13]
    assert after(offsets.resume(Offsets(1, 30))) == (30, "")


def test_what_another_worker_held_is_taken_between_what_this_process_holds() -> None:
    offsets = took(*range(5))
    offsets.resume(Offsets(1, 0, "rxcompact 8 2"))  # it did not settle 5 to 7
    assert offsets.position == 5
    assert offsets.take(range(5, 12), 12) == [5, 6, 7, 10, 11]
    assert after(offsets, 5, 6, 7, 10) == (0, "rxcompact 5 6")


def test_a_position_that_was_set_back_has_all_of_it_taken_again() -> None:
    before = took(*range(5, 10), committed=5)
    after = before.resume(Offsets(1, 0))
    assert took_of(after, *range(10)) == list(range(10))
    before.settle([5, 6])  # of messages that came before
    assert after.to_commit(LIMIT) == (0, "")


def test_what_was_given_back_is_taken_again() -> None:
    messages = PartitionedMessages()
    messages.known[1] = offsets = took(0, 1, 2, 3, 9)
    settle(offsets, 0, 3)
    assert len(messages) == 3
    settle(offsets, 1)
    messages.give_back()
    assert len(messages) == 0
    assert not messages.known
    begun = Offsets(1, *offsets.to_commit(LIMIT))
    assert begun.position == 2
    assert took_of(begun, 2, 3, 9, 10) == [2, 9, 10]
    assert after(begun, 2) == (9, "")  # there is nothing between 3 and 9


@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.booleans(), st.booleans()), max_size=200),
    st.integers(0, 20),
    st.sampled_from([64, LIMIT]),
)
def test_whoever_is_next_takes_what_was_held_and_nothing_that_the_commit_has(
    first: int, present: list[tuple[bool, bool]], rest: int, limit: int
) -> None:
    there = [first + number for number, (exists, _) in enumerate(present) if exists]
    settled = {first + number for number, (exists, done) in enumerate(present) if exists and done}
    end = first + len(present)
    offsets = Offsets(1, first)
    assert not there or took_of(offsets, *there, until=end) == there
    offsets.skip(end)
    settle(offsets, *sorted(settled, reverse=True))
    committed, metadata = offsets.to_commit(limit)
    assert len(metadata) <= limit
    fetched = [offset for offset in (*there, *range(end, end + rest)) if offset >= committed]
    again = took_of(Offsets(1, committed, metadata), *fetched) if fetched else []
    held = set(there) - settled
    assert held <= set(again)
    assert len(again) == len(set(again))
    if limit == LIMIT:
        assert set(again) == held | set(range(end, end + rest))
