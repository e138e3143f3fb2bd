"""Has aiokafka get over connections that are closed under uvloop (aiokafka #1038)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError

_send: Callable[..., Any] = AIOKafkaConnection.send


def _send_or_fail(connection: AIOKafkaConnection, *arguments: Any, **options: Any) -> Any:
    try:
        return _send(connection, *arguments, **options)
    except RuntimeError as error:  # which asyncio's transports do not raise
        connection.close()
        raise KafkaConnectionError(str(error)) from error


AIOKafkaConnection.send = _send_or_fail
