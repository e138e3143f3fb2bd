"""NATS JetStream as a source and a sink (extra ``nats``)."""

from rxcompact.brokers.jetstream.sink import JetStreamSink
from rxcompact.brokers.jetstream.source import JetStreamSource

__all__ = ["JetStreamSink", "JetStreamSource"]
