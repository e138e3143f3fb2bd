"""Where batches go."""

from rxcompact.sinks.function import FunctionSink
from rxcompact.sinks.http import HttpSink
from rxcompact.sinks.ndjson import NdjsonSink

__all__ = ["FunctionSink", "HttpSink", "NdjsonSink"]
