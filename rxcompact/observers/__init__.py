"""Passive listeners, and the statistics that they read.

An observer is a function of a signal, an RxPY Observer of signals, or an object with some of the methods ``on_signal``,
``on_window``, ``on_batch``, ``on_call``, ``on_outcome``, ``on_dead_letter``, ``on_state``, ``on_tick``, ``on_end``; any
of these may be a coroutine function, which is awaited beside the stream. The manual, telemetry, has an example, and
which item each gets. ``orchestrator.statistics.snapshot()`` gives the numbers that metrics, logs and displays show.
"""

from rxcompact.observers.histogram import Histogram
from rxcompact.observers.log import LogObserver, ReportObserver
from rxcompact.observers.metrics import OpenTelemetryObserver, PrometheusObserver
from rxcompact.observers.observables import Hub, Observables
from rxcompact.observers.progress import ProgressObserver
from rxcompact.observers.recorder import Recorder, Recording, record
from rxcompact.observers.statistics import Snapshot, Statistics
from rxcompact.observers.tracing import TracingObserver

__all__ = [
    "Histogram",
    "Hub",
    "LogObserver",
    "Observables",
    "OpenTelemetryObserver",
    "ProgressObserver",
    "PrometheusObserver",
    "Recorder",
    "Recording",
    "ReportObserver",
    "Snapshot",
    "Statistics",
    "TracingObserver",
    "record",
]
