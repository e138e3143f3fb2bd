"""Publishes distinct events to a JetStream stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import BadSubjectError, Error, MaxPayloadError
from nats.js.api import Header

from rxcompact.brokers.identity import event_id
from rxcompact.brokers.jetstream.connection import Servers
from rxcompact.clock import Seconds, seconds
from rxcompact.errors import PermanentError, TransientError
from rxcompact.events import Compacted
from rxcompact.sinks.encoding import encoder, json_object

NO_RESPONDERS, BAD_REQUEST = "503", 400


class JetStreamSink:
    """Publishes each event as a JSON message with a ``Nats-Msg-Id``: of two that are the same the stream drops one.

    The messages of a batch are sent one after the other, and acknowledged by the server meanwhile.

    Args:
        servers: URLs of NATS; credentials in them are shown nowhere.
        subject: Where to; or a function of a `Compacted`.
        to_json: Makes of a `Compacted` what is sent; by default all its fields.
        identity: Makes its id; by default `event_id`. The stream knows ids for its ``duplicate_window``.
        timeout: Seconds a batch may take to be acknowledged.
        options: Of `nats.connect`, such as ``user_credentials``, ``token`` or ``tls``.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        subject: str | Callable[[Compacted], str],
        to_json: Callable[[Compacted], Any] = json_object,
        identity: Callable[[Compacted], str] = event_id,
        timeout: Seconds = 10.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._servers = Servers(servers, options)
        self._subject = subject
        self._to_json = to_json
        self._identity = identity
        self._timeout = seconds("timeout", timeout)
        self._client: Client | None = None
        self._inbox = ""
        self._connecting = asyncio.Lock()
        self._next = 0  # number of an event
        self._replies: dict[int, asyncio.Future[BaseException | None]] = {}

    def __repr__(self) -> str:
        return f"JetStreamSink({str(self._servers)!r}, subject={self._subject!r})"

    async def publish(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException] | None:
        """Publish a batch; return the error of each position that was not taken.

        Raises:
            TransientError: when there is no connection.
        """
        client = await self._connected()
        numbers = range(self._next, self._next + len(batch))
        self._next = numbers.stop
        loop = asyncio.get_running_loop()
        replies: dict[int, asyncio.Future[BaseException | None]] = {number: loop.create_future() for number in numbers}
        self._replies |= replies
        try:
            for number, compacted in zip(numbers, batch, strict=True):
                try:
                    await self._send(client, compacted, f"{self._inbox}.{number}")
                except Exception as error:  # noqa: BLE001 - of one event; the others go on
                    self._complete(number, _failure(error))
            if replies:
                await asyncio.wait(replies.values(), timeout=self._timeout)
        finally:
            for number in numbers:
                del self._replies[number]
        late = TransientError("not acknowledged in time")
        results = [reply.result() if reply.done() else late for reply in replies.values()]
        return {position: error for position, error in enumerate(results) if error is not None} or None

    async def _send(self, client: Client, compacted: Compacted, reply: str) -> None:
        try:
            subject = self._subject if isinstance(self._subject, str) else self._subject(compacted)
            headers = {Header.MSG_ID.value: self._identity(compacted)}
            body = encoder.encode(self._to_json(compacted))
        except Exception as error:
            raise PermanentError(f"cannot be made a message: {type(error).__name__}") from error
        await client.publish(subject, body, reply=reply, headers=headers)

    async def _on_reply(self, message: Msg) -> None:
        # nats-py's ``publish_async`` loses the replies that are errors
        self._complete(int(message.subject.rpartition(".")[2]), _refusal(message))

    def _complete(self, number: int, error: BaseException | None) -> None:
        reply = self._replies.get(number)
        if reply is not None and not reply.done():
            reply.set_result(error)

    def _fail(self, error: TransientError) -> None:
        for number in self._replies:  # what was on its way will not be answered
            self._complete(number, error)

    async def _connected(self) -> Client:
        async with self._connecting:
            client = self._client
            if client is None or not client.is_connected:
                client = await self._servers.connect(self._fail)
                self._inbox = client.new_inbox()
                await client.subscribe(f"{self._inbox}.*", cb=self._on_reply)
                self._client = client
            return client

    async def aclose(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _refusal(message: Msg) -> BaseException | None:
    if (message.headers or {}).get(Header.STATUS.value) == NO_RESPONDERS:
        return TransientError("no stream stores this subject")
    error: dict[str, Any] | None = msgspec.json.decode(message.data).get("error")
    if error is None:
        return None
    kind = PermanentError if error.get("code") == BAD_REQUEST else TransientError
    return kind(str(error.get("description")))


def _failure(error: BaseException) -> BaseException:
    if isinstance(error, MaxPayloadError | BadSubjectError):
        return PermanentError(str(error))
    return TransientError(str(error)) if isinstance(error, Error) else error
