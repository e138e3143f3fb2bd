"""Publishes distinct events to a JetStream stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nats.errors import BadSubjectError, Error, MaxPayloadError
from nats.js import JetStreamContext
from nats.js.api import Header
from nats.js.errors import BadRequestError, NoStreamResponseError

from rxcompact.brokers import event_id
from rxcompact.brokers.jetstream.connection import Servers
from rxcompact.clock import Seconds, seconds
from rxcompact.errors import PermanentError, TransientError
from rxcompact.events import Compacted
from rxcompact.keys import encoder
from rxcompact.sinks.encoding import json_object


def message_id(compacted: Compacted) -> str:
    """Return the `event_id` of an event; a first event's has a mark, or the stream would drop its repeats."""
    return event_id(compacted) + ("-leading" if compacted.leading else "")


class JetStreamSink:
    """Publishes each event as a JSON message with a ``Nats-Msg-Id``: of two that are the same the stream drops one.

    The messages of a batch are sent one after the other, and acknowledged by the server meanwhile.

    Args:
        servers: URLs of NATS; credentials in them are shown nowhere.
        subject: Where to; or a function of a `Compacted`.
        to_json: Makes of a `Compacted` what is sent; by default all its fields.
        identity: Makes its id; by default `message_id`. The stream knows ids for its ``duplicate_window``.
        timeout: Seconds a batch may take to be acknowledged.
        options: Of `nats.connect`, such as ``user_credentials``, ``token`` or ``tls``.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        subject: str | Callable[[Compacted], str],
        to_json: Callable[[Compacted], Any] = json_object,
        identity: Callable[[Compacted], str] = message_id,
        timeout: Seconds = 10.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._servers = Servers(servers, options)
        self._subject = subject
        self._to_json = to_json
        self._identity = identity
        self._timeout = seconds("timeout", timeout)

    def __repr__(self) -> str:
        return f"JetStreamSink({str(self._servers)!r}, subject={self._subject!r})"

    async def publish(self, batch: Sequence[Compacted]) -> Mapping[int, BaseException] | None:
        """Publish a batch; return the error of each position that was not taken.

        Raises:
            TransientError: when there is no connection.
        """
        stream = (await self._servers.connect()).jetstream(timeout=self._timeout)
        published = (self._publish(stream, compacted) for compacted in batch)
        results = await asyncio.gather(*published, return_exceptions=True)
        return {position: error for position, error in enumerate(results) if error is not None} or None

    async def _publish(self, stream: JetStreamContext, compacted: Compacted) -> None:
        try:
            subject = self._subject if isinstance(self._subject, str) else self._subject(compacted)
            headers = {Header.MSG_ID.value: self._identity(compacted)}
            body = encoder.encode(self._to_json(compacted))
        except Exception as error:  # noqa: BLE001 - of one event; the others go on
            raise PermanentError(f"cannot be made a message: {type(error).__name__}") from None
        try:
            await stream.publish(subject, body, headers=headers)
        except (MaxPayloadError, BadSubjectError, BadRequestError) as error:
            raise PermanentError(str(error)) from error
        except NoStreamResponseError as error:
            raise TransientError("no stream stores this subject") from error
        except Error as error:
            raise TransientError(str(getattr(error, "description", None) or error)) from error

    async def aclose(self) -> None:
        """Disconnect."""
        await self._servers.close()
