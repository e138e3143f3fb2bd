"""Redis Streams as a source (extra ``redis``)."""

from rxcompact.scale.redis.source import RedisStreamSource

__all__ = ["RedisStreamSource"]
