"""Where batches go."""

from rxcompact.sinks.function import FunctionSink
from rxcompact.sinks.ndjson import NdjsonSink

__all__ = ["FunctionSink", "NdjsonSink"]
