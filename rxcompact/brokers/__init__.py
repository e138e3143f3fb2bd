"""Beyond one process: events from a broker, which keeps them until they are settled: see the manual, brokers."""

from rxcompact.brokers.source import BrokerSource
from rxcompact.brokers.unacked import UnackedMessages
from rxcompact.sinks.encoding import event_id

__all__ = ["BrokerSource", "UnackedMessages", "event_id"]
