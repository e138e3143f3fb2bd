"""NATS JetStream as a source and a sink (extra ``nats``)."""

from rxcompact.scale.jetstream.sink import JetStreamSink
from rxcompact.scale.jetstream.source import JetStreamSource

__all__ = ["JetStreamSink", "JetStreamSource"]
