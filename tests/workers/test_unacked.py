"""UnackedMessages: which replies are sent for messages, where to, and what becomes of replies that fail."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rxcompact.brokers.unacked import ACK, AT_ONCE, IN_PROGRESS, NAK, UnackedMessages


def delivery(sequence: int, number: int = 1) -> bytes:
    """Return where to reply to a delivery of a message: its first, second, …"""
    return b"reply.%d.%d" % (sequence, number)


def identity_of(reply: bytes) -> bytes:
    return reply.split(b".")[1]


class Messages:
    """Unacknowledged messages, and the replies that are sent for them."""

    def __init__(self, ack_wait: float = 30.0) -> None:
        self.unacked = UnackedMessages(100, ack_wait)
        self.sent: list[tuple[bytes, bytes]] = []

    def take(self, *replies: bytes) -> list[bytes]:
        """Return the identities of the new ones."""
        bodies = [b"body of " + reply for reply in replies]
        identities, found = self.unacked.take([*map(identity_of, replies)], replies, bodies)
        assert len(identities) == len(found)
        return list(identities)

    async def send(self, kind: bytes, replies: Sequence[bytes]) -> None:
        self.sent += [(kind, reply) for reply in replies]

    async def replies(self) -> list[tuple[bytes, bytes]]:
        self.sent.clear()
        await self.unacked.flush(self.send)
        assert not self.unacked.pending_replies
        return list(self.sent)


async def test_a_message_that_is_delivered_again_while_it_is_held_is_acknowledged_where_it_came_last() -> None:
    messages = Messages()
    first, second = messages.take(delivery(1), delivery(2))
    assert messages.take(delivery(3), delivery(1, 2)) == [identity_of(delivery(3))]
    assert len(messages.unacked) == 3
    messages.unacked.settle([first, second])
    assert len(messages.unacked) == 1
    assert await messages.replies() == [(ACK, delivery(1, 2)), (ACK, delivery(2))]


async def test_a_message_that_comes_twice_in_a_turn_is_taken_once() -> None:
    messages = Messages()
    [identity] = messages.take(delivery(1), delivery(1, 2))
    messages.unacked.settle([identity])
    assert await messages.replies() == [(ACK, delivery(1, 2))]


async def test_a_message_that_is_delivered_again_when_it_was_settled_is_acknowledged_at_once() -> None:
    messages = Messages()
    messages.unacked.settle(messages.take(delivery(1)))
    assert messages.take(delivery(1, 2), delivery(2)) == [identity_of(delivery(2))]
    assert await messages.replies() == [(ACK, delivery(1)), (ACK, delivery(1, 2))]


async def test_settled_messages_are_taken_again_when_they_are_forgotten() -> None:
    messages = Messages()
    messages.unacked.settle(messages.take(delivery(1)))
    messages.unacked.forget()
    assert messages.take(delivery(1)) == [identity_of(delivery(1))]
    assert await messages.replies() == []


async def test_as_many_settled_messages_are_remembered_as_asked_for_and_at_most_twice_as_many() -> None:
    messages = Messages()
    for sequence in range(250):
        messages.unacked.settle(messages.take(delivery(sequence)))
    await messages.replies()
    again = {sequence for sequence in range(250) if not messages.take(delivery(sequence, 2))}
    assert again >= set(range(150, 250))
    assert len(again) <= 200


async def test_what_is_given_back_has_one_reply_and_is_not_acknowledged() -> None:
    messages = Messages()
    first, _ = messages.take(delivery(1), delivery(2))
    messages.unacked.give_back([first])
    messages.unacked.give_back()
    assert await messages.replies() == [(NAK, delivery(1)), (NAK, delivery(2))]
    assert not len(messages.unacked)


async def test_what_is_taken_again_before_it_was_given_back_is_not_given_back() -> None:
    messages = Messages()
    messages.take(delivery(1))
    messages.unacked.give_back()
    assert len(messages.take(delivery(1))) == 1
    assert await messages.replies() == []


async def test_what_was_removed_is_acknowledged_unless_it_is_held_and_lost_unless_it_was_settled() -> None:
    messages = Messages()
    held, settled = messages.take(delivery(1), delivery(2))
    messages.unacked.settle([settled])
    await messages.replies()
    gone = [held, settled, b"never seen"]
    assert messages.unacked.drop(gone) == [b"never seen"]
    assert await messages.replies() == [(ACK, settled), (ACK, b"never seen")]


@pytest.mark.parametrize("error", [ConnectionError(), RuntimeError(), TimeoutError()])
async def test_replies_that_fail_stay_queued(error: Exception) -> None:
    messages = Messages()
    messages.unacked.settle(messages.take(*(delivery(sequence) for sequence in range(AT_ONCE + 1))))
    calls: list[int] = []

    async def failing(_: bytes, replies: Sequence[bytes]) -> None:
        calls.append(len(replies))
        if len(calls) > 1:
            raise error

    with pytest.raises(type(error)):
        await messages.unacked.flush(failing)
    assert calls == [AT_ONCE, 1]
    assert await messages.replies() == [(ACK, delivery(AT_ONCE))]


async def test_a_message_is_in_progress_when_half_of_ack_wait_is_over_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    messages = Messages(ack_wait=8.0)
    [first] = messages.take(delivery(1))
    found: list[tuple[float, list[tuple[bytes, bytes]]]] = []
    for step in range(1, 7):
        now = 1000.0 + 2 * step
        if step == 2:
            messages.take(delivery(2))
        if step == 5:
            messages.unacked.settle([first])
        await messages.unacked.wait()  # a quarter of ack_wait
        found.append((now - 1000, await messages.replies()))
    # the first is taken at 0 and in progress at 4 and 8, the second taken at 4 and in progress at 8 and 12
    first_one, second_one = (IN_PROGRESS, delivery(1)), (IN_PROGRESS, delivery(2))
    assert found == [
        (2, []), (4, [first_one]), (6, []), (8, [second_one, first_one]), (10, [(ACK, delivery(1))]), (12, [second_one])
    ]  # fmt: skip
