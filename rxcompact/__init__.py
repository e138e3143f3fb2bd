"""Event compaction on RxPY: each distinct event once per time bucket, enriched, delivered in batches."""

from loguru import logger

from rxcompact import operators
from rxcompact.acks import Ack, Chunk
from rxcompact.enrichers.http import HttpEnricher
from rxcompact.events import Batch, Compacted, DeadLetter, Outcome, Published, Window
from rxcompact.fields import JsonKey, JsonTime
from rxcompact.observers import LogObserver
from rxcompact.orchestrator import Orchestrator, Report
from rxcompact.pipeline import Enricher, Pipeline, Reducer, Sink, Source
from rxcompact.signals import Account
from rxcompact.sinks.function import FunctionSink
from rxcompact.sinks.http import HttpSink
from rxcompact.sinks.ndjson import NdjsonSink
from rxcompact.sources.http import HttpSource
from rxcompact.sources.iterable import IterableSource
from rxcompact.sources.ndjson import NdjsonSource
from rxcompact.sources.observable import ObservableSource

# a library is silent until its user says `logger.enable("rxcompact")`
logger.disable("rxcompact")

__all__ = [
    "Account",
    "Ack",
    "Batch",
    "Chunk",
    "Compacted",
    "DeadLetter",
    "Enricher",
    "FunctionSink",
    "HttpEnricher",
    "HttpSink",
    "HttpSource",
    "IterableSource",
    "JsonKey",
    "JsonTime",
    "LogObserver",
    "NdjsonSink",
    "NdjsonSource",
    "ObservableSource",
    "Orchestrator",
    "Outcome",
    "Pipeline",
    "Published",
    "Reducer",
    "Report",
    "Sink",
    "Source",
    "Window",
    "operators",
]
