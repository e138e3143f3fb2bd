"""Redis Streams as a source (extra ``redis``)."""

from rxcompact.brokers.redis.source import RedisStreamSource

__all__ = ["RedisStreamSource"]
