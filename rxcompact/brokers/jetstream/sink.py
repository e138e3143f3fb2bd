"""Publishes distinct events to a JetStream stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nats.errors import BadSubjectError, Error, MaxPayloadError
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import BadRequestError, NoStreamResponseError

from rxcompact.brokers.identity import event_id
from rxcompact.brokers.jetstream.connection import Connection, Servers
from rxcompact.clock import Seconds, seconds
from rxcompact.errors import PermanentError, TransientError
from rxcompact.events import Compacted
from rxcompact.sinks.encoding import encoder, json_object


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
        self._client: Connection | None = None
        self._connecting = asyncio.Lock()
        self._calls: set[asyncio.Future[Exception | None]] = set()
        self._lost = TransientError("not sent")  # why calls were cancelled

    def __repr__(self) -> str:
        return f"JetStreamSink({str(self._servers)!r}, subject={self._subject!r})"

    async def publish(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException] | None:
        """Publish a batch; return the error of each position that was not taken.

        Raises:
            TransientError: when there is no connection.
        """
        stream = await self._connected()
        calls = [asyncio.ensure_future(self._publish(stream, compacted)) for compacted in batch]
        self._calls.update(calls)
        try:
            await asyncio.gather(*calls, return_exceptions=True)
        finally:
            self._calls.difference_update(calls)
        errors = [self._lost if call.cancelled() else call.result() for call in calls]
        return {position: error for position, error in enumerate(errors) if error is not None} or None

    async def _publish(self, stream: JetStreamContext, compacted: Compacted) -> Exception | None:
        try:
            subject = self._subject if isinstance(self._subject, str) else self._subject(compacted)
            headers = {Header.MSG_ID.value: self._identity(compacted)}
            body = encoder.encode(self._to_json(compacted))
        except Exception as error:  # noqa: BLE001 - of one event; the others go on
            return PermanentError(f"cannot be made a message: {type(error).__name__}")
        try:
            await stream.publish(subject, body, headers=headers)
        except (MaxPayloadError, BadSubjectError, BadRequestError) as error:
            return PermanentError(str(error))
        except NoStreamResponseError:
            return TransientError("no stream stores this subject")
        except Error as error:
            return TransientError(str(getattr(error, "description", None) or error))
        return None

    def _fail(self, error: TransientError) -> None:
        self._lost = error
        for call in self._calls:  # what was on its way will not be answered
            call.cancel()

    async def _connected(self) -> JetStreamContext:
        async with self._connecting:
            if self._client is None or not self._client.is_connected:
                self._client = await self._servers.connect(self._fail)
            return self._client.jetstream(timeout=self._timeout)

    async def aclose(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
