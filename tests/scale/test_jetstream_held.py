"""What is said of messages that come again: where, and which."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("nats")

from rxcompact.brokers.jetstream.connection import Servers
from rxcompact.brokers.jetstream.held import Held

if TYPE_CHECKING:
    from .conftest import NatsServer


def v1(sequence: int, *, delivered: int = 1, stamp: int = 7) -> bytes:
    return b"$JS.ACK.IN.workers.%d.%d.%d.%d.5" % (delivered, sequence, sequence + delivered, stamp)


def v2(sequence: int, *, delivered: int = 1, stamp: int = 7) -> bytes:
    """As ADR-15 has it: with a domain, an account and a token."""
    return b"$JS.ACK.hub.ABC.IN.workers.%d.%d.%d.%d.5.tok" % (delivered, sequence, sequence + delivered, stamp)


def said(server: NatsServer, held: Held) -> list[tuple[str, bytes]]:
    """Return what the server heard, and where."""
    heard: list[tuple[str, bytes]] = []

    async def main() -> None:
        client = await Servers(server.url, None).connect()
        listener = await Servers(server.url, None).connect()

        async def take(message: Any) -> None:
            heard.append((message.subject, message.data))

        await listener.subscribe("$JS.ACK.>", cb=take)
        await listener.flush()
        await held.tell(client)
        await client.flush()
        await listener.drain()
        await client.close()

    asyncio.run(main())
    return heard


@pytest.mark.parametrize("reply", [v1, v2])
def test_a_message_that_comes_again_while_it_is_held_is_acknowledged_where_it_came_last(
    server: NatsServer, reply: Callable[..., bytes]
) -> None:
    held = Held(100)
    identities, bodies = held.take([reply(1), reply(2)], [b"a", b"b"])
    assert list(bodies) == [b"a", b"b"]
    assert held.take([reply(3), reply(1, delivered=2)], [b"c", b"a"])[1] == [b"c"]
    assert len(held) == 3
    held.settle(identities)
    assert len(held) == 1
    assert said(server, held) == [(reply(1, delivered=2).decode(), b"+ACK"), (reply(2).decode(), b"+ACK")]


@pytest.mark.parametrize("reply", [v1, v2])
def test_a_message_that_comes_twice_in_a_turn_is_taken_once(server: NatsServer, reply: Callable[..., bytes]) -> None:
    held = Held(100)
    identities, bodies = held.take([reply(1), reply(1, delivered=2)], [b"a", b"a"])
    assert list(bodies) == [b"a"]
    held.settle(identities)
    assert said(server, held) == [(reply(1, delivered=2).decode(), b"+ACK")]


def test_a_message_that_comes_again_when_it_was_settled_is_acknowledged_at_once(server: NatsServer) -> None:
    held = Held(100)
    identities, _ = held.take([v1(1)], [b"a"])
    held.settle(identities)
    assert held.take([v1(1, delivered=2), v1(2)], [b"a", b"b"])[1] == [b"b"]
    assert [where for where, _ in said(server, held)] == [v1(1).decode(), v1(1, delivered=2).decode()]


def test_a_message_of_a_stream_that_was_made_anew_is_another() -> None:
    held = Held(100)
    held.settle(held.take([v1(1)], [b"a"])[0])
    assert held.take([v1(1, stamp=8)], [b"b"])[1] == [b"b"]


def test_what_is_given_back_is_said_once_and_not_acknowledged(server: NatsServer) -> None:
    held = Held(100)
    identities, _ = held.take([v1(1), v1(2)], [b"a", b"b"])
    held.give_back(identities[:1])
    held.give_back()
    assert said(server, held) == [(v1(1).decode(), b"-NAK"), (v1(2).decode(), b"-NAK")]
    assert not len(held)
