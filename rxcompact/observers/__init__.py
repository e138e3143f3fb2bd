"""Passive listeners.

One's own is a function of a signal, an RxPY Observer of signals, or an object with some of the methods ``on_signal``,
``on_window``, ``on_outcome``, ``on_dead_letter``, ``on_state``::

    class Slowest:
        age = 0.0

        def on_outcome(self, outcome):
            self.age = max(self.age, outcome.age or 0.0)

For a display of one's own ``Vitals.of(orchestrator).snapshot()`` gives the numbers that dashboards show.
"""

from rxcompact.observers.attach import attach
from rxcompact.observers.counters import Counters
from rxcompact.observers.hub import Hub
from rxcompact.observers.latency import Latency
from rxcompact.observers.log import LogObserver
from rxcompact.observers.opentelemetry import OpenTelemetryObserver
from rxcompact.observers.progress import ProgressObserver
from rxcompact.observers.prometheus import PrometheusObserver
from rxcompact.observers.recorder import Recorder, Recording
from rxcompact.observers.vitals import Snapshot, Vitals

__all__ = [
    "Counters",
    "Hub",
    "Latency",
    "LogObserver",
    "OpenTelemetryObserver",
    "ProgressObserver",
    "PrometheusObserver",
    "Recorder",
    "Recording",
    "Snapshot",
    "Vitals",
    "attach",
]
