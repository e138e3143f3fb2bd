"""NATS JetStream as a source (extra ``nats``)."""

from rxcompact.brokers.jetstream.source import JetStreamSource

__all__ = ["JetStreamSource"]
