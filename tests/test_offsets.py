"""The commits of a partition: the first offset that is held, and which are settled behind it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxcompact.brokers.offsets import Offsets, PartitionedMessages

LIMIT = 4096


def took(*offsets: int, committed: int = 0) -> Offsets:
    """Return a partition of which these came, up to the last of them."""
    found = Offsets(committed)
    assert list(found.take(offsets)) == list(offsets)
    found.pass_to(max(offsets, default=committed - 1) + 1)
    return found


def settle(offsets: Offsets, *settled: int) -> None:
    messages = PartitionedMessages()
    messages.known[1] = offsets
    messages.settle((1, offset) for offset in settled)


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
    offsets = took(0, 5, 6, 20, committed=0)
    offsets.pass_to(23)  # as behind a transaction
    assert after(offsets, 0) == (5, "rxcompact 2 13 1 2")
    assert after(offsets, 5, 6, 20) == (23, "")


@pytest.mark.parametrize("metadata", ["", "of another program", "rxcompact", "rxcompact x", "rxcompact 1 -2", "1 2"])
def test_metadata_of_others_is_ignored(metadata: str) -> None:
    offsets = Offsets(7, metadata)
    assert (offsets.position, list(offsets.held)) == (7, [])


def test_of_what_the_next_worker_fetches_it_takes_what_was_held() -> None:
    offsets = Offsets(3, "rxcompact 1 13 2 21 1 9")
    assert offsets.position == 3
    assert list(offsets.take(range(3, 60))) == [3, 17, 18, 40, *range(50, 60)]
    offsets.pass_to(60)
    assert after(offsets, 17, 40) == (3, "rxcompact 1 14 1 31")


def test_what_is_held_and_was_removed_from_the_topic_is_counted_as_lost() -> None:
    offsets = Offsets(3, "rxcompact 1 13 2 21")
    assert offsets.pass_to(18) == 2  # 3 and 17
    assert after(offsets) == (18, "rxcompact 1 21")
    assert offsets.pass_to(50) == 1 + 10
    assert after(offsets) == (50, "")


def test_metadata_is_cut_to_its_limit_and_no_more_is_fetched_before() -> None:
    offsets = took(*range(1000))
    settle(offsets, *range(1, 81, 2))
    assert offsets.to_commit(256) == (0, "rxcompact" + " 1 1" * 40)
    assert not offsets.full
    settle(offsets, *range(81, 1000, 2))
    assert offsets.to_commit(256) == (0, "rxcompact" + " 1 1" * 61)
    assert offsets.full


# ── a partition that goes away and comes back ─────────────────────────────────────────────────────────────────────────


def resumed(before: Offsets, committed: int, metadata: str = "") -> Offsets:
    offsets = Offsets(committed, metadata)
    offsets.resume(before)
    return offsets


def test_what_this_process_holds_or_settled_is_not_taken_again() -> None:
    before = took(*range(10))
    after(before, 0, 4)
    offsets = resumed(before, 0)  # nothing of it was committed
    assert offsets.position == 10
    assert list(offsets.take(range(15))) == [*range(10, 15)]
    offsets.pass_to(15)
    assert after(offsets, 1, 2, 3, 11) == (5, "rxcompact 6 1")


def test_what_another_worker_settled_meanwhile_is_held_no_longer() -> None:
    before = took(*range(10))
    offsets = resumed(before, 2, "rxcompact 1 3 2 4")  # it holds 2, 6 and 7
    assert list(offsets.held) == [2, 6, 7]
    assert list(offsets.take(range(2, 14))) == [12, 13]
    assert list(resumed(before, 30).held) == []


def test_a_position_that_was_set_back_has_all_of_it_taken_again() -> None:
    before = took(*range(5, 10), committed=5)
    assert list(resumed(before, 0).take(range(10))) == list(range(10))


def test_what_was_given_back_is_taken_again() -> None:
    messages = PartitionedMessages()
    messages.known[1] = took(*range(5))
    messages.settle([(1, 0), (1, 3)])
    assert len(messages) == 3
    messages.give_back()
    assert len(messages) == 0
    assert list(resumed(messages.known[1], 0).take(range(6))) == [1, 2, 4, 5]


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
    offsets = took(*there, committed=first)
    offsets.pass_to(end)
    committed, metadata = after(offsets, *sorted(settled, reverse=True)) and offsets.to_commit(limit)
    assert len(metadata) <= limit
    fetched = [*there, *range(end, end + rest)]
    again = list(Offsets(committed, metadata).take([offset for offset in fetched if offset >= committed]))
    held = set(there) - settled
    assert held <= set(again)
    if limit == LIMIT:
        assert set(again) == held | set(range(end, end + rest))
